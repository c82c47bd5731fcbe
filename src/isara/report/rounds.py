"""Arms of several rounds, round by round: a table, a sentence on where each curve turns, and a chart of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isara.report.charts import rounds_curve, scale_of
from isara.report.markdown import plain
from isara.report.standings import ends, grid, lines
from isara.report.text import escape, number, signed

HEADS = ("Arm", "Round", "NLL", "Gain on {}", "Interval", "", "By random seed")
NUMBERS = {"Round", "NLL", "Gain on {}", "Interval"}


def cells(found: Mapping[str, Any]) -> list[list[str]]:
    """Return every round of every arm as the cells of a table."""
    return [
        [
            each["label"],
            str(one["round"]),
            number(one["mean"]),
            signed(one["difference"]["mean"]),
            ends(one["difference"]),
            one["words"],
            ", ".join(map(number, one["by_seed"])),
        ]
        for each in found["rounds"]
        for one in each["rounds"]
    ]


def facts(found: Mapping[str, Any], label: str) -> str:
    """Return what the numbers are, in a sentence or two."""
    told = (
        f"Each round of an arm beside {label}; gains and intervals as above. Which round is the best was seen from the "
        "same items, so where it is neither the first nor the last, its lead over the last is held to a wider interval."
    )
    if len(found["random_seeds"]) == 1:
        told += " With one random seed, an interval says nothing of how another training would turn out."
    return told


def turn(each: Mapping[str, Any]) -> str:
    """Return where the curve of an arm turns."""
    stopped = " The gate stopped some random seeds before the last round; the rounds that all made are shown."
    return str(each["sentence"]) + ("" if each["whole"] else stopped)


def markdown(found: Mapping[str, Any], label: str) -> list[str]:
    """Return the parts of a report that tell of rounds; none where no arm has several."""
    if not found.get("rounds"):
        return []
    heads = [head.format(label) for head in HEADS]
    rows = [heads, ["---"] * len(heads), *cells(found)]
    turns = [f"- {plain(each['label'])}: {plain(turn(each))}" for each in found["rounds"]]
    pairs = [f"- {plain(each['sentence'])}" for each in found["one_shot"]]
    return ["### Round by round", plain(facts(found, label)), lines(rows), "\n".join(turns + pairs)]


def section(found: Mapping[str, Any], label: str) -> str:
    """Return the section of the page that tells of rounds; nothing where no arm has several."""
    if not found.get("rounds"):
        return ""
    pairs = "".join(f"<p>{escape(each['sentence'])}</p>" for each in found["one_shot"])
    return (
        f"<section><h2>Round by round</h2><p>{escape(facts(found, label))} A chart has the gain after each "
        f"round, and its interval as a band.</p>{pairs}{curves(found, label)}"
        f"{grid(HEADS, label, cells(found), NUMBERS)}</section>\n"
    )


def curves(found: Mapping[str, Any], label: str) -> str:
    """Return a chart for each arm, all on one scale: the gain after each round, its interval as a band."""
    points = {
        each["arm"]: [(one["round"], *(one["difference"][end] for end in ("mean", "low", "high"))) for one in rounds]
        for each in found["rounds"]
        for rounds in [each["rounds"]]
    }
    up = scale_of([0.0, *(end for some in points.values() for p in some for end in p[1:] if end is not None)], ticks=4)
    return "".join(
        f"<h3>{escape(each['label'])}</h3><p>{escape(turn(each))}</p><div class='curve-place'>"
        f"{rounds_curve(points[each['arm']], up, title=title_of(each, label))}</div>"
        for each in found["rounds"]
    )


def title_of(each: Mapping[str, Any], label: str) -> str:
    """Return what a chart shows, for who cannot see it."""
    return f"Gain of {each['label']} on {label} after each of {len(each['rounds'])} rounds, with its interval."
