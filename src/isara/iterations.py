"""How arms of several rounds went, round by round: where the curve turns, and iterations against one shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isara import stats
from isara.rundir import records_in
from isara.sharing import AFTER_TRAINING
from isara.study import BEST, Arm, Study
from isara.tally import Place, Scores, arm_at, beside, judging_file, means_of, rounds_of, words


@dataclass(frozen=True, slots=True)
class Course:
    """An arm of several rounds."""

    arm: Arm
    after: tuple[Scores, ...]
    """Scores after the first round, the second, and so on."""
    whole: bool
    """Whether every random seed made every round that the settings ask for."""


def iterations(study: Study, out: Path, places: Sequence[Place], arms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `comparison.json` is to hold of rounds; `arms` are those that it holds already."""
    file = judging_file(out)
    at = {(place.arm, place.seed): place for place in places}
    runs = {arm["arm"]: arm["runs"] for arm in arms}

    def scores(arm: str, results: Sequence[str]) -> Scores:
        found = zip(study.chosen.random_seeds, results, strict=True)
        return [[float(r["nll"]) for r in records_in(out / at[arm, s].run / result / file)] for s, result in found]

    def final(arm: str) -> Scores:
        return scores(arm, [arm_at(out, at[arm, seed]) for seed in study.chosen.random_seeds])

    def course(arm: Arm) -> Course:
        own = [at[arm.name, seed] for seed in study.chosen.random_seeds]
        # The gate may have stopped one random seed earlier than another.
        made = min(len(rounds_of(out / place.run, place.result)) for place in own)
        after = tuple(scores(arm.name, [f"round-{n}"] * len(own)) for n in range(1, made + 1))
        return Course(arm, after, whole=made == arm.settings.rounds)

    courses = [each for each in map(course, (arm for arm in study.arms if arm.generating)) if len(each.after) > 1]
    confidence = study.arms[0].settings.gate.confidence
    against = final(study.chosen.against) if courses else []
    return {
        "rounds": [of_course(each, against, study.chosen.against, confidence) for each in courses],
        "one_shot": [
            of_pair(loop, shot, final(shot.name), runs, confidence)
            for loop in courses
            for shot in study.arms
            if is_at_once(loop.arm, shot)
        ],
    }


def of_course(course: Course, against: Scores, name: str, confidence: float) -> dict[str, Any]:
    """Return each round of an arm beside the arm that is compared against, and a sentence on where the curve turns."""
    rounds = [
        {
            "round": number,
            **means_of(rows),
            **beside((f"{course.arm.name}, round {number}", rows), (name, against), confidence),
        }
        for number, rows in enumerate(course.after, start=1)
    ]
    return {
        "arm": course.arm.name,
        "label": course.arm.label,
        "rounds": rounds,
        **turning(course.after, confidence),
        "whole": course.whole,
    }


def turning(after: Sequence[Scores], confidence: float) -> dict[str, Any]:
    """
    Return the best round, what the last is beside the first and beside the best, and a sentence that says it.

    Which round is the best was seen from the same items, so its lead over the last would look larger than it is: that
    interval is wide enough to hold for all earlier rounds at once (Bonferroni). The first and the last round are looked
    at whatever is seen, and need no such care.
    """
    means = [sum(map(sum, rows)) / sum(map(len, rows)) for rows in after]
    best = means.index(min(means)) + 1
    stricter = 1 - (1 - confidence) / (1 if best == 1 else len(after) - 1)
    on_first = stats.crossed(after[0], after[-1], confidence=confidence)
    on_best = stats.crossed(after[best - 1], after[-1], confidence=stricter)
    turned = best < len(after) and on_best.high is not None and on_best.high < 0
    return {
        "best": best,
        "turns": turned,
        "last_on_first": asdict(on_first),
        "last_on_best": asdict(on_best),
        "confidence_on_best": round(stricter, 6),
        "sentence": sentence(best, len(after), turned, (on_first, confidence), (on_best, stricter)),
    }


def sentence(
    best: int, last: int, turned: bool, on_first: tuple[stats.Crossed, float], on_best: tuple[stats.Crossed, float]
) -> str:
    """Return where a curve turns, or that it cannot be seen to, and whether the last round differs from the first."""
    if on_first[0].low is None:
        return f"Round {best} of {last} has the lowest NLL; too few items to tell where the curve turns."
    beside_first = apart(f"the last round, {last},", "the first", *on_first)
    if turned:
        found = apart(f"the last, {last},", "it", *on_best)
        first = "" if best == 1 else f"; {beside_first}"
        return f"The curve turns after round {best}: it has the lowest NLL, and {found}{first}."
    if best == last:
        return f"No turn within {last} rounds: the last has the lowest NLL, and {beside_first}."
    lead = apart(f"the last, {last},", "it", *on_best)
    first = "" if best == 1 else f"; {beside_first}"
    return f"No turn can be shown: round {best} has the lowest NLL, but {lead}{first}."


def apart(one: str, other: str, difference: stats.Crossed, confidence: float) -> str:
    """Return whether one can be told from the other, by the interval, which is given."""
    if difference.low is None or difference.high is None:
        return f"{one} and {other} have too few items to be told apart"
    ends = f"{difference.low:+.3f} to {difference.high:+.3f}".replace("-", "\u2212")
    told = f"{100 * confidence:.4g} % interval {ends}"
    if difference.low <= 0 <= difference.high:
        return f"{one} cannot be told apart from {other} ({told})"
    verdict = "better" if difference.low > 0 else "worse"
    return f"{one} is {verdict} than {other} by {abs(difference.mean):.3f} ({told})"


def is_at_once(loop: Arm, shot: Arm) -> bool:
    """Whether an arm accepts in one round what another does in several, all settings that matter to it the same."""
    if BEST in (loop.result, shot.result) or shot.settings.rounds != 1 or not shot.generating:
        return False
    total = loop.settings.rounds * loop.settings.target.accepted
    return total == shot.settings.target.accepted and that_matter(loop) == that_matter(shot)


def that_matter(arm: Arm) -> dict[str, Any]:
    """Return the settings of an arm that a run of one round depends on, but for how many samples it accepts."""
    values = arm.settings.model_dump(mode="json")
    for name in ("target.accepted", *AFTER_TRAINING):
        section, _, field = name.rpartition(".")
        del (values[section] if section else values)[field]
    return values


def of_pair(
    loop: Course, shot: Arm, at_once: Scores, runs: Mapping[str, Sequence[Mapping[str, Any]]], confidence: float
) -> dict[str, Any]:
    """Return an arm of several rounds beside the one that accepts the same number of samples in a single round."""
    difference = stats.crossed(at_once, loop.after[-1], confidence=confidence)
    total, several = shot.settings.target.accepted, loop.arm.settings
    accepted = [[run["accepted"] for run in runs[arm.name]] for arm in (loop.arm, shot)]
    one = f"{loop.arm.label} ({several.rounds} rounds of {several.target.accepted})"
    found = apart(one, f"{shot.label} ({total} samples at once)", difference, confidence)
    said = f"Iterations against one shot: {found}."
    if set(map(tuple, accepted)) != {(total,) * len(accepted[0])}:
        counts = (", ".join(map(str, each)) for each in accepted)
        said += f" Not at equal budgets: {' samples were accepted, and '.join(counts)} at once."
    return {
        "arm": loop.arm.name,
        "one_shot": shot.name,
        "difference": asdict(difference),
        "words": words(loop.arm.name, shot.name, difference),
        "sentence": said,
    }
