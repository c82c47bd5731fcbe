"""What a round drafted, and what it finds of that on the disk when it goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.filter import QUESTION_RULES, Candidate
from isara.prompts import parse_answer
from isara.protocols import Completion, Likelihood, Vectors
from isara.rundir import Journal
from isara.samples import Sample
from isara.settings import TargetSettings
from isara.targetfiles import WRITTEN, Files, as_files

_USUAL = 0.75
"""Share of a round's candidates that are kept, before one has been judged: somewhat more than usual."""


@dataclass
class Drafted:
    """What a round accepted, and what it took."""

    kept: list[Sample]
    vectors: NDArray[np.float16]
    """Those of the questions, rounded as they are stored."""
    funnel: dict[str, int]
    drafted: int
    ended: str
    parse_rate: dict[str, float | None]
    adapted: list[str]


@dataclass(frozen=True, slots=True)
class Decided:
    """A batch whose candidates were all kept or dropped."""

    parsed: int
    """How many questions could be read."""
    answered: int
    """How many answers could be read."""
    passed: Sequence[Candidate]
    """Those whose question passed, in their order: later questions are compared with them. Without their answers."""
    kept: Sequence[Sample]
    vectors: Sequence[NDArray[np.float32]]
    """Those of the questions of what was kept."""
    rules: Sequence[str]
    """The rule that dropped each of the others."""


def wanted(target: TargetSettings, drafted: int, kept: int) -> int:
    """
    Return how many candidates come next: about as many as are still needed, by what was kept so far; 0 ends a round.

    What prompts of one batch begin with in common is read once, so that a few large batches are faster than many
    small ones; but what is drafted beyond the target is dropped.
    """
    missing = target.accepted - kept
    left = min(target.batch, int(target.accepted * target.budget) - drafted)
    if missing <= 0 or left <= 0:
        return 0
    if not drafted:
        return min(left, math.ceil(missing / _USUAL))
    if not kept:
        return left
    likely = missing * drafted / kept
    # A few more, about a standard deviation: to ask once more for the last ones takes longer.
    return min(left, math.ceil(likely + math.sqrt(likely)))


def decided(journal: Journal, batch: int, number: int) -> Decided:
    """Return a batch of round `number` as it was decided; nothing is judged again."""
    step = f"{batch}/decided"
    kept, dropped = journal.records(step, "kept.jsonl"), journal.records(step, "dropped.jsonl")
    parsed = sorted((r for r in (*kept, *dropped) if r["question"] is not None), key=lambda r: place_of(r["id"]))
    rows = dict(zip((r["id"] for r in parsed), stored_vectors(journal, batch, len(parsed)), strict=True))
    passed = [r for r in parsed if r.get("rule") not in QUESTION_RULES]
    return Decided(
        parsed=len(parsed),
        answered=sum(record["answer"] is not None for record in passed),
        passed=[Candidate(r["id"], number, r["question"], vector=rows[r["id"]]) for r in passed],
        kept=[Sample.from_json(record) for record in kept],
        vectors=[rows[record["id"]] for record in kept],
        rules=[record["rule"] for record in dropped],
    )


def stored_vectors(journal: Journal, batch: int, count: int) -> Vectors:
    """Return the embeddings on disk of a batch's `count` parsed questions."""
    content = journal.content(f"{batch}/embeddings", "embeddings.f16")
    rows = np.frombuffer(content, dtype="<f2").astype(np.float32)
    return rows.reshape(count, -1) if count else rows.reshape(0, 1)


def place_of(name: str) -> int:
    """Return which candidate of its round an id names, from 1 on."""
    return int(name.rpartition("-")[2])


def likelihood_of(record: Mapping[str, Any]) -> Likelihood | None:
    """Return the likelihood noted with a completion, where there is one."""
    total = record["log_likelihood"]
    return None if total is None else Likelihood(total, record["likelihood_tokens"])


def noted(candidates: Sequence[Candidate], completions: Sequence[Completion]) -> Files:
    """Return what was found likely while answers were written, where the whole text is the answer, as files."""
    pairs = zip(candidates, completions, strict=True)
    return as_files([(c.id, d.targets) for c, d in pairs if d.targets is not None and is_whole(d)], WRITTEN)


def is_whole(completion: Completion) -> bool:
    """Whether the whole text is the answer, but for space around it, so that what was noted of it counts."""
    return parse_answer(completion.text) == completion.text.strip()
