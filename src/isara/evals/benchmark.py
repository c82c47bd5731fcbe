"""What every benchmark is to the one who runs it: items, how a model does them, and what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from isara import stats
from isara.evals.rates import Figure, share
from isara.protocols import Model
from isara.stats import Interval, mean_interval

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Measure:
    """A number taken from each row, and which way is better."""

    name: str
    """What a reader calls it."""
    field: str
    """The rows' field: a number, or a truth value."""
    better: Literal["higher", "lower"]
    only: tuple[str, Any] | None = None
    """The rows that count: those with this value in this field."""
    perplexity: bool = False
    """Whether the mean is printed as e to its power."""

    def values(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return the values of the rows that count; a judge has none for what it could not say."""
        return [
            row[self.field]
            for row in rows
            if self.field in row and (self.only is None or row[self.only[0]] == self.only[1])
        ]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark with its items read."""

    name: str
    items: Sequence[Any]
    facts: Mapping[str, Any]
    """What the rows depend on beside the model: the content of the items and the settings."""
    perform: Callable[[Model, Sequence[Any]], Rows]
    """Returns one row for each item."""
    measures: tuple[Measure, ...]
    chunk: int = 64
    """Items between two savepoints."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the figures."""
    more: Callable[[Sequence[Mapping[str, Any]], float], list[Figure]] | None = None
    """Figures that are no plain mean of the rows."""
    write: Callable[[Path, str, Rows], None] | None = field(default=None)
    """Leaves further files in an arm's folder, given the arm's name and its rows."""


def figures(benchmark: Benchmark, rows: Rows, confidence: float = 0.95) -> list[Figure]:
    """Return every measure of an arm with its interval; a measure without rows is left out."""
    found = []
    for measure in benchmark.measures:
        values = measure.values(rows)
        if values:
            found.append(Figure(measure.name, _interval(measure, values, confidence)))
    return found + (benchmark.more(rows, confidence) if benchmark.more else [])


def _interval(measure: Measure, values: Sequence[Any], confidence: float) -> Interval:
    if all(isinstance(value, bool) for value in values):
        return share(values, confidence)
    found = mean_interval(values, confidence=confidence)
    if not measure.perplexity:
        return found
    ends = [None if end is None else math.exp(end) for end in (found.low, found.high)]
    return Interval(math.exp(found.mean), ends[0], ends[1], found.n)


def differences(
    benchmark: Benchmark, base: Rows, tuned: Rows, names: tuple[str, str], confidence: float = 0.95
) -> list[tuple[str, stats.Difference, str]]:
    """Return each measure's name, the paired difference over the items, and the sentence that says what it shows."""
    found = []
    for measure in (m for m in benchmark.measures if not m.perplexity):
        sign = -1.0 if measure.better == "higher" else 1.0
        both = [
            (one, two) for one, two in zip(base, tuned, strict=True) if measure.field in one and measure.field in two
        ]
        pair = [[sign * float(value) for value in measure.values(rows)] for rows in zip(*both, strict=True)]
        if pair and pair[0]:
            difference = stats.compare(*pair, names=names, confidence=confidence)
            unit = "nats per token" if measure.field == "nll" else "points"
            words = stats.describe(difference, unit=unit, arm_label=names[1], against_label=names[0])
            found.append((measure.name, difference, words))
    return found
