"""What a study shows: each arm's scores, what they cost, its difference to one arm, and whether budgets are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isara import stats
from isara.rundir import read_json, records_in, snapshot
from isara.spent import costs
from isara.study import BEST, Study

Scores = Sequence[Sequence[float]]
"""A row for each random seed, in it the score of each item; lower is better."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an arm is to be found, for one random seed."""

    arm: str
    seed: int
    run: str
    """The run's folder, within that of the study."""
    result: str
    """The arm of that run; or `BEST`, which the run itself says."""


def tally(study: Study, out: Path, places: Sequence[Place]) -> dict[str, Any]:
    """Return what `comparison.json` is to hold."""
    file = judging_file(out)
    found = {(place.arm, place.seed): outcome(out, place, file) for place in places}
    seeds = study.chosen.random_seeds
    scores = {arm.name: [found[arm.name, seed][1] for seed in seeds] for arm in study.arms}
    confidence = study.arms[0].settings.gate.confidence
    arms = []
    for arm in study.arms:
        rows = scores[arm.name]
        runs = [found[arm.name, seed][0] for seed in seeds]
        arms.append(
            {
                "arm": arm.name,
                "label": arm.label,
                "kind": arm.kind,
                "changes": list(arm.changes),
                "mean": means_of(rows)["mean"],
                **beside((arm.name, rows), (study.chosen.against, scores[study.chosen.against]), confidence),
                "runs": runs,
            }
        )
    return {
        "study": study.path.stem,
        "about": study.chosen.about,
        "against": study.chosen.against,
        "judged_by": "test" if file == "test.jsonl" else "heldout",
        "items": len(next(iter(scores.values()))[0]),
        "random_seeds": list(seeds),
        "accepted": study.chosen.accepted,
        "confidence": confidence,
        "model": study.arms[0].settings.model.name,
        "arms": arms,
        "pairs": pairs(study, scores, confidence),
        "curve": [point for place in places for point in curve(out, place, file)],
        "unequal": unequal(arms, study),
    }


def judging_file(out: Path) -> str:
    """Return the name of the samples by which the arms are compared: the test's, or the held-out ones without any."""
    return "test.jsonl" if (out / "data" / "test.jsonl").exists() else "heldout.jsonl"


def beside(one: tuple[str, Scores], other: tuple[str, Scores], confidence: float) -> dict[str, Any]:
    """Return how the first of two named arms differs from the second, above zero where it is better, and in words."""
    difference = stats.crossed(other[1], one[1], confidence=confidence)
    return {"difference": asdict(difference), "words": words(one[0], other[0], difference)}


def pairs(study: Study, scores: Mapping[str, Scores], confidence: float) -> list[dict[str, Any]]:
    """Return each arm that changes a single choice of another beside that other, where both have scores."""
    return [
        {"arm": arm.name, "beside": arm.beside}
        | beside((arm.name, scores[arm.name]), (arm.beside, scores[arm.beside]), confidence)
        for arm in study.arms
        if arm.beside and arm.name in scores and arm.beside in scores
    ]


def means_of(rows: Scores, sign: float = 1.0) -> dict[str, Any]:
    """Return the mean of an arm's scores, of all and by random seed, with the sign given back that they came with."""
    means = [sign * sum(row) / len(row) + 0.0 for row in rows]  # never -0.0
    return {"mean": round(sum(means) / len(means), 6), "by_seed": [round(mean, 6) for mean in means]}


def steps_of(training: Mapping[str, Any]) -> int:
    """Return the steps of a training, those at learning rates that were not taken included."""
    return int(training["steps"]) + sum(int(trial["steps"]) for trial in training.get("tried", []))


