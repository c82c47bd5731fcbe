"""
Soft targets: what a round's teachers found likely at each place of an answer, demonstrations in view.

Training on these probabilities teaches what the demonstrations changed, and not only the one string that was sampled:
context distillation (Snell et al. 2022, arXiv 2209.15189). The mean of several teachers is a better teacher than each
of them (Hinton et al. 2015, arXiv 1503.02531). What the generator found likely is noted while it writes, where its
engine can; the rest is asked for once the round's samples are accepted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isara.context import Run, begin, end
from isara.events import Event
from isara.heldout import bare_prompt
from isara.prompts import from_messages
from isara.protocols import Prompt, Targets
from isara.rundir import Journal, snapshot
from isara.samples import Sample
from isara.targetfiles import ALONE, WRITTEN, as_files, targets_in

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
    noted: Callable[[], Targets] | None = None
    """Reads what the generator found likely while it wrote the answer, where that was noted."""
    noted_alone: Callable[[], Targets] | None = None
    """The same without demonstrations, noted when the answer was scored."""


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
        journal.commit(step, as_files(zip((lesson.id for lesson in some), found, strict=True)))
        run.watch(Event("progress", {"name": stage, "done": start + len(some)}))
    end(run, stage, started, resumed=not lessons)
    return folder / FOLDER


def lessons_of(run: Run, folder: Path, kept: Sequence[Sample]) -> list[Lesson]:
    """Return what teachers are asked, in order: each answer after the prompt it was written for, and alone."""
    records = snapshot(folder).each("prompts.jsonl")
    prompts = {r["id"]: from_messages(r["prompt"]) for r in records if r["stage"] == "answer"}
    noted, alone = targets_in(folder, WRITTEN), targets_in(folder, ALONE)
    chat = run.model.chat
    lessons = [
        Lesson(s.id, s.answer, prompts[s.id], bare_prompt(s.question, chat=chat), noted.get(s.id), alone.get(s.id))
        for s in kept
    ]
    # What begins alike is asked for together, and read once.
    return sorted(lessons, key=lambda lesson: str(lesson.shown))


def told(run: Run, generator: str, lessons: Sequence[Lesson]) -> list[Targets] | None:
    """Return what the teachers found likely in each lesson; None where an engine tells no probabilities."""
    wanted = run.settings.train
    shown = [(lesson.shown, lesson.answer) for lesson in lessons]
    found = [by_generator(run, generator, shown, [lesson.noted for lesson in lessons])]
    if wanted.teacher == "mean":
        alone = [(lesson.alone, lesson.answer) for lesson in lessons]
        found.append(by_generator(run, generator, alone, [lesson.noted_alone for lesson in lessons]))
        found.append(run.loaded("base").distributions(shown, wanted.top_tokens))
    likely = [each for each in found if each is not None]
    if len(likely) < len(found):
        return None
    return [mean_of(several, wanted.top_tokens) for several in zip(*likely, strict=True)]


def by_generator(
    run: Run, generator: str, pairs: Sequence[tuple[Prompt, str]], noted: Sequence[Callable[[], Targets] | None]
) -> list[Targets] | None:
    """Return what the generator found likely after prompts: as noted, and asked for where it was not."""
    k = run.settings.train.top_tokens
    found = [read() if read else None for read in noted]
    wanting = [i for i, one in enumerate(found) if one is None or one.ids.shape[1] < k]
    if wanting:
        asked = run.loaded(generator).distributions([pairs[i] for i in wanting], k)
        if asked is None:
            return None
        for i, targets in zip(wanting, asked, strict=True):
            found[i] = targets
    return [targets for targets in found if targets is not None]


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
