"""
The loop: retrieve, write questions, answer them, filter, tune, judge, and again with the better model.

After ISARA (arXiv 2401.06785). `docs/paper.md` maps each step to the paper and marks where we depart from it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isara import diversity
from isara.errors import GenerationError, InputError
from isara.events import Event, Watch
from isara.filter import FUNNEL, Neighbours, Sieve
from isara.generate import Draft, Drafted
from isara.heldout import Judge, as_examples, mean_nll, write_scores
from isara.prompts import as_messages
from isara.protocols import Embedder, Example, Model, Step, Trainer, Vectors
from isara.retrieve import Pool, request_seed
from isara.rundir import Events, Journal, write_bytes, write_json, write_jsonl
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


def embedded(embedder: Embedder, samples: Sequence[Sample]) -> Vectors:
    """Return the vectors of samples' questions, rounded as they are stored, so that a replay decides the same."""
    return embedder.embed([sample.question for sample in samples]).astype("<f2").astype(np.float32)


def run_loop(run: Run) -> None:
    """Do all that is not done yet: baselines, then rounds until they stop helping."""
    run.watch(Event("plan", {"stages": plan(run)}))
    if any((run.folder / arm / "done.json").exists() for arm in ("base", "seeds-only")):
        run.watch(Event("resumed", {"text": f"Going on with {run.folder}: what is complete there is kept."}))
    write_jsonl(run.folder / "seeds.jsonl", [sample.to_json() for sample in run.seeds])
    write_jsonl(run.folder / "heldout.jsonl", [sample.to_json() for sample in run.heldout])
    write_jsonl(run.folder / "test.jsonl", [sample.to_json() for sample in run.test])
    vectors = [run.pool.vectors, run.heldout_vectors, *([run.test_vectors] if run.test else [])]
    write_bytes(run.folder / "samples.f16", np.concatenate(vectors).astype("<f2").tobytes())
    check_overlong(run, run.seeds)
    judge_arm(run, "base")
    judge_arm(run, "retrieved")
    train_arm(run, "seeds-only", [])
    judge_arm(run, "seeds-only")
    rounds(run)


def rounds(run: Run) -> None:
    """Run rounds until the last allowed one, or until `gate.patience` of them in a row did not help."""
    pool, kept_arms, failures = run.pool, ["seeds-only"], 0
    accepted: list[Sample] = []
    for number in range(1, run.settings.rounds + 1):
        arm = f"round-{number}"
        generator = choose_generator(run, kept_arms)
        drafted = draft(run, number, generator, pool)
        before = best_so_far(run, kept_arms)
        train_arm(run, arm, [*accepted, *drafted.kept], start=best_tuned(run, kept_arms))
        judge_arm(run, arm, finish=False)
        kept, why = gate(run, arm, before)
        if kept:
            pool = pool.grown(drafted.kept, drafted.vectors)
            accepted += drafted.kept
            kept_arms.append(arm)
        failures = 0 if kept else failures + 1
        finish_round(run, number, generator, drafted, pool, kept=kept, why=why)
        if failures >= run.settings.gate.patience and number < run.settings.rounds:
            run.say(f"Stopped after round {number}: {failures} in a row did not help.")
            skip_after(run, number)
            return


def choose_generator(run: Run, kept_arms: Sequence[str]) -> str:
    """
    Return the arm that writes the next round.

    What a round can teach is what demonstrations add, so the best generator is the model that finds held-out answers
    likeliest with demonstrations in view. A distilled model can be better without them and worse with them.
    """
    if run.settings.gate.generator == "latest":
        return kept_arms[-1]
    return min(kept_arms, key=lambda arm: mean_nll(run.folder / arm, "shown_nll"))


def best_so_far(run: Run, kept_arms: Sequence[str]) -> str:
    """Return the arm with the lowest mean held-out NLL among the untouched model and the tuned ones kept."""
    return min(["base", *kept_arms], key=lambda arm: mean_nll(run.folder / arm))


