"""How the arms of a study stand: differences about zero, drawn, and a table for each further measure."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from isara.report.charts import axis, interval, scale_of
from isara.report.markdown import plain
from isara.report.text import count, escape, number, signed

TONES = {"better": "better", "worse": "worse"}
HEADS = ("Arm", "Mean", "Gain on {}", "Interval", "", "By random seed")
NUMBERS = {"Mean", "Gain on {}", "Interval"}


def gains(arms: Sequence[Mapping[str, Any]], against: str, label: str, heading: str) -> str:
    """Return every arm's difference to one arm about zero, drawn and in numbers."""
    others = [arm for arm in arms if arm["arm"] != against and "difference" in arm]
    drawn = [arm["difference"] for arm in others]
    scale = scale_of([0.0, *(end for d in drawn for end in (d["mean"], d["low"], d["high"]) if end is not None)])
    rows = []
    for arm in others:
        d, tone = arm["difference"], TONES.get(arm["words"], "unclear")
        rows.append(
            f'<tr class="is-{tone}"><th scope="row">{escape(arm["label"])}</th>'
            f'<td class="viz">{interval(scale, d["mean"], d["low"], d["high"], tone, 0.0)}</td>'
            f'<td class="num strong">{signed(d["mean"])}</td><td class="num soft">{ends(d) or "–"}</td></tr>'
        )
    return (
        '<table class="plot differences"><thead><tr><th scope="col">Arm</th>'
        f'<th scope="col">{escape(heading)} against {escape(label)} <span class="soft">(better →)</span></th>'
        '<th scope="col" class="num">Mean</th><th scope="col" class="num">Interval</th></tr></thead>'
        f'<tbody>{"".join(rows)}<tr class="axisrow" aria-hidden="true"><td></td>'
        f'<td class="viz">{axis(scale, sign=True)}</td><td colspan="2"></td></tr></tbody></table>'
    )


def ends(difference: Mapping[str, Any]) -> str:
    """Return an interval; nothing where there is none."""
    return "" if difference["low"] is None else f"{signed(difference['low'])} to {signed(difference['high'])}"


def cells(arm: Mapping[str, Any], against: str) -> list[str]:
    """Return an arm on a further measure as the cells of a table."""
    if "left_out" in arm:
        return [arm["label"], "", "", "", arm["left_out"], ""]
    shown = "difference" in arm and arm["arm"] != against
    return [
        arm["label"],
        number(arm["mean"]),
        signed(arm["difference"]["mean"]) if shown else "",
        ends(arm["difference"]) if shown else "",
        arm["words"] if shown else "",
        ", ".join(map(number, arm["by_seed"])),
    ]


def title(measure: Mapping[str, Any]) -> str:
    """Return what is measured."""
    return f"{measure['benchmark']}: {measure['measure']}"


def facts(measure: Mapping[str, Any], label: str) -> str:
    """Return what the numbers of a measure are made of, in a sentence or two."""
    notes = "".join(f" {note}" for note in measure["notes"])
    return (
        f"{count(measure['items'], 'item')}; {measure['better']} is better. A gain above zero is better than {label}, "
        f"its interval as above.{notes}"
    )


def markdown(measure: Mapping[str, Any], against: str, label: str) -> str:
    """Return a further measure as a heading, what it is made of, and one table."""
    heads = [head.format(label) for head in HEADS]
    rows = [heads, ["---"] * len(heads), *(cells(arm, against) for arm in measure["arms"])]
    return f"### {plain(title(measure))}\n\n{plain(facts(measure, label))}\n\n{lines(rows)}"


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of a table in Markdown."""
    return "\n".join("| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows)


def section(measure: Mapping[str, Any], against: str, label: str) -> str:
    """Return a further measure as a section of the page: differences, drawn, and all numbers."""
    rows = [cells(arm, against) for arm in measure["arms"]]
    return (
        f"<section><h2>{escape(title(measure))}</h2><p>{escape(facts(measure, label))}</p>"
        f"{gains(measure['arms'], against, label, 'Gain')}"
        f"{grid(HEADS, label, rows, NUMBERS)}</section>\n"
    )


def grid(heads: Sequence[str], label: str, rows: Sequence[Sequence[str]], numbers: Container[str]) -> str:
    """Return a table of the page: heads that may name an arm, `label`, and those of them under which numbers stand."""
    kinds = ["num" if head in numbers else "" for head in heads]
    named = (escape(head.format(label)) for head in heads)
    top = "".join(f'<th scope="col" class="{kind}">{head}</th>' for kind, head in zip(kinds, named, strict=True))
    body = []
    for first, *others in rows:
        row = "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds[1:], others, strict=True))
        body.append(f'<tr><th scope="row">{escape(first)}</th>{row}</tr>')
    table = f'<table class="grid"><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return f'<div class="wide">{table}</div>'
