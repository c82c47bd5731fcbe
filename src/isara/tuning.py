"""Tuning an arm: which examples, how many steps, which weights to start from, and a record of it all."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from isara.context import Run, begin, end
from isara.errors import BackendError, InputError
from isara.events import Event
from isara.heldout import as_examples
from isara.prompts import as_messages
from isara.protocols import Example, Step, Targets, Trained
from isara.retrieve import request_seed
from isara.rundir import write_json, write_jsonl
from isara.samples import Sample


def train_arm(
    run: Run,
    arm: str,
    generated: Sequence[Sample],
    targets: Mapping[str, Targets] = MappingProxyType({}),
    start: Path | None = None,
) -> None:
    """Tune on the seeds and what was generated; does nothing where that is done."""
    folder = run.folder / arm
    steps = steps_for(run)
    stage = f"train-{arm}"
    begin(run, stage)
    done = (folder / "training.json").exists() and any((folder / "adapter").glob("*"))
    if not (done and (folder / "train.jsonl").exists()):
        examples, dropped = training_set(run, generated, targets)
        write_jsonl(folder / "train.jsonl", [trl_record(example) for example in examples])
    if done:
        end(run, stage, 0.0, resumed=True)
        return
    started = time.monotonic()

    def watch(step: Step) -> None:
        run.watch(Event("progress", {"name": stage, "done": step.number}))

    trained = run.trainer.train(
        examples,
        as_examples(run.heldout, chat=run.model.chat),
        steps=steps,
        start=start,
        out=folder / "adapter",
        seed=request_seed(run.settings.seed, "train", arm),
        watch=watch,
    )
    refuse_divergence(arm, trained)
    seeds = sum(example.id.startswith("seed") for example in examples)
    write_json(
        folder / "training.json",
        {
            "steps": trained.steps,
            "best_step": trained.best_step,
            "start": None if start is None else str(start.relative_to(run.folder)),
            "examples": len(examples),
            "seeds": seeds,
            "generated": len(examples) - seeds,
            "soft": sum(example.targets is not None for example in examples),
            "dropped_overlong": dropped,
            "curve": [
                {"step": s.number, "loss": s.loss, "heldout": list(s.heldout) if s.heldout else None}
                for s in trained.curve
            ],
        },
    )
    end(run, stage, started)


def refuse_divergence(arm: str, trained: Trained) -> None:
    """Raise BackendError where a loss of a training is no finite number."""
    for step in trained.curve:
        if not all(map(math.isfinite, (step.loss, *(step.heldout or ())))):
            raise BackendError(
                f"{arm}: the training lost its way at step {step.number} of {step.of} (a loss is no finite number). "
                "Lower train.learning_rate, or set model.dtype='float32'."
            )


def training_set(
    run: Run, generated: Sequence[Sample], targets: Mapping[str, Targets]
) -> tuple[list[Example], list[str]]:
    """Return the examples of a training with their weights, and the ids of those too long for it."""
    share = run.settings.train.seed_share
    chat = run.model.chat
    if not generated:
        examples = as_examples(run.seeds, chat=chat)
    else:
        # A weight says how often an example is drawn; each part gets its share whatever its size.
        seeds = as_examples(run.seeds, chat=chat, weight=share / len(run.seeds))
        written = as_examples(generated, chat=chat, weight=(1 - share) / len(generated))
        examples = [*seeds, *(replace(example, targets=targets.get(example.id)) for example in written)]
    lengths = run.trainer.lengths(examples)
    long = {e.id for e, length in zip(examples, lengths, strict=True) if length > run.settings.train.max_tokens}
    return [e for e in examples if e.id not in long and e.weight > 0], sorted(long)


def check_overlong(run: Run, samples: Sequence[Sample]) -> None:
    """Raise InputError where a seed is too long to train on, unless the settings say to drop such samples."""
    limit = run.settings.train.max_tokens
    lengths = run.trainer.lengths(as_examples(samples, chat=run.model.chat))
    long = [sample.id for sample, length in zip(samples, lengths, strict=True) if length > limit]
    if long and run.settings.train.overlong == "refuse":
        raise InputError(
            f"{len(long)} of {len(samples)} seeds are longer than train.max_tokens={limit} (longest: {max(lengths)}; "
            f"first: {long[0]}). Raise train.max_tokens, or set train.overlong='drop'."
        )
    if long:
        run.say(f"{len(long)} seeds are longer than train.max_tokens={limit} and are not trained on.", "warning")


def trl_record(example: Example) -> dict[str, Any]:
    """Return a training example in TRL's prompt/completion shape."""
    prompt = as_messages(example.prompt)
    completion: Any = example.completion
    if not isinstance(prompt, str):
        completion = [{"role": "assistant", "content": example.completion}]
    return {"id": example.id, "prompt": prompt, "completion": completion, "weight": example.weight}


def steps_for(run: Run) -> int:
    """Return the optimiser steps of every training of a run."""
    return max(1, math.ceil(run.settings.train.epochs * len(run.seeds) / run.settings.train.batch))
