"""
Charts as SVG text.

Positions are percentages and type is in pixels, so that a chart fills whatever width it gets and its labels stay
readable; colours come from classes in report.css, so that they follow the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isara.report.records import CurvePoint, Training
from isara.report.text import escape, number, one_line, short, signed

ROW = 36
"""Height in pixels of one row of an interval chart."""

MOST_POINTS = 1000
"""Points of one line; of more, every so many."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A stretch of numbers laid along an axis."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        """Return how far along the axis `value` is, left to right, as an SVG percentage."""
        return f"{self.share(value):.2f}%"

    def up(self, value: float) -> str:
        """Return the same for an axis that rises, where SVG counts from the top."""
        return f"{100 - self.share(value):.2f}%"

    def share(self, value: float) -> float:
        """Return how far along the axis `value` is, from 0 to 100."""
        return 100 * (value - self.low) / (self.high - self.low)


def scale_of(values: Iterable[float], *, ticks: int = 5) -> Scale:
    """Return a scale that holds all values with a little room at each end, and about that many round ticks."""
    held = list(values) or [0.0, 1.0]
    low, high = min(held), max(held)
    room = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    low, high = low - room, high + room
    step = _round_step((high - low) / ticks)
    first = math.ceil(low / step)
    return Scale(low, high, tuple(n * step for n in range(first, math.floor(high / step) + 1)))


def _round_step(rough: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(rough))
    return power * next(nice for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * 0.999)


def svg(content: str, *, height: int, title: str = "", kind: str = "") -> str:
    """Return an SVG as wide as its place. One without a title is an ornament that screen readers pass over."""
    told = f'role="img" aria-label="{escape(title)}"' if title else 'aria-hidden="true"'
    return f'<svg class="{kind}" width="100%" height="{height}" {told}>{content}</svg>'


def interval(scale: Scale, mean: float, low: float | None, high: float | None, tone: str, line: float | None) -> str:
    """Return one row of an interval chart: a dot, its whiskers, and the line to compare with."""
    lines = [f'<line class="grid" x1="{scale.at(t)}" x2="{scale.at(t)}" y1="0" y2="100%"/>' for t in scale.ticks]
    if line is not None:
        lines.append(f'<line class="compare" x1="{scale.at(line)}" x2="{scale.at(line)}" y1="0" y2="100%"/>')
    marks = []
    if low is not None and high is not None:
        marks.append(f'<line class="whisker" x1="{scale.at(low)}" x2="{scale.at(high)}" y1="0" y2="0"/>')
        marks += [
            f'<line class="whisker" x1="{scale.at(end)}" x2="{scale.at(end)}" y1="-5" y2="5"/>' for end in (low, high)
        ]
    marks.append(f'<circle class="dot" cx="{scale.at(mean)}" cy="0" r="6"/>')
    # An inner drawing that begins half way down keeps the marks in the middle of however tall a row becomes.
    middle = f'<svg y="50%" width="100%" height="1">{"".join(marks)}</svg>'
    return svg("".join(lines) + middle, height=ROW, kind=f"interval {tone}")


def axis(scale: Scale, *, sign: bool = False) -> str:
    """Return the tick labels under an interval chart."""
    digits = _digits(scale)
    labels = (
        (tick, signed(tick, digits) if sign and abs(tick) > 1e-12 else number(tick, digits)) for tick in scale.ticks
    )
    return svg(
        "".join(f'<text class="tick middle" x="{scale.at(tick)}" y="14">{label}</text>' for tick, label in labels),
        height=20,
        kind="axis",
    )


def _digits(scale: Scale) -> int:
    step = scale.ticks[1] - scale.ticks[0] if len(scale.ticks) > 1 else 0.1
    return next((digits for digits in range(6) if abs(step * 10**digits - round(step * 10**digits)) < 1e-6), 6)


def bar(parts: Sequence[tuple[float, str]], of: float, *, height: int = 18) -> str:
    """Return one horizontal bar of (length, tone) parts, where `of` fills the whole width."""
    drawn, start = [], 0.0
    for length, tone in parts:
        share = 100 * length / of if of > 0 else 0.0
        if share > 0:
            drawn.append(f'<rect class="{tone}" x="{start:.2f}%" width="{share:.2f}%" y="0" height="{height}" rx="2"/>')
        start += share
    return svg("".join(drawn), height=height, kind="bar")