def outcome(out: Path, place: Place, file: str) -> tuple[dict[str, Any], list[float]]:
    """Return what an arm came to with one random seed and what it cost, and its score of each item."""
    run = out / place.run
    result = arm_at(out, place)
    values = [float(record["nll"]) for record in records_in(run / result / file)]
    trained = result not in ("base", "retrieved")
    rounds = rounds_of(run, place.result)
    training = read_json(run / result / "training.json") if trained else {}
    trainings = [f"round-{n}" for n in rounds] + (["seeds-only"] if trained or rounds else [])
    took = {f"{stage}-{n}" for n in rounds for stage in ("draft", "targets")} | {f"train-{arm}" for arm in trainings}
    cost = costs(run)
    facts = {
        "seed": place.seed,
        "run": place.run,
        "result": result,
        "mean": round(sum(values) / len(values), 6),
        "accepted": training.get("generated", 0),
        "ratio": round(training.get("generated", 0) / len(records_in(run / "seeds.jsonl")), 3),
        "steps": training.get("planned", 0),
        "taken": training.get("steps", 0),
        "best_step": training.get("best_step", 0),
        "start": training.get("start"),
        "steps_in_all": sum(steps_of(read_json(run / arm / "training.json")) for arm in trainings),
        "drafted": sum(read_json(run / f"round-{n}" / "round.json")["drafted"] for n in rounds),
        "tokens": sum(written(run / f"round-{n}") for n in rounds),
        "seconds": round(sum(cost.get(stage, 0.0) for stage in took), 1),
    }
    return facts, values


def arm_at(out: Path, place: Place) -> str:
    """Return the arm of a run that an arm of the study is."""
    return str(read_json(out / place.run / "summary.json")["best"]) if place.result == BEST else place.result


def rounds_of(run: Path, result: str) -> range:
    """Return the rounds that an arm is made of: all up to its own, or all that the run has where the best is taken."""
    if result == BEST:
        return range(1, len(read_json(run / "summary.json")["rounds"]) + 1)
    return range(1, int(result.removeprefix("round-")) + 1) if result.startswith("round-") else range(0)


def written(folder: Path) -> int:
    """Return the tokens that the model wrote in a round, those of dropped candidates too."""
    return sum(record["tokens"] for record in snapshot(folder).records("completions.jsonl"))


def curve(out: Path, place: Place, file: str) -> list[dict[str, Any]]:
    """Return the score after each round of an arm, against the generated samples for each seed (the scaling ratio)."""
    points = []
    for number in rounds_of(out / place.run, place.result) if place.result != BEST else ():
        run = out / place.run
        values = [record["nll"] for record in records_in(run / f"round-{number}" / file)]
        generated = read_json(run / f"round-{number}" / "training.json")["generated"]
        ratio = generated / len(records_in(run / "seeds.jsonl"))
        mean = round(sum(values) / len(values), 6)
        points.append({"arm": place.arm, "seed": place.seed, "round": number, "ratio": round(ratio, 3), "mean": mean})
    return points


def words(arm: str, against: str, difference: stats.Crossed) -> str:
    """Return what a difference shows, in a few words."""
    if arm == against:
        return "what the others are compared with"
    if difference.low is None or difference.high is None:
        return "too few items to tell"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "cannot be told apart"


def unequal(arms: Sequence[Mapping[str, Any]], study: Study) -> list[str]:
    """Return a sentence for each way in which the budgets of the arms differ; none where they are equal."""
    generating = {arm.name for arm in study.arms if arm.generating and arm.kind != "kept"}
    said = [
        f"{arm['label']}, random seed {run['seed']}: {run['accepted']} samples accepted, not {study.chosen.accepted}; "
        f"the budget of {run['drafted']} candidates had ended."
        for arm in arms
        for run in arm["runs"]
        if arm["arm"] in generating and run["accepted"] != study.chosen.accepted
    ]
    trained = [arm for arm in arms if arm["runs"][0]["steps"]]
    steps = {arm["label"]: sorted({run["steps"] for run in arm["runs"]}) for arm in trained}
    if len({tuple(each) for each in steps.values()}) > 1:
        after = {arm["label"]: " from tuned weights" for arm in trained if any(run["start"] for run in arm["runs"])}
        each = "; ".join(f"{label} {' or '.join(map(str, n))}{after.get(label, '')}" for label, n in steps.items())
        said.append(f"The trainings differ in their optimiser steps: {each}.")
    return said
