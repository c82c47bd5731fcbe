"""The stages of a run, with what each is expected to cost, for the progress line."""

from __future__ import annotations

from typing import Any

from isara.context import Run
from isara.heldout import as_examples
from isara.rates import rates_of
from isara.tuning import steps_for


def plan(run: Run) -> list[dict[str, Any]]:
    """
    Return the stages of a run for the progress line.

    The priors are seconds per unit of a 135M model on two cores; what is measured on the way replaces them.
    """
    tokens = sum(run.trainer.lengths(as_examples(run.seeds, chat=run.model.chat))) / max(1, len(run.seeds))
    step = 0.5 + run.settings.train.batch * tokens / 400
    sample = 0.0014 * tokens * (run.settings.answers.demonstrations + 4)
    judged = len(run.heldout) + 0.4 * len(run.test)
    stages = []

    def add(name: str, label: str, kind: str, units: float, prior: float) -> None:
        stages.append({"name": name, "label": label, "kind": kind, "units": units, "prior": prior})

    def arm(name: str, label: str, *, tuned: bool = True) -> None:
        if tuned:
            trials = len(rates_of(run.settings.train)) if name == "seeds-only" else 1
            add(f"train-{name}", f"tuning, {label}", "train", trials * steps_for(run, name), step)
        add(f"score-{name}", f"scoring, {label}", "score", judged, 0.02 * tokens * 0.6)

    arm("base", "untouched model", tuned=False)
    arm("retrieved", "with demonstrations", tuned=False)
    arm("seeds-only", "seeds alone")
    for number in range(1, run.settings.rounds + 1):
        add(f"draft-{number}", f"round {number}, drafting", "draft", run.settings.target.accepted, sample)
        if run.settings.train.targets == "soft":
            label = f"round {number}, probabilities"
            prior = {"generator": 0.05, "mean": 0.4}[run.settings.train.teacher] * sample
            add(f"targets-{number}", label, "targets", run.settings.target.accepted, prior)
        arm(f"round-{number}", f"round {number}")
    return stages
