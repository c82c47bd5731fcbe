"""
The loop: retrieve, write questions, answer them, filter, tune, judge, and again with the better model.

After ISARA (arXiv 2401.06785). `docs/paper.md` maps each step to the paper and marks where we depart from it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isara import diversity
from isara.context import Run, begin, end, skip_after
from isara.distil import record_targets
from isara.drafted import Drafted
from isara.errors import GenerationError
from isara.events import Event
from isara.filter import FUNNEL, Sieve
from isara.gate import decide, goes_on, stopped
from isara.generate import Draft
from isara.heldout import likeliest, nlls, write_scores
from isara.neighbours import Neighbours
from isara.plan import plan
from isara.protocols import Model
from isara.retrieve import Pool
from isara.rundir import Journal, write_bytes, write_json, write_jsonl
from isara.samples import Sample
from isara.seal import finish_arm, retire, seal
from isara.tuning import check_overlong, train_arm


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
    seal(run.folder, complete=False)
    check_overlong(run, run.seeds)
    judge_arm(run, "base")
    judge_arm(run, "retrieved")
    train_arm(run, "seeds-only", [])
    judge_arm(run, "seeds-only")
    rounds(run)


def rounds(run: Run) -> None:
    """Run rounds until the last allowed one, or until `gate.patience` of them in a row were not kept."""
    pool, kept_arms, failures = run.pool, ["seeds-only"], 0
    accepted: list[Sample] = []
    taught: list[Path] = []
    for number in range(1, run.settings.rounds + 1):
        arm = f"round-{number}"
        generator = choose_generator(run, kept_arms)
        drafted = draft(run, number, generator, pool)
        before = best_so_far(run, kept_arms)
        recorded = record_targets(run, number, generator, drafted.kept)
        targets = [*taught, *([recorded] if recorded else [])]
        beside = kept_arms[1:] if run.settings.train.average else ()
        train_arm(run, arm, [*accepted, *drafted.kept], targets, start=start_of(run, kept_arms), beside=beside)
        judge_arm(run, arm, finish=False)
        scores = (nlls(run.folder / before), nlls(run.folder / arm))
        kept, why = decide(*scores, (before, arm), run.settings.gate)
        if goes_on(kept, run.settings.gate):
            if run.settings.gate.pool == "grown":
                pool = pool.grown(drafted.kept, drafted.vectors)
            accepted += drafted.kept
            taught = targets
            kept_arms.append(arm)
        failures = 0 if kept else failures + 1
        finish_round(run, number, generator, drafted, pool, kept=kept, why=why)
        if failures >= run.settings.gate.patience and number < run.settings.rounds:
            run.say(stopped(number, failures))
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
    return likeliest(run.folder, kept_arms, "shown_nll")


def best_so_far(run: Run, kept_arms: Sequence[str]) -> str:
    """Return the arm with the lowest mean held-out NLL among the untouched model and the tuned ones kept."""
    return likeliest(run.folder, ["base", *kept_arms])


def start_of(run: Run, kept_arms: Sequence[str]) -> Path | None:
    """Return the weights a round's training starts from; None for the untouched model's."""
    if run.settings.train.start == "base":
        return None
    if run.settings.train.start == "seeds":
        return run.adapter("seeds-only")
    return run.adapter(likeliest(run.folder, kept_arms))


def draft(run: Run, number: int, generator: str, pool: Pool) -> Drafted:
    """Draft the samples of a round, or read them where they are on disk."""
    stage = f"draft-{number}"
    target = run.settings.target.accepted
    begin(run, stage)
    limits = run.settings.filter
    known = Neighbours(pool.samples, pool.store, floor=limits.rouge)
    judges = [run.heldout_vectors, *([run.test_vectors] if run.test else [])]
    heldout = Neighbours([*run.heldout, *run.test], np.concatenate(judges), floor=limits.heldout_rouge)
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
        write=(lambda: run.model) if run.settings.questions.writer == "base" else None,
        chat=run.model.chat,
        embedder=run.embedder,
        pool=pool,
        sieve=Sieve(run.settings.filter, known, heldout, [seed.answer for seed in run.seeds], target),
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


def judge_arm(run: Run, arm: str, *, finish: bool = True) -> None:
    """Score the held-out samples, and the test samples where given, under an arm; does nothing where that is done."""
    folder = run.folder / arm
    stage = f"score-{arm}"
    begin(run, stage)
    started = time.monotonic()
    retrieved, tuned = arm == "retrieved", arm not in ("base", "retrieved")
    model: Model | None = None
    if not all((folder / name).exists() for name in ("heldout.jsonl", "answers.jsonl")):
        model = run.loaded(arm)
        write_scores(folder, run.judge, model, (run.heldout, run.heldout_vectors), retrieved=retrieved, tuned=tuned)
    if run.test and not (folder / "test.jsonl").exists():
        model = model or run.loaded(arm)
        scores = run.judge.score(model, run.test, run.test_vectors, retrieved=retrieved, both=False)
        write_jsonl(folder / "test.jsonl", scores)
    end(run, stage, started, resumed=model is None)
    if finish and not (model is None and (folder / "done.json").exists()):
        conclude(run, arm)


def conclude(run: Run, arm: str) -> None:
    """Mark an arm as complete; where it replaces one that later arms were computed from, see that it is the same."""
    finish_arm(run.folder, arm)
    for sentence in retire(run.folder, arm, force=run.force):
        run.say(sentence, "warning")


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
    conclude(run, f"round-{number}")


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
