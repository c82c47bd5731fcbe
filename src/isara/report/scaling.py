"""Quality against the scaling ratio: a line for each arm that made samples, beside the arm that others stand beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from isara.report.charts import Scale, axis, beside, level, scale_of, svg
from isara.report.text import escape, number, short

GAP = 16.0
"""Fewest pixels between the numbers of two lines."""


@dataclass(frozen=True, slots=True)
class Line:
    """What an arm's rounds come to."""

    label: str
    points: tuple[tuple[float, float], ...]
    """The scaling ratio and the mean NLL after each round, over the random seeds that made it."""

    @property
    def last(self) -> float:
        """The NLL after the last round."""
        return self.points[-1][1]


def section(found: Mapping[str, Any]) -> str:
    """Return the section of the page: a chart, and the arms it numbers; nothing where no arm made samples."""
    lines = list(ranked(found))
    if not lines:
        return ""
    against = next(arm for arm in found["arms"] if arm["arm"] == found["against"])
    across = scale_of([0.0, *(ratio for line in lines for ratio, _ in line.points)])
    up = scale_of([against["mean"], *(nll for line in lines for _, nll in line.points)], ticks=4)
    height = max(260.0, GAP * (len(lines) + 1))
    places = apart([up.share(line.last) for line in lines], height)
    parts = [level(up, tick) for tick in up.ticks]
    parts.append(beside(up, against["mean"]))
    drawn = zip(lines, places, strict=True)
    parts += [mark(which, line, place, across, up) for which, (line, place) in enumerate(drawn, 1)]
    title = f"NLL of {len(lines)} arms against the generated samples for each seed."
    return (
        "<section><h2>Scaling ratio</h2><p>NLL after each round against the generated samples for each seed, both the "
        "mean over random seeds; a line joins the rounds of an arm, and the dashed one is "
        f"{escape(against['label'])} ({number(against['mean'])}). The arms, lowest NLL at the end first:</p>"
        f"<div class='curve-place scaling'>{svg(''.join(parts), height=round(height), title=title, kind='curve')}"
        f"{axis(across)}</div>{listed(lines)}</section>\n"
    )


def ranked(found: Mapping[str, Any]) -> Iterator[Line]:
    """Give a line for each arm that made samples, the one that ends with the lowest NLL first."""
    points: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for point in found["curve"]:
        points.setdefault(point["arm"], {}).setdefault(point["round"], []).append((point["ratio"], point["mean"]))
    lines = [Line(arm["label"], means(points[arm["arm"]])) for arm in found["arms"] if arm["arm"] in points]
    yield from sorted(lines, key=lambda line: line.last)


def means(rounds: Mapping[int, Sequence[tuple[float, float]]]) -> tuple[tuple[float, float], ...]:
    """Return the mean ratio and NLL of each round; the gate may have stopped some random seeds before the last."""
    return tuple((fmean(ratio for ratio, _ in rounds[n]), fmean(nll for _, nll in rounds[n])) for n in sorted(rounds))


def apart(shares: Sequence[float], height: float) -> list[float]:
    """
    Return where to write the numbers of lines, in pixels from the top, for shares of the height that do not fall.

    Each is as near to its line as the others leave it: at least `GAP` below it, and all within the height.
    """
    places: list[float] = []
    for which, share in enumerate(reversed(shares)):
        least = places[-1] + GAP if places else 0.0
        most = height - GAP * (len(shares) - 1 - which)
        places.append(min(max(height * (100 - share) / 100, least), most))
    return places[::-1]


def mark(which: int, line: Line, place: float, across: Scale, up: Scale) -> str:
    """Return an arm's rounds, joined by a line, and its number at the end of it."""
    marks = [
        f'<line class="path" x1="{across.at(x)}" y1="{up.up(y)}" x2="{across.at(further)}" y2="{up.up(then)}"/>'
        for (x, y), (further, then) in pairwise(line.points)
    ]
    for after, (ratio, nll) in enumerate(line.points, 1):
        tip = escape(f"{line.label}, round {after}, ratio {short(ratio)}: {number(nll)}")
        dot = f'<circle class="heldout" cx="{across.at(ratio)}" cy="{up.up(nll)}" r="4">'
        marks.append(f"{dot}<title>{tip}</title></circle>")
    ratio, nll = line.points[-1]
    marks.append(f'<line class="leader" x1="{across.at(ratio)}" y1="{up.up(nll)}" x2="100%" y2="{place:.1f}"/>')
    marks.append(f'<text class="tick number" x="100%" y="{place:.1f}" dx="4" dy="4">{which}</text>')
    return f'<g class="item">{"".join(marks)}</g>'


def listed(lines: Sequence[Line]) -> str:
    """Return the arms under their numbers."""
    items = "".join(f"<li>{escape(line.label)}, <strong>{number(line.last)}</strong></li>" for line in lines)
    return f"<ol class='ranked'>{items}</ol>"
