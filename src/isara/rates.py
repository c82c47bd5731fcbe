"""Which learning rate a run has: the seeds are tuned with two, and what comes after has the better one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara.protocols import Step, Trained
from isara.rundir import read_json, write_json
from isara.settings import TrainSettings

Tune = Callable[[float, Path, int], Trained]
"""Tunes with a peak learning rate into a folder, so many steps having been taken before."""

_TRIALS, _RECORD, _WEIGHTS = "rates", "training.json", "adapter"


@dataclass(frozen=True, slots=True)
class Trial:
    """A training with one of the rates."""

    rate: float
    trained: Trained
    weights: Path

    @property
    def lost(self) -> int | None:
        """The step at which it lost its way, a loss being no finite number; None where it did not."""
        losses = ((step.number, (step.loss, *(step.heldout or ()))) for step in self.trained.curve)
        return next((number for number, some in losses if not all(map(math.isfinite, some))), None)

    @property
    def nll(self) -> float:
        """Mean held-out NLL per token of the weights that it left; infinite where it lost its way."""
        left = next((s.heldout for s in self.trained.curve if s.number == self.trained.best_step), None)
        return math.fsum(left) / len(left) if left and self.lost is None else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return what `training.json` says of it where its weights were not taken."""
        trained, lost = self.trained, self.lost
        own = {"learning_rate": self.rate, "steps": trained.steps, "best_step": trained.best_step, "lost": lost}
        return own | {"curve": curve_to_json(trained.curve[: lost and lost - 1])}


def tries_another(train: TrainSettings) -> bool:
    """Whether the seeds are tuned with another rate than the usual one as well."""
    return train.other_rate != 1


def rates_of(train: TrainSettings) -> tuple[float, ...]:
    """Return the peak learning rates that the seeds are tuned with, the usual one first."""
    usual = train.learning_rate
    return (usual, usual * train.other_rate) if tries_another(train) else (usual,)


def rate_of(folder: Path, train: TrainSettings) -> float:
    """Return the peak learning rate of a round's training, in a run whose seeds are tuned."""
    if not tries_another(train):
        return train.learning_rate
    return float(read_json(folder / "seeds-only" / "training.json")["learning_rate"])


def tried(folder: Path, rates: Sequence[float], tune: Tune) -> list[Trial]:
    """
    Tune with each rate in a folder of its own below `folder`, and return all, that with the likeliest held-out first.

    What is there of an earlier call is taken over. Of equals the first of the rates comes first.
    """
    trials: list[Trial] = []
    for number, rate in enumerate(rates, start=1):
        place = folder / _TRIALS / str(number)
        record, weights = place / _RECORD, place / _WEIGHTS
        there = record.exists()
        before = sum(trial.trained.steps for trial in trials)
        trials.append(Trial(rate, trained_in(read_json(record)) if there else tune(rate, weights, before), weights))
        # One that lost its way would be tuned again after a crash: JSON has no number for its losses.
        if not there and trials[-1].lost is None:
            write_json(record, trials[-1].to_json())
    return sorted(trials, key=lambda trial: trial.nll)


def take(best: Trial, to: Path) -> None:
    """Put the weights of a trial in their place, where they are not there already."""
    if best.weights != to and best.weights.exists():
        shutil.rmtree(to, ignore_errors=True)
        best.weights.replace(to)


def forget(folder: Path) -> None:
    """Remove what trials left below a folder; `training.json` has what they came to."""
    shutil.rmtree(folder / _TRIALS, ignore_errors=True)


def curve_to_json(curve: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the steps of a training as they are recorded."""
    return [{"step": s.number, "loss": s.loss, "heldout": list(s.heldout) if s.heldout else None} for s in curve]


def trained_in(record: Mapping[str, Any]) -> Trained:
    """Return a training as it was recorded."""
    steps = record["steps"]
    curve = [Step(s["step"], steps, s["loss"], tuple(s["heldout"]) if s["heldout"] else None) for s in record["curve"]]
    return Trained(steps, record["best_step"], tuple(curve))