def best_tuned(run: Run, kept_arms: Sequence[str]) -> Path | None:
    """Return the weights a round's training starts from."""
    if run.settings.train.start == "base":
        return None
    return run.adapter(min(kept_arms, key=lambda arm: mean_nll(run.folder / arm)))


def gate(run: Run, arm: str, before: str) -> tuple[bool, str]:
    """Decide whether a round is kept, and say why in a sentence."""
    now, then = mean_nll(run.folder / arm), mean_nll(run.folder / before)
    gain = then - now
    kept = gain > run.settings.gate.min_gain
    name = {"base": "the untouched model", "seeds-only": "tuning on the seeds alone"}.get(before, before)
    verb = "lowers" if gain > 0 else "raises" if gain < 0 else "does not change"
    why = f"{arm} {verb} the held-out NLL per token of {name} ({then:.3f}) to {now:.3f}"
    return kept, why + (": kept." if kept else ": not kept.")


def draft(run: Run, number: int, generator: str, pool: Pool) -> Drafted:
    """Draft the samples of a round, or read them where they are on disk."""
    stage = f"draft-{number}"
    target = run.settings.target.accepted
    begin(run, stage)
    known = Neighbours(pool.samples, pool.vectors)
    judges = [run.heldout_vectors, *([run.test_vectors] if run.test else [])]
    heldout = Neighbours([*run.heldout, *run.test], np.concatenate(judges))
    loaded: list[Model] = []

    def load() -> Model:
        if not loaded:
            loaded.append(run.loaded(generator))
        return loaded[0]

    started = time.monotonic()
    drafted = Draft(
        number,
        journal=Journal(run.folder / f"round-{number}"),
        load=load,
        chat=run.model.chat,
        embedder=run.embedder,
        pool=pool,
        sieve=Sieve(run.settings.filter, known, heldout),
        settings=run.settings,
        watch=run.watch,
    ).run()
    end(run, stage, started, resumed=not loaded)
    if not drafted.kept:
        raise GenerationError(
            f"Round {number}: none of {drafted.drafted} candidates was accepted "
            f"(dropped by: {', '.join(f'{rule} {count}' for rule, count in drafted.funnel.items())}). "
            f"See {run.folder / f'round-{number}' / 'dropped.jsonl'}; loosen the rule that dropped most."
        )
    if drafted.ended == "budget":
        run.say(
            f"Round {number}: {len(drafted.kept)} of {target} samples accepted when the budget of "
            f"{drafted.drafted} candidates ended; going on with those.",
            "warning",
        )
    return drafted


def train_arm(run: Run, arm: str, generated: Sequence[Sample], start: Path | None = None) -> None:
    """Tune on the seeds and what was generated; does nothing where that is done."""
    folder = run.folder / arm
    examples, dropped = training_set(run, generated)
    steps = steps_for(run)
    stage = f"train-{arm}"
    begin(run, stage)
    if (folder / "training.json").exists() and (folder / "adapter").exists():
        end(run, stage, 0.0, resumed=True)
        return
    write_jsonl(folder / "train.jsonl", [trl_record(example) for example in examples])
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
            "dropped_overlong": dropped,
            "curve": [
                {"step": s.number, "loss": s.loss, "heldout": list(s.heldout) if s.heldout else None}
                for s in trained.curve
            ],
        },
    )
    end(run, stage, started)


def training_set(run: Run, generated: Sequence[Sample]) -> tuple[list[Example], list[str]]:
    """Return the examples of a training with their weights, and the ids of those too long for it."""
    share = run.settings.train.seed_share
    chat = run.model.chat
    if not generated:
        examples = as_examples(run.seeds, chat=chat)
    else:
        # A weight says how often an example is drawn; each part gets its share whatever its size.
        seeds = as_examples(run.seeds, chat=chat, weight=share / len(run.seeds))
        examples = [*seeds, *as_examples(generated, chat=chat, weight=(1 - share) / len(generated))]
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


