"""
Soft targets: what a round's teachers found likely at each place of an answer, demonstrations in view.

Training on these probabilities teaches what the demonstrations changed, and not only the one string that was sampled:
context distillation (Snell et al. 2022, arXiv 2209.15189). The mean of several teachers is a better teacher than each
of them (Hinton et al. 2015, arXiv 1503.02531). Targets are recorded once the round's samples are accepted, in committed
steps, as raw little-endian arrays with an index beside them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.context import Run, begin, end
from isara.errors import RunError
from isara.events import Event
from isara.heldout import bare_prompt
from isara.prompts import from_messages
from isara.protocols import Prompt, Targets
from isara.rawfiles import stands
from isara.rundir import Journal, Snapshot, refuse_gap, remedy, snapshot
from isara.samples import Sample

FOLDER = "targets"
_STEP = 64
"""Samples between two commits."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer to be taught, and what its teachers see before it."""

    id: str
    answer: str
    shown: Prompt
    """The question after demonstrations."""
    alone: Prompt
    """The question as a user asks it."""


def record_targets(run: Run, number: int, generator: str, kept: Sequence[Sample]) -> Path | None:
    """
    Record the targets of a round where they are not yet, and return their folder; None where none are wanted.

    An engine that tells no probabilities leaves the round to train on the sampled answers, and a sentence says so.
    """
    if run.settings.train.targets != "soft" or not kept:
        return None
    folder = run.folder / f"round-{number}"
    stage = f"targets-{number}"
    begin(run, stage)
    journal = Journal(folder / FOLDER)
    started = time.monotonic()
    lessons: Sequence[Lesson] = ()
    for start in range(0, len(kept), _STEP):
        step = str(start // _STEP)
        if journal.done(step):
            continue
        lessons = lessons or lessons_of(run, folder, kept)
        some = lessons[start : start + _STEP]
        found = told(run, generator, some)
        if found is None:
            run.say(
                f"Round {number}: {run.model.name} tells no probabilities of single tokens, so this round trains on "
                "the sampled answers. For soft targets, set model.engine='transformers'.",
                "warning",
            )
            end(run, stage, started, resumed=True)
            return None
        journal.commit(step, as_files([lesson.id for lesson in some], found))
        run.watch(Event("progress", {"name": stage, "done": start + len(some)}))
    end(run, stage, started, resumed=not lessons)
    return folder / FOLDER


def lessons_of(run: Run, folder: Path, kept: Sequence[Sample]) -> list[Lesson]:
    """Return what a round's teachers are asked: each answer after the prompt it was written for, and alone."""
    records = snapshot(folder).each("prompts.jsonl")
    prompts = {r["id"]: from_messages(r["prompt"]) for r in records if r["stage"] == "answer"}
    chat = run.model.chat
    return [Lesson(s.id, s.answer, prompts[s.id], bare_prompt(s.question, chat=chat)) for s in kept]


def told(run: Run, generator: str, lessons: Sequence[Lesson]) -> list[Targets] | None:
    """Return what the teachers found likely in each lesson; None where an engine tells no probabilities."""
    wanted = run.settings.train
    shown = [(lesson.shown, lesson.answer) for lesson in lessons]
    alone = [(lesson.alone, lesson.answer) for lesson in lessons]
    teachers = [(generator, shown)]
    if wanted.teacher == "mean":
        teachers += [(generator, alone), ("base", shown)]
    found = []
    for arm, pairs in teachers:
        likely = run.loaded(arm).distributions(pairs, wanted.top_tokens)
        if likely is None:
            return None
        found.append(likely)
    return [mean_of(several, wanted.top_tokens) for several in zip(*found, strict=True)]


def mean_of(several: Sequence[Targets], k: int) -> Targets:
    """
    Return the mean of what teachers found likely, the `k` likeliest tokens of it.

    One that reads the answer as other tokens than the first, as plain text and chat turns can, has no part in it.
    """
    same = [one for one in several if one.tokens == several[0].tokens]
    if len(same) == 1:
        return same[0]
    ids = np.concatenate([one.ids for one in same], axis=1)
    shares = np.concatenate([one.probabilities.astype(np.float64) for one in same], axis=1) / len(same)
    order = np.argsort(ids, axis=1, kind="stable")
    ids, shares = np.take_along_axis(ids, order, 1), np.take_along_axis(shares, order, 1)
    # Each token once, in the column of its rank among the row's tokens, with its shares added up.
    column = np.cumsum(np.diff(ids, axis=1, prepend=ids[:, :1]) != 0, axis=1)
    row = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
    summed, names = np.zeros(shares.shape), np.zeros_like(ids)
    np.add.at(summed, (row, column), shares)
    names[row, column] = ids
    best = np.argsort(-summed, axis=1, kind="stable")[:, :k]
    return Targets(
        same[0].tokens,
        np.take_along_axis(names, best, 1).astype(np.int32),
        np.take_along_axis(summed, best, 1).astype(np.float16),
    )


def as_files(names: Sequence[str], found: Sequence[Targets]) -> dict[str, Sequence[Mapping[str, Any]] | bytes]:
    """Return targets as what a step appends to each file."""
    index = [
        {"id": name, "tokens": list(one.tokens), "k": one.ids.shape[1]} for name, one in zip(names, found, strict=True)
    ]
    return {
        "index.jsonl": index,
        "ids.i32": b"".join(one.ids.astype("<i4").tobytes() for one in found),
        "probabilities.f16": b"".join(one.probabilities.astype("<f2").tobytes() for one in found),
    }


def targets_in(folder: Path) -> dict[str, Callable[[], Targets]]:
    """
    Return what reads the targets of each sample in a folder, by its id; raises RunError where the folder is damaged.

    The numbers stay on the disk until they are asked for: a training draws a few hundred samples of a pool that can
    have tens of thousands.
    """
    written = snapshot(folder)
    ids, probabilities = mapped(written, "ids.i32", "<i4"), mapped(written, "probabilities.f16", "<f2")
    found: dict[str, Callable[[], Targets]] = {}
    start = 0
    for record in written.each("index.jsonl"):
        tokens, k = array("i", record["tokens"]), record["k"]
        end = start + len(tokens) * k
        if end > len(ids) or end > len(probabilities):
            raise RunError(f"{folder / 'index.jsonl'}: says more than is recorded of {record['id']}. {remedy(folder)}")
        found[record["id"]] = partial(read_one, ids, probabilities, tokens, k, start)
        start = end
    return found


def read_one(
    ids: NDArray[np.int32], probabilities: NDArray[np.float16], tokens: Sequence[int], k: int, start: int
) -> Targets:
    """Return the targets that begin at `start` in the arrays of a round, as a copy in memory."""
    shape, end = (len(tokens), k), start + len(tokens) * k
    return Targets(
        tuple(tokens), np.array(ids[start:end]).reshape(shape), np.array(probabilities[start:end]).reshape(shape)
    )


def mapped(written: Snapshot, name: str, number_format: str) -> NDArray[Any]:
    """Return the numbers that the committed steps wrote to a file, left on the disk; raises RunError: some are gone."""
    path, length = written.folder / name, written.lengths.get(name, 0)
    refuse_gap(path, path.stat().st_size if stands(path) else 0, length)
    count = length // np.dtype(number_format).itemsize
    # An empty file cannot be mapped.
    return np.memmap(path, number_format, "r", shape=(count,)) if count else np.empty(0, number_format)
