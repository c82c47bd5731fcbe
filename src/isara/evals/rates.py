"""Shares and pooled rates, each with an interval that stays honest where every item came out the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from isara.stats import Interval

_CELLS = 2**22


def share(flags: Sequence[bool], confidence: float = 0.95) -> Interval:
    """
    Return the share of True with its score interval; raises ValueError for no flags.

    Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference". A bootstrap of items that
    are all the same has no width; this one has, as 0 of 30 does not show a share of 0.
    """
    n, hits = len(flags), sum(flags)
    if n == 0:
        raise ValueError("no items: a share needs at least one.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if hits == 0 else middle - half
    return Interval(p, low, 1.0 if hits == n else middle + half, n)


def pooled(groups: Sequence[Sequence[bool]], confidence: float = 0.95, *, draws: int = 4999) -> Interval:
    """
    Return the share of True over all groups together, with a bootstrap interval that draws whole groups.

    The instructions of one prompt stand and fall together, so they are no independent items (Davison and Hinkley
    1997, "Bootstrap Methods and their Application", section 3.8). `n` counts groups. Where all came out the same,
    the interval is that of as many groups in `share`.
    """
    sums = np.array([(sum(group), len(group)) for group in groups if group], dtype=np.float64)
    if len(sums) == 0:
        raise ValueError("no items: a rate needs at least one.")
    hits, total = sums.sum(axis=0)
    if hits in (0, total):
        alike = share([bool(hits)] * len(sums), confidence)
        return Interval(float(hits / total), alike.low, alike.high, len(sums))
    if len(sums) < 2:
        return Interval(float(hits / total), None, None, 1)
    rng = np.random.default_rng(0)
    rates: list[float] = []
    while len(rates) < draws:
        chosen = rng.integers(len(sums), size=(min(draws - len(rates), max(1, _CELLS // len(sums))), len(sums)))
        drawn = sums[chosen].sum(axis=1)
        rates += (drawn[:, 0] / drawn[:, 1]).tolist()
    low, high = np.quantile(rates, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(hits / total), float(low), float(high), len(sums))


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a benchmark, by its name, never without its uncertainty."""

    name: str
    interval: Interval

    def __str__(self) -> str:
        found = self.interval
        if found.low is None or found.high is None:
            return f"{self.name}: {found.mean:.3f} (n={found.n}, no interval)"
        return f"{self.name}: {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}, n={found.n})"