def judge_arm(run: Run, arm: str, *, finish: bool = True) -> None:
    """Score the held-out samples, and the test samples where given, under an arm; does nothing where that is done."""
    folder = run.folder / arm
    stage = f"score-{arm}"
    begin(run, stage)
    started = time.monotonic()
    retrieved = arm == "retrieved"
    model: Model | None = None
    if not (folder / "answers.jsonl").exists():
        model = run.loaded(arm)
        write_scores(folder, run.judge, model, (run.heldout, run.heldout_vectors), retrieved=retrieved)
    if run.test and not (folder / "test.jsonl").exists():
        model = model or run.loaded(arm)
        scores = run.judge.score(model, run.test, run.test_vectors, retrieved=retrieved, both=False)
        write_jsonl(folder / "test.jsonl", scores)
    end(run, stage, started, resumed=model is None)
    if finish and not (folder / "done.json").exists():
        write_json(folder / "done.json", {"arm": arm})


def finish_round(run: Run, number: int, generator: str, drafted: Drafted, pool: Pool, *, kept: bool, why: str) -> None:
    """Write what a round came to; its completion marker last."""
    folder = run.folder / f"round-{number}"
    if (folder / "done.json").exists():
        return
    target = run.settings.target
    write_json(
        folder / "round.json",
        {
            "round": number,
            "generator": generator,
            "target": target.accepted,
            "accepted": len(drafted.kept),
            "drafted": drafted.drafted,
            "budget": int(target.accepted * target.budget),
            "ended": drafted.ended,
            "reason": ended_because(drafted, target.accepted),
            "parse_rate": drafted.parse_rate,
            "adapted": drafted.adapted,
            "funnel": funnel(drafted),
            "diversity": dict(diversity.measure(drafted.kept, drafted.vectors, run.seeds, run.pool.vectors)),
            "kept": kept,
            "why": why,
            "pool": len(pool),
        },
    )
    run.say(why)
    write_json(folder / "done.json", {"arm": f"round-{number}"})


def ended_because(drafted: Drafted, target: int) -> str:
    """Say why a round stopped drafting."""
    if drafted.ended == "target":
        return f"{target} samples were accepted."
    return f"The budget of {drafted.drafted} candidates ended with {len(drafted.kept)} of {target} samples accepted."


def funnel(drafted: Drafted) -> list[dict[str, Any]]:
    """Return what each rule dropped and what was left after it, in the order in which rules run."""
    left, rows = drafted.drafted, []
    for rule in FUNNEL:
        count = drafted.funnel.get(rule, 0)
        left -= count
        rows.append({"rule": rule, "dropped": count, "left": left})
    return rows


def plan(run: Run) -> list[dict[str, Any]]:
    """
    Return the stages of a run for the progress line.

    The priors are seconds per unit of a 135M model on two cores; what is measured on the way replaces them.
    """
    tokens = sum(run.trainer.lengths(as_examples(run.seeds, chat=run.model.chat))) / max(1, len(run.seeds))
    step = run.settings.train.batch * tokens / 330
    sample = 0.0012 * tokens * (run.settings.answers.demonstrations + 4)
    judged = len(run.heldout) + 0.4 * len(run.test)
    stages = []

    def add(name: str, label: str, kind: str, units: float, prior: float) -> None:
        stages.append({"name": name, "label": label, "kind": kind, "units": units, "prior": prior})

    def arm(name: str, label: str, *, tuned: bool = True) -> None:
        if tuned:
            add(f"train-{name}", f"tuning, {label}", "train", steps_for(run), step)
        add(f"score-{name}", f"scoring, {label}", "score", judged, 0.02 * tokens * 0.6)

    arm("base", "untouched model", tuned=False)
    arm("retrieved", "with demonstrations", tuned=False)
    arm("seeds-only", "seeds alone")
    for number in range(1, run.settings.rounds + 1):
        add(f"draft-{number}", f"round {number}, drafting", "draft", run.settings.target.accepted, sample)
        arm(f"round-{number}", f"round {number}")
    return stages


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
        for stage in (f"draft-{later}", f"train-round-{later}", f"score-round-{later}"):
            run.watch(Event("revise", {"name": stage, "units": 0}))
