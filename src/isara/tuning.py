"""Tuning an arm: which examples, how many steps, which weights to start from, and a record of it all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isara.context import Run, begin, end
from isara.errors import BackendError, InputError, RunError
from isara.events import Event
from isara.heldout import as_examples
from isara.passages import as_replay, read_passages, sha256_of_text
from isara.prompts import as_messages
from isara.protocols import Example, Targets, Trained
from isara.rates import Trial, curve_to_json, forget, rate_of, rates_of, take, tried, tries_another
from isara.retrieve import request_seed
from isara.rundir import read_json, write_json, write_jsonl
from isara.samples import Sample
from isara.targetfiles import targets_in

ADAPTER, OWN = "adapter", "own"
"""The folders of an arm's weights, and of those of its own training where the former are a mean."""
_FROM_TUNED = 0.5
"""Steps of a round that starts from tuned weights, as a share of those that tuned them: more gained nothing."""


def train_arm(
    run: Run,
    arm: str,
    generated: Sequence[Sample],
    targets: Sequence[Path] = (),
    start: Path | None = None,
    beside: Sequence[str] = (),
) -> None:
    """
    Tune on the seeds and what was generated, with the targets in some folders; does nothing where that is done.

    The arm's weights are the mean of those of this training and of the arms `beside`.
    """
    folder = run.folder / arm
    own = folder / (OWN if beside else ADAPTER)
    replayed = replayed_text(run)
    steps = steps_for(run, arm)
    stage = f"train-{arm}"
    begin(run, stage)
    done = (folder / "training.json").exists() and any(own.glob("*"))
    if not (done and (folder / "train.jsonl").exists()):
        taught = {} if done else {name: read for place in targets for name, read in targets_in(place).items()}
        examples, dropped = training_set(run, generated, taught)
        write_jsonl(folder / "train.jsonl", [trl_record(example) for example in examples])
    if done:
        refuse_other_text(folder, replayed)
        forget(folder)
        average(run, arm, beside)
        end(run, stage, 0.0, resumed=True)
        return
    started = time.monotonic()
    trained, at = tuned(run, arm, examples, start, own)
    origin = {"start": None if start is None else str(start.relative_to(run.folder)), "averaged": list(beside)}
    text = {"replayed_sha256": replayed, "dropped_overlong": dropped}
    write_json(folder / "training.json", origin | {"planned": steps} | at | account(trained, examples) | text)
    forget(folder)
    average(run, arm, beside)
    end(run, stage, started)


def tuned(
    run: Run, arm: str, examples: Sequence[Example], start: Path | None, out: Path
) -> tuple[Trained, dict[str, Any]]:
    """
    Tune an arm into the folder `out`: the seeds alone with each of the run's learning rates, a round with the better.

    Returns the training whose weights are there, and what `training.json` says of its learning rate.
    """
    stage, steps, wanted = f"train-{arm}", steps_for(run, arm), run.settings.train
    heldout = as_examples(run.heldout, chat=run.model.chat)

    def tune(rate: float, place: Path, before: int = 0) -> Trained:
        return run.trainer.train(
            examples,
            heldout,
            steps=steps,
            start=start,
            out=place,
            seed=request_seed(run.settings.seed, "train", arm),
            watch=lambda step: run.watch(Event("progress", {"name": stage, "done": before + step.number})),
            # Without a choice a trainer has its usual one.
            learning_rate=rate if tries_another(wanted) else None,
        )

    rates = rates_of(wanted) if arm == "seeds-only" else (rate_of(run.folder, wanted),)
    trials = tried(out.parent, rates, tune) if len(rates) > 1 else [Trial(rates[0], tune(rates[0], out), out)]
    best, others = trials[0], trials[1:]
    refuse_divergence(arm, best)
    take(best, out)
    taken = sum(trial.trained.steps for trial in trials)
    if taken < steps * len(rates):
        run.watch(Event("revise", {"name": stage, "units": taken}))
    if others:
        run.say(
            f"Of two learning rates {best.rate:g} makes the held-out samples likeliest (NLL per token "
            f"{best.nll:.3f}; {', '.join(f'{t.nll:.3f} at {t.rate:g}' for t in others)}): rounds have it too."
        )
    return best.trained, {"learning_rate": best.rate, "tried": [trial.to_json() for trial in others]}


