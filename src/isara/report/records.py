"""What the files of a run directory hold, as far as the report reads them (docs/run-directory.md)."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """One object of a run's files; fields that the report does not know are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Pair(Record):
    """A seed, held-out or test sample."""

    id: str
    question: str
    answer: str
    round: int = 0


class Kept(Pair):
    """A generated sample that was accepted."""

    parents: tuple[str, ...] = ()
    question_parents: tuple[str, ...] = ()
    answer_parents: tuple[str, ...] = ()
    scores: dict[str, float | None] = {}


class Dropped(Record):
    """A candidate that was not accepted, and why."""

    id: str
    question: str | None = None
    answer: str | None = None
    round: int = 0
    parents: tuple[str, ...] = ()
    question_parents: tuple[str, ...] = ()
    answer_parents: tuple[str, ...] = ()
    rule: str
    reason: str = ""
    score: float | None = None
    threshold: float | None = None
    nearest: str | None = None
    scores: dict[str, float | None] = {}


class ItemScore(Record):
    """How likely an arm finds one reference answer."""

    id: str
    nll: float
    shown_nll: float | None = None


class ItemAnswer(Record):
    """What an arm answered to one held-out question."""

    id: str
    question: str
    reference: str
    answer: str
    finished: bool = True


class CurvePoint(Record):
    """One optimiser step of a training."""

    step: int
    loss: float | None = None
    heldout: tuple[float, ...] | None = None


class OtherTraining(Record):
    """A training at a learning rate that was not taken."""

    learning_rate: float
    steps: int
    best_step: int
    lost: int | None = None
    curve: tuple[CurvePoint, ...] = ()


class Training(Record):
    """How an arm was tuned."""

    steps: int
    best_step: int
    planned: int | None = None
    start: str | None = None
    averaged: tuple[str, ...] = ()
    learning_rate: float | None = None
    tried: tuple[OtherTraining, ...] = ()
    examples: int | None = None
    seeds: int | None = None
    generated: int | None = None
    dropped_overlong: tuple[str, ...] = ()
    curve: tuple[CurvePoint, ...] = ()

    @property
    def still_learning(self) -> bool:
        """Whether the last of three checks or more, after the last planned step, was the best."""
        checks = [fmean(point.heldout) for point in self.curve if point.heldout]
        complete = self.planned is None or self.steps >= self.planned
        return complete and len(checks) > 2 and bool(self.curve[-1].heldout) and checks[-1] == min(checks)


class FunnelStep(Record):
    """How many candidates one rule left and dropped."""

    rule: str
    left: int
    dropped: int


class RoundFacts(Record):
    """The outcome of a round."""

    round: int
    generator: str = ""
    target: int | None = None
    accepted: int | None = None
    drafted: int | None = None
    budget: int | None = None
    ended: str = ""
    reason: str = ""
    parse_rate: dict[str, float | None] = {}
    adapted: tuple[str, ...] = ()
    funnel: tuple[FunnelStep, ...] = ()
    diversity: dict[str, Any] | None = None
    kept: bool | None = None
    why: str | None = None
    pool: int | None = None


class Done(Record):
    """What an arm leaves when it is complete."""

    seconds: dict[str, float] = {}


class Committed(Record):
    """How much of a round's files belongs to finished steps."""

    step: int | str | None = None
    lengths: dict[str, int] = {}


class InputFile(Record):
    """A file that the run was given."""

    path: str | None = None
    sha256: str | None = None
    samples: int | None = None


class Manifest(Record):
    """What was asked, of what, with what."""

    isara: str = ""
    python: str = ""
    platform: Any = ""
    packages: dict[str, Any] = {}
    created: str | None = None
    command: tuple[str, ...] = ()
    name: str = ""
    settings: dict[str, Any] = {}
    model: dict[str, Any] = {}
    embedder: dict[str, Any] = {}
    inputs: dict[str, InputFile | None] = {}
    seed: int | None = None


class ArmMean(Record):
    """The mean score of an arm with its interval, NLL per token in nats."""

    arm: str
    label: str = ""
    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()


class Difference(Record):
    """How much lower the NLL of `arm` is than that of `against`, sample by sample."""

    arm: str
    against: str
    n: int
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest_effect: float | None = None
    words: str = ""


class Evidence(Record):
    """The scores of every arm on one set of samples."""

    n: int
    source: str = ""
    arms: tuple[ArmMean, ...] = ()
    differences: tuple[Difference, ...] = ()


class Generated(Record):
    """How many candidates a run drafted and accepted."""

    candidates: int
    accepted: int


class Seconds(Record):
    """How long a run took."""

    total: float | None = None
    by_stage: dict[str, float] = {}


class Summary(Record):
    """Scores, differences and the verdict of a run."""

    name: str = ""
    status: str = "complete"
    model: str = ""
    embedder: str = ""
    isara: str = ""
    best: str | None = None
    adapter: str | None = None
    stopped: str | None = None
    verdict: tuple[str, ...] = ()
    heldout: Evidence
    test: Evidence | None = None
    rounds: tuple[RoundFacts, ...] = ()
    generated: Generated | None = None
    seconds: Seconds | None = None
