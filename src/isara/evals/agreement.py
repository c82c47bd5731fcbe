"""
How far judges agree beyond chance: Krippendorff's alpha, with an interval.

Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability". 1 is full agreement, 0 what chance would give, below
0 worse than that. Labels may be missing; a unit that fewer than two judges labelled says nothing about agreement.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Level = Literal["nominal", "ordinal", "interval"]
Unit = Sequence[Hashable | None]
"""The labels that one item got, one place for each judge; None where a judge gave none."""
Floats = NDArray[np.float64]

_CELLS = 2**24


@dataclass(frozen=True, slots=True)
class Agreement:
    """Alpha with its bootstrap interval."""

    alpha: float | None
    """None where it is undefined: no two labels to compare, or only one label ever given."""
    low: float | None
    high: float | None
    n: int
    """Items that at least two judges labelled."""
    agreeing: float | None
    """Share of pairs of labels that are the same: chance included, so no evidence by itself."""


def krippendorff_alpha(units: Sequence[Unit], level: Level = "nominal") -> float | None:
    """Return alpha over the units; None where it is undefined."""
    coincidences, values = _coincidences(units, level)
    return _optional(_alphas(coincidences.sum(axis=0)[None], values, level)[0])


def agreement(
    units: Sequence[Unit], level: Level = "nominal", *, confidence: float = 0.95, draws: int = 4999, seed: int = 0
) -> Agreement:
    """
    Return alpha with the percentile interval of a bootstrap that draws units.

    Draws in which alpha is undefined are left out; where half of them are, or there is one unit, there is no interval.
    """
    coincidences, values = _coincidences(units, level)
    total = coincidences.sum(axis=0)
    alpha = _optional(_alphas(total[None], values, level)[0])
    n, pairs = len(coincidences), total.sum()
    agreeing = float(np.trace(total) / pairs) if pairs else None
    if alpha is None or n < 2:
        return Agreement(alpha, None, None, n, agreeing)
    rng = np.random.default_rng(seed)
    flat, found = coincidences.reshape(n, -1), []
    step = max(1, _CELLS // max(n, flat.shape[1]))
    for start in range(0, draws, step):
        weights = rng.multinomial(n, [1 / n] * n, size=min(step, draws - start)).astype(np.float64)
        found.append(_alphas((weights @ flat).reshape(-1, len(values), len(values)), values, level))
    drawn = np.concatenate(found)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) * 2 < draws:
        return Agreement(alpha, None, None, n, agreeing)
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Agreement(alpha, float(low), float(high), n, agreeing)


def _coincidences(units: Sequence[Unit], level: Level) -> tuple[Floats, list[Any]]:
    """Return one matrix of pairable labels for each unit, and the labels that its rows stand for."""
    filled = [[label for label in unit if label is not None] for unit in units]
    filled = [unit for unit in filled if len(unit) > 1]
    distinct = {label for unit in filled for label in unit}
    if level == "nominal":
        values = sorted(distinct, key=repr)
    else:
        wrong = sorted({repr(label) for label in distinct if not isinstance(label, (int, float))})
        if wrong:
            raise ValueError(f"the label {wrong[0]} is no number, and {level} labels are. Take level 'nominal'.")
        values = sorted(distinct, key=lambda label: float(label))  # type: ignore[arg-type]
    place = {label: i for i, label in enumerate(values)}
    found = np.zeros((len(filled), len(values), len(values)))
    for row, unit in zip(found, filled, strict=True):
        counts = np.zeros(len(values))
        for label in unit:
            counts[place[label]] += 1
        row += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    return found, values


def _alphas(totals: Floats, values: Sequence[Any], level: Level) -> Floats:
    """Return 1 - observed / expected disagreement for each matrix of coincidences; NaN where it is undefined."""
    counts = totals.sum(axis=2)
    n = counts.sum(axis=1)
    if level == "ordinal":
        # Labels between two others set them apart by how many there are: ranks, not distances.
        reached = np.cumsum(counts, axis=1) - counts / 2
        distance = (reached[:, :, None] - reached[:, None, :]) ** 2
    elif level == "interval":
        numbers = np.array([float(value) for value in values])
        distance = ((numbers[:, None] - numbers[None, :]) ** 2)[None]
    else:
        distance = (1 - np.eye(len(values)))[None]
    observed = (totals * distance).sum(axis=(1, 2))
    expected = (counts[:, :, None] * counts[:, None, :] * distance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas: Floats = np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)
    return alphas


def _optional(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
