"""
Soft targets: what the generator found likely at each place of its accepted answers, demonstrations in view.

Training on these probabilities teaches what the demonstrations changed, and not only the one string that was sampled:
context distillation (Snell et al. 2022, arXiv 2209.15189). They are recorded once the round's samples are accepted,
in committed steps, as raw little-endian arrays with an index beside them.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.context import Run, begin, end
from isara.errors import RunError
from isara.events import Event
from isara.prompts import from_messages
from isara.protocols import Prompt, Targets
from isara.rawfiles import stands
from isara.rundir import Journal, Snapshot, refuse_gap, remedy, snapshot
from isara.samples import Sample

FOLDER = "targets"
_STEP = 64
"""Samples between two commits."""


def record_targets(run: Run, number: int, generator: str, kept: Sequence[Sample]) -> Path | None:
    """
    Record the targets of a round's samples where they are not yet, and return their folder; None where none are wanted.

    An engine that tells no probabilities leaves the round to train on the sampled answers, and a sentence says so.
    """
    if run.settings.train.targets != "soft" or not kept:
        return None
    folder = run.folder / f"round-{number}"
    stage = f"targets-{number}"
    begin(run, stage)
    journal = Journal(folder / FOLDER)
    prompts: Mapping[str, Prompt] = {}
    started = time.monotonic()
    for start in range(0, len(kept), _STEP):
        step, samples = str(start // _STEP), kept[start : start + _STEP]
        if journal.done(step):
            continue
        prompts = prompts or prompts_of(folder)
        pairs = [(prompts[sample.id], sample.answer) for sample in samples]
        found = run.loaded(generator).distributions(pairs, run.settings.train.top_tokens)
        if found is None:
            run.say(
                f"Round {number}: {run.model.name} tells no probabilities of single tokens, so this round trains on "
                "the sampled answers. For soft targets, set model.engine='transformers'.",
                "warning",
            )
            end(run, stage, started, resumed=True)
            return None
        journal.commit(step, as_files(samples, found))
        run.watch(Event("progress", {"name": stage, "done": start + len(samples)}))
    end(run, stage, started, resumed=not prompts)
    return folder / FOLDER


def prompts_of(folder: Path) -> dict[str, Prompt]:
    """Return the prompt that each of a round's questions was answered after."""
    records = snapshot(folder).records("prompts.jsonl")
    return {r["id"]: from_messages(r["prompt"]) for r in records if r["stage"] == "answer"}


def as_files(samples: Sequence[Sample], found: Sequence[Targets]) -> dict[str, Sequence[Mapping[str, Any]] | bytes]:
    """Return targets as what a step appends to each file."""
    index = [
        {"id": sample.id, "tokens": list(one.tokens), "k": one.ids.shape[1]}
        for sample, one in zip(samples, found, strict=True)
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
