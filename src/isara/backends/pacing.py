"""Many requests at once, as many as the server gains by: more while it answers faster, half when it pushes back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SHARE = 0.4
"""Growing goes on while the rate of answers grows by this share of what the limit grew by."""
_STEP = 8
"""Outside the start, the limit grows by an eighth: less would be lost in the noise of a window."""
_REST = 8
"""Windows of answers for which a limit that could not be bettered is kept, before a larger one is tried again."""


class Pace:
    """
    How many requests to keep under way.

    Additive increase, multiplicative decrease (Chiu and Jain 1989), after a doubling start as in TCP. A window is as
    many answers as the limit allows requests, counted only while all places are taken.
    """

    def __init__(self, most: int, start: int = 4) -> None:
        self.most = most
        self.limit = min(start, most)
        self.doubling = True
        self.best_rate, self.best_limit = 0.0, self.limit
        self.rest = 0
        self.count, self.since = 0, 0.0
        self.calm = 0
        """Answers to come before another halving: one burst of refusals is one piece of news."""

    def begin(self, now: float) -> None:
        """Start a window; called when requests start to flow again."""
        self.count, self.since = 0, now

    def answered(self, now: float, *, full: bool) -> None:
        """Take an answer in; `full` says that another request waited for its place."""
        self.calm = max(0, self.calm - 1)
        if not full:
            self.begin(now)
            return
        self.count += 1
        if self.count < self.limit:
            return
        rate = self.count / max(now - self.since, 1e-9)
        self.begin(now)
        self._judge(rate)

    def _judge(self, rate: float) -> None:
        """Grow where the last window was faster than any before, else go back to the best limit and rest there."""
        if self.rest:
            self.rest -= 1
            if not self.rest:
                # Times change: what was best then is measured anew.
                self.best_rate, self.best_limit = rate, self.limit
                self._grow()
            return
        if rate > self.best_rate * (1 + _SHARE * (self.limit / self.best_limit - 1)):
            self.best_rate, self.best_limit = rate, self.limit
            self._grow()
            return
        self.limit, self.doubling, self.rest = self.best_limit, False, _REST

    def _grow(self) -> None:
        step = self.limit if self.doubling else max(1, self.limit // _STEP)
        self.limit = min(self.most, self.limit + step)

    def pressed(self, now: float) -> None:
        """Take in that the server pushed back: too many requests, no room, no answer in time."""
        if self.calm:
            return
        self.limit = max(1, self.limit // 2)
        self.calm, self.doubling, self.rest = self.limit, False, 0
        self.best_rate, self.best_limit = 0.0, self.limit
        self.begin(now)


@dataclass(frozen=True, slots=True)
class Call:
    """What a piece of work is given: whether to stop, and whom to tell that the server pushed back."""

    halt: threading.Event
    pressed: Callable[[], None]


_Queue = queue.SimpleQueue[tuple[int | None, Any, BaseException | None]]
"""Which piece of work ended, what it returned, and what it raised instead; None for which: the server pushed back."""


class _Told:
    """Tells the outcome of a piece of work, whatever it is: one kept back would leave the caller waiting."""

    def __init__(self, told: _Queue, i: int) -> None:
        self.told, self.i, self.result = told, i, None

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self.told.put((self.i, self.result, error))
        return True


def gather(count: int, work: Callable[[int, Call], Any], pace: Pace, clock: Callable[[], float]) -> list[Any]:
    """
    Return what `work` returns for 0 to count - 1, in order, with at most `pace.limit` of them under way.

    The first error ends it all. Threads are daemons and the waits between tries end at once, so that neither an error
    nor a signal has to wait for a server that does not answer.
    """
    told: _Queue = queue.SimpleQueue()
    halt = threading.Event()
    call = Call(halt, lambda: told.put((None, None, None)))

    def one(i: int) -> None:
        with _Told(told, i) as outcome:
            outcome.result = work(i, call)

    results: list[Any] = [None] * count
    started = done = 0
    pace.begin(clock())
    try:
        while done < count:
            while started < count and started - done < pace.limit:
                threading.Thread(target=one, args=(started,), daemon=True, name=f"isara-request-{started}").start()
                started += 1
            i, result, error = told.get()
            if i is None:
                pace.pressed(clock())
                continue
            if error is not None:
                raise error
            results[i] = result
            done += 1
            pace.answered(clock(), full=started < count)
    finally:
        halt.set()
    return results
