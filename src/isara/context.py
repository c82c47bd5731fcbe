"""What the steps of one run share, and what they tell while they work."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isara.events import Event, Watch
from isara.heldout import Judge
from isara.protocols import Embedder, Model, Trainer, Vectors
from isara.retrieve import Pool
from isara.rundir import Events
from isara.samples import Sample
from isara.settings import Settings


@dataclass
class Run:
    """Everything that the steps of one run share."""

    folder: Path
    settings: Settings
    model: Model
    embedder: Embedder
    trainer: Trainer
    seeds: Sequence[Sample]
    heldout: Sequence[Sample]
    test: Sequence[Sample]
    watch: Watch
    force: bool = False
    """Whether arms may be computed again that turn out to be stale."""
    pool: Pool = field(init=False)
    heldout_vectors: Vectors = field(init=False)
    test_vectors: Vectors = field(init=False)
    judge: Judge = field(init=False)
    events: Events = field(init=False)

    def __post_init__(self) -> None:
        """Embed what every step needs embedded."""
        self.events = Events(self.folder / "events.jsonl")
        self.pool = Pool(self.seeds, embedded(self.embedder, self.seeds))
        self.heldout_vectors = embedded(self.embedder, self.heldout)
        self.test_vectors = embedded(self.embedder, self.test)
        self.judge = Judge(self.pool, self.settings.answers, chat=self.model.chat)

    def say(self, text: str, level: str = "info") -> None:
        """Tell the reader something, and log it."""
        self.events.add("say", text=text, level=level)
        self.watch(Event("say", {"text": text, "level": level}))

    def adapter(self, arm: str) -> Path | None:
        """Return where an arm's weights are; None for the untouched model."""
        return None if arm in {"base", "retrieved"} else self.folder / arm / "adapter"

    def loaded(self, arm: str) -> Model:
        """Return the model of an arm."""
        return self.model.with_adapter(self.adapter(arm))


@contextmanager
def warnings_told(run: Run) -> Iterator[None]:
    """Pass on to the reader, and to the event log, what a backend warns of while it works."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            run.say(record.getMessage(), "warning")

    logger, teller = logging.getLogger("isara"), Teller(logging.WARNING)
    passes_on, logger.propagate = logger.propagate, False
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.propagate = passes_on


def embedded(embedder: Embedder, samples: Sequence[Sample]) -> Vectors:
    """Return the vectors of samples' questions, rounded as they are stored, so that a replay decides the same."""
    return embedder.embed([sample.question for sample in samples]).astype("<f2").astype(np.float32)


def begin(run: Run, stage: str) -> None:
    """Tell that a stage begins."""
    run.watch(Event("stage", {"name": stage}))


def end(run: Run, stage: str, started: float, *, resumed: bool = False) -> None:
    """Tell that a stage is complete, and log how long it took where it did its work now."""
    if resumed:
        # Work found done took no time; counting it would make all that is to come look free.
        run.watch(Event("revise", {"name": stage, "units": 0}))
    else:
        run.events.add("stage", name=stage, seconds=round(time.monotonic() - started, 2))
    run.watch(Event("finish", {"name": stage}))


def skip_after(run: Run, number: int) -> None:
    """Take the stages of rounds that will not run out of the plan."""
    for later in range(number + 1, run.settings.rounds + 1):
        for stage in (f"draft-{later}", f"targets-{later}", f"train-round-{later}", f"score-round-{later}"):
            run.watch(Event("revise", {"name": stage, "units": 0}))
