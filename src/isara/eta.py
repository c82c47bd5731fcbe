"""How long is left: a plan of stages, first priced by what each unit ought to take, then by what it took.

Stages of one kind (training, writing questions, answering) cost the same per unit, so a finished one prices the
others of its kind. Kinds never met so far are priced by their prior times how much slower than its priors this
machine has been, and that ratio counts for little until there is evidence for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

EVIDENCE = 0.02
"""Share of the plan after which the speed of this machine, as measured, counts half."""
BLEND = 0.05
"""Share of a stage after which its own measured rate counts half."""
OVERTIME = 0.1
"""A stage that has used up its estimate is expected to take this share of its time once more."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A piece of work that comes in units of one size."""

    name: str
    kind: str
    """Stages of one kind take the same time per unit."""
    units: float
    prior: float
    """Seconds per unit, as expected before anything is measured."""

    def __post_init__(self) -> None:
        _checked(self.name, self.units)
        _checked(self.name, self.prior)


@dataclass(slots=True)
class _Progress:
    """Where a stage stands; `seconds` were measured on the units from `start` to `done`."""

    stage: Stage
    units: float
    start: float = 0.0
    done: float = 0.0
    seconds: float = 0.0
    begun: bool = False
    finished: bool = False

    @property
    def measured(self) -> float:
        """Units whose time was measured; a billionth of one is none, so that no rate overflows."""
        units = self.done - self.start
        return units if units > 1e-9 else 0.0


class Plan:
    """The stages of a run, and how far it has come.

    Only differences between readings of `clock` count, and one that goes backwards counts as no time at all.
    """

    def __init__(self, stages: Iterable[Stage] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self._active: _Progress | None = None
        self._shown = 0.0
        self._all: dict[str, _Progress] = {}
        for stage in stages:
            self.add(stage)

    def add(self, stage: Stage) -> None:
        """Put one more stage at the end of the plan; one of the same name is left as it is."""
        if stage.name not in self._all:
            self._all[stage.name] = _Progress(stage, stage.units)

    def begin(self, name: str, done: float = 0.0) -> None:
        """Start a stage, or turn back to it; `done` units of it need no work, as after resuming."""
        self._settle(self._active)
        self._active = progress = self._all[name]
        progress.begun, progress.finished = True, False
        seen_elsewhere = max(0.0, _checked(name, done) - progress.done)
        progress.start += seen_elsewhere
        progress.done += seen_elsewhere
        progress.units = max(progress.units, progress.done)

    def progress(self, name: str, done: float) -> None:
        """Say how many units of a stage are done in all; the time since the last word was spent on them."""
        self._active = progress = self._all[name]
        self._settle(progress)
        progress.begun = True
        progress.done = max(progress.done, _checked(name, done))
        progress.units = max(progress.units, progress.done)

    def finish(self, name: str) -> None:
        """End a stage with all its units done (`revise` it first where there were fewer); unbegun, it took no time."""
        progress = self._all[name]
        self._settle(progress if progress.begun else self._active)
        if not progress.begun:
            progress.start = progress.units
        progress.done, progress.finished = progress.units, True
        if self._active is progress:
            self._active = None

    def revise(self, name: str, units: float) -> None:
        """Change how many units a stage has; 0 skips it."""
        progress = self._all[name]
        progress.units = max(_checked(name, units), progress.done)

    def seconds(self, name: str) -> float:
        """Return the seconds spent in a stage so far."""
        progress = self._all[name]
        return progress.seconds + (self._pending() if progress is self._active else 0.0)

    def fraction(self) -> float:
        """Return the share of the whole run that is done, from 0 to 1; it never falls."""
        remaining = self.remaining()
        if remaining is None:
            return self._shown
        speed = self._speed()
        before = sum(min(each.start, each.units) * self._rate(each, speed) for each in self._stages())
        spent = before + sum(each.seconds for each in self._stages()) + self._pending()
        share = spent / (spent + remaining) if remaining > 0 else 1.0
        self._shown = max(self._shown, min(1.0, share))
        return self._shown

    def remaining(self) -> float | None:
        """Return the seconds left, or None where nothing is known of the work ahead."""
        speed, left = self._speed(), 0.0
        for each in self._stages():
            rest = 0.0 if each.finished else (each.units - each.done) * self._rate(each, speed)
            if each is self._active and each.units > each.done:
                pending = self._pending()
                rest = max(rest - pending, OVERTIME * pending)
            left += rest
        known = any(each.stage.prior > 0 or each.measured > 0 or each.units == 0 for each in self._stages())
        return left if known else None

    def _stages(self) -> tuple[_Progress, ...]:
        return tuple(self._all.values())

    def _pending(self) -> float:
        """Return the seconds since the last word of the stage under way."""
        return max(0.0, self._clock() - self._last) if self._active else 0.0

    def _settle(self, owner: _Progress | None) -> None:
        """Count the time since the last word to one stage, or to none."""
        now = self._clock()
        if owner is not None:
            owner.seconds += max(0.0, now - self._last)
        self._last = now

    def _rate(self, each: _Progress, speed: float) -> float:
        """Return the seconds a unit of this stage is expected to take."""
        alike = [other for other in self._stages() if other.stage.kind == each.stage.kind and other.measured > 0]
        ended = [other for other in alike if other.finished and other is not each]
        if ended:
            base = sum(other.seconds for other in ended) / sum(other.measured for other in ended)
        else:
            base = each.stage.prior * speed
        own = [each] if each.measured > 0 else [] if ended else alike
        measured, seconds = sum(other.measured for other in own), sum(other.seconds for other in own)
        weight = BLEND * sum(other.units for other in own)
        return (seconds + weight * base) / (measured + weight) if measured > 0 else base

    def _speed(self) -> float:
        """Return how much slower than its priors this machine is, drawn to 1 while there is little evidence."""
        known = [each for each in self._stages() if each.stage.prior > 0]
        total = sum(each.stage.prior * each.units for each in known)
        expected = sum(each.stage.prior * each.measured for each in known)
        actual = sum(each.seconds for each in known if each.measured > 0)
        speed = _drawn_to_one(actual, expected, total)
        active, pending = self._active, self._pending()
        if active is not None:
            rest = active.stage.prior * (active.units - active.done)
            # a stage that has run over its estimate tells something, though none of its units may be done
            if pending > rest * speed:
                speed = _drawn_to_one(actual + pending, expected + rest, total)
        return speed


def _drawn_to_one(actual: float, expected: float, total: float) -> float:
    if actual <= 0 or expected <= 0:
        return 1.0
    return math.exp(math.log(actual / expected) * expected / (expected + EVIDENCE * total))


def _checked(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"stage {name}: expected a number of at least 0, found {value}")
    return value
