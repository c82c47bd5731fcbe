"""
Soft targets: what the generator found likely at each place of its accepted answers, demonstrations in view.

Training on these probabilities teaches what the demonstrations changed, and not only the one string that was sampled:
context distillation (Snell et al. 2022, arXiv 2209.15189). They are recorded once the round's samples are accepted,
in committed steps, as raw little-endian arrays with an index beside them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isara.context import Run, begin, end
from isara.events import Event
from isara.prompts import from_messages
from isara.protocols import Prompt, Targets
from isara.rundir import Journal, snapshot
from isara.samples import Sample

FOLDER = "targets"
_STEP = 64
"""Samples between two commits."""


def soft_targets(run: Run, number: int, generator: str, kept: Sequence[Sample]) -> dict[str, Targets]:
    """
    Return the targets of a round's samples by id, recorded where they are not yet; nothing where they are not wanted.

    An engine that tells no probabilities leaves the round to train on the sampled answers, and a sentence says so.
    """
    if run.settings.train.targets != "soft" or not kept:
        return {}
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
            return {}
        journal.commit(step, as_files(samples, found))
        run.watch(Event("progress", {"name": stage, "done": start + len(samples)}))
    end(run, stage, started, resumed=not prompts)
    return read_targets(folder / FOLDER)


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


def read_targets(folder: Path) -> dict[str, Targets]:
    """Return the targets in a folder by the id of their sample; raises RunError where it is damaged."""
    written = snapshot(folder)
    ids = np.frombuffer(written.content("ids.i32"), dtype="<i4")
    probabilities = np.frombuffer(written.content("probabilities.f16"), dtype="<f2")
    targets, start = {}, 0
    for record in written.records("index.jsonl"):
        shape = (len(record["tokens"]), record["k"])
        end = start + shape[0] * shape[1]
        targets[record["id"]] = Targets(
            tuple(record["tokens"]), ids[start:end].reshape(shape), probabilities[start:end].reshape(shape)
        )
        start = end
    return targets