def account(trained: Trained, examples: Sequence[Example]) -> dict[str, Any]:
    """Return what `training.json` says of a training: its steps, its examples by kind, its curve."""
    seeds, passages = (sum(e.id.startswith(part) for e in examples) for part in ("seed", "replay-"))
    return {
        "steps": trained.steps,
        "best_step": trained.best_step,
        "examples": len(examples),
        "seeds": seeds,
        "generated": len(examples) - seeds - passages,
        "replayed": passages,
        "soft": sum(example.targets is not None for example in examples),
        "curve": curve_to_json(trained.curve),
    }


def average(run: Run, arm: str, beside: Sequence[str]) -> None:
    """Leave the mean of the weights of an arm's own training and of the arms beside it, where it is not there yet."""
    if beside and not any((run.folder / arm / ADAPTER).glob("*")):
        trained = [own_weights(run.folder / name) for name in (*beside, arm)]
        run.trainer.average(trained, run.folder / arm / ADAPTER)


def own_weights(folder: Path) -> Path:
    """Return what an arm's own training left: beside the mean where there is one, else in its place."""
    return folder / OWN if (folder / OWN).exists() else folder / ADAPTER


def refuse_other_text(folder: Path, replayed: str | None) -> None:
    """Raise RunError where a finished training mixed in another text than the settings name now."""
    if read_json(folder / "training.json").get("replayed_sha256") != replayed:
        raise RunError(
            f"{folder}: trained with another text than train.replay_text has now. Put that back, or give another --out."
        )


def refuse_divergence(arm: str, best: Trial) -> None:
    """Raise BackendError where a loss of a training is no finite number."""
    if best.lost is not None:
        raise BackendError(
            f"{arm}: the training lost its way at step {best.lost} of {best.trained.curve[0].of} (a loss is no finite "
            "number). Lower train.learning_rate, or set model.dtype='float32'."
        )


def training_set(
    run: Run, generated: Sequence[Sample], targets: Mapping[str, Callable[[], Targets]]
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
    examples = with_replay(run, examples)
    lengths = run.trainer.lengths(examples)
    long = {e.id for e, length in zip(examples, lengths, strict=True) if length > run.settings.train.max_tokens}
    return [e for e in examples if e.id not in long and e.weight > 0], sorted(long)


def with_replay(run: Run, examples: Sequence[Example]) -> list[Example]:
    """Return training examples with the share of text from outside the domain that the settings ask for."""
    wanted = run.settings.train
    if replayed_text(run) is None:
        return list(examples)
    texts = read_passages(wanted.replay_text)
    whole = " ".join(" ".join(texts).split())
    judged = next((s for s in (*run.heldout, *run.test) if " ".join(s.question.split()) in whole), None)
    if judged is not None:
        raise InputError(f"{wanted.replay_text}: has the question of {judged.id}, which judges. Take another text.")
    total = sum(example.weight for example in examples)
    kept = [replace(example, weight=example.weight / total * (1 - wanted.replay)) for example in examples]
    return [*kept, *as_replay(texts, wanted.replay)]


def replayed_text(run: Run) -> str | None:
    """Return the hash of the text that is mixed into training; None where none is."""
    wanted = run.settings.train
    if wanted.replay and not wanted.replay_text:
        raise InputError("train.replay_text is missing: it names the plain text that train.replay draws from.")
    return sha256_of_text(wanted.replay_text) if wanted.replay else None


def check_overlong(run: Run, samples: Sequence[Sample]) -> None:
    """Raise InputError where a seed is too long to train on, unless the settings say to drop such samples."""
    limit = run.settings.train.max_tokens
    examples = as_examples(samples, chat=run.model.chat)
    with_replay(run, examples)  # for what it says of an unusable text, before anything is computed
    lengths = run.trainer.lengths(examples)
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


def steps_for(run: Run, arm: str) -> int:
    """Return the optimiser steps of an arm's training: as many in each round, whatever it accepted."""
    chosen = run.settings.train
    steps = max(1, math.ceil(chosen.epochs * len(run.seeds) / chosen.batch))
    if arm == "seeds-only":
        return steps
    usual = 1.0 if chosen.start == "base" else _FROM_TUNED
    return max(1, math.ceil(steps * (usual if chosen.round_steps is None else chosen.round_steps)))