def slope(pairs: Sequence[tuple[str, float, float]], left: str, right: str, *, height: int = 340) -> str:
    """Return one line from left to right for each (name, left value, right value); a falling line is a better one."""
    scale = scale_of((value for _, *ends in pairs for value in ends), ticks=6)
    parts = [level(scale, tick) for tick in scale.ticks]
    parts += [f'<line class="frame" x1="{x}" x2="{x}" y1="0" y2="100%"/>' for x in ("0%", "100%")]
    for name, before, after in pairs:
        tone = "better" if after < before else "worse" if after > before else "same"
        tip = escape(f"{one_line(name, 90)}: {number(before)} → {number(after)}")
        ends = f'x1="0%" y1="{scale.up(before)}" x2="100%" y2="{scale.up(after)}"'
        dots = "".join(f'<circle cx="{x}" cy="{scale.up(y)}" r="3.5"/>' for x, y in (("0%", before), ("100%", after)))
        parts.append(f'<g class="item {tone}"><title>{tip}</title><line {ends}/>{dots}</g>')
    fell = sum(after < before for _, before, after in pairs)
    title = f"NLL of each sample, from {left} to {right}: lower for {fell} of {len(pairs)}."
    heads = f'<div class="ends"><span>{escape(left)}</span><span>{escape(right)}</span></div>'
    return heads + svg("".join(parts), height=height, title=title, kind="slope")


def level(scale: Scale, tick: float) -> str:
    """Return a line across a chart at a tick of the axis that rises, and its label on the left."""
    y = scale.up(tick)
    label = f'<text class="tick end" x="-8" y="{y}" dy="4">{number(tick, _digits(scale))}</text>'
    return f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>{label}'


def beside(scale: Scale, value: float) -> str:
    """Return the line across a chart, at a value of the axis that rises, that the others are compared with."""
    return f'<line class="compare" x1="0" x2="100%" y1="{scale.up(value)}" y2="{scale.up(value)}"/>'


def loss_curve(training: Training, label: str, *, height: int = 220) -> str:
    """Return training loss and mean held-out NLL over the steps, with the step that was kept marked."""
    losses = [(point.step, point.loss) for point in training.curve if point.loss is not None]
    heldout = [(point.step, _mean(point)) for point in training.curve if point.heldout]
    across = Scale(0, max(training.steps, 1, *(point.step for point in training.curve)), ())
    up = scale_of((value for _, value in losses + heldout), ticks=4)
    parts = [level(up, tick) for tick in up.ticks]
    parts += [_line(losses, across, up, "loss"), _line(heldout, across, up, "heldout")]
    parts += [f'<circle class="heldout" cx="{across.at(x)}" cy="{up.up(y)}" r="4"/>' for x, y in heldout]
    parts += [_best_step(training, across), *_step_labels(across, height)]
    title = f"Loss of {label}: {training.steps} steps, weights of step {training.best_step} kept."
    return svg("".join(parts), height=height, title=title, kind="curve")


def _mean(point: CurvePoint) -> float:
    values = point.heldout or ()
    return math.fsum(values) / len(values)


def _line(points: Sequence[tuple[int, float]], across: Scale, up: Scale, tone: str) -> str:
    drawn = points[:: math.ceil(len(points) / MOST_POINTS) or 1]
    return _shape("polyline", drawn, across, up, tone)


def _shape(kind: str, points: Sequence[tuple[int, float]], across: Scale, up: Scale, tone: str) -> str:
    # A polyline takes no percentages; an inner drawing of 100 by 100 is stretched over the chart instead.
    path = " ".join(f"{across.share(x):.2f},{100 - up.share(y):.2f}" for x, y in points)
    return (
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
        f'<{kind} class="{tone}" points="{path}"/></svg>'
    )


def rounds_curve(points: Sequence[tuple[int, float, float | None, float | None]], up: Scale, *, title: str) -> str:
    """Return (round, gain, lower end, upper end) as a line about zero, its intervals as a band; the rounds below."""
    last, every = points[-1][0], math.ceil(len(points) / 12)
    across = Scale(0.75, last + 0.25, tuple(float(which) for which, *_ in points[::every]))
    parts = [level(up, tick) for tick in up.ticks]
    parts.append(beside(up, 0))
    band = [(which, low, high) for which, _, low, high in points if low is not None and high is not None]
    edge = [*((which, low) for which, low, _ in band), *((which, high) for which, _, high in reversed(band))]
    parts += [_shape("polygon", edge, across, up, "band"), _line([p[:2] for p in points], across, up, "heldout")]
    for which, gain, low, high in points:
        ends = "" if low is None or high is None else f" ({signed(low)} to {signed(high)})"
        tip = f"<title>round {which}: {signed(gain)}{ends}</title>"
        parts.append(f'<circle class="heldout" cx="{across.at(which)}" cy="{up.up(gain)}" r="4">{tip}</circle>')
    return svg("".join(parts), height=160, title=title, kind="curve") + axis(across)


def _best_step(training: Training, across: Scale) -> str:
    share = across.share(training.best_step)
    side = "end" if share > 80 else "start" if share < 20 else "middle"
    return (
        f'<line class="compare" x1="{share:.2f}%" x2="{share:.2f}%" y1="0" y2="100%"/>'
        f'<text class="note {side}" x="{share:.2f}%" y="-8">kept: step {training.best_step}</text>'
    )


def _step_labels(across: Scale, height: int) -> list[str]:
    step = max(1, round(_round_step(across.high / 5)))
    ticks = [n * step for n in range(math.floor(across.high / step) + 1)]
    return [f'<text class="tick middle" x="{across.at(t)}" y="{height + 16}">{short(t)}</text>' for t in ticks]
