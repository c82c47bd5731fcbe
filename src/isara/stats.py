"""
Paired statistics for small held-out sets: how sure a mean is, and whether two arms differ.

Every interval is a BCa bootstrap (Efron 1987), every p-value a sign-flip permutation test (Fisher 1935), and every
difference comes with the smallest effect that so few samples would show, so that "no difference seen" is not read as
"no difference". Random draws have a fixed seed and do not depend on the order of the items.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = Sequence[float] | Floats

_NORMAL = NormalDist()
_EXACT = 16
_FLIPS = 9999
_CELLS = 2**20


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, never without its uncertainty."""

    mean: float
    low: float | None
    """Lower end of the confidence interval; None for fewer than two values, where there is none."""
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} (n={self.n}, no interval)"
        places = _places(self.high - self.low)
        return f"{self.mean:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}] (n={self.n})"


@dataclass(frozen=True, slots=True)
class Difference:
    """How much better one arm is than another on the same items; lower scores are better, so above zero is better."""

    arm: str
    against: str
    n: int
    mean: float
    """Mean of `against - arm` over the items."""
    low: float | None
    """Lower end of the confidence interval of that mean; None for fewer than two items."""
    high: float | None
    p: float
    """Two-sided p-value of the sign-flip permutation test."""
    smallest_effect: float | None
    """The true difference that this many items, spread as these are, would show four times in five."""
    confidence: float = 0.95


def mean_interval(values: Numbers, *, confidence: float = 0.95, seed: int = 0, draws: int = 9999) -> Interval:
    """
    Return the mean of the values with its bootstrap interval, bias-corrected and accelerated (BCa).

    Efron (1987), "Better Bootstrap Confidence Intervals". Where bias or acceleration cannot be computed the interval
    is the plain percentile one; values that are all the same leave it without width. Raises ValueError for no values,
    or for one that is not finite.
    """
    data = np.sort(_finite(values, "values"))
    # Held to the values, because a rounded sum of equal ones may divide to a little more.
    mean = min(max(math.fsum(data) / len(data), float(data[0])), float(data[-1]))
    if len(data) < 2:
        return Interval(mean, None, None, len(data))
    if data[-1] - data[0] <= 1e-12 * np.abs(data).max():
        return Interval(mean, mean, mean, len(data))
    low, high = _bca(data, mean, confidence, seed, draws)
    return Interval(mean, low, high, len(data))


def standard_error(values: Numbers) -> float | None:
    """Return the standard error of a mean, `s / sqrt(n)` with n - 1 in `s`; None for fewer than two values."""
    data = _finite(values, "values")
    return float(np.std(data, ddof=1)) / math.sqrt(len(data)) if len(data) > 1 else None


def compare(
    against: Numbers,
    arm: Numbers,
    *,
    names: tuple[str, str] = ("the first", "the second"),
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """
    Return how much lower (better) the scores of `arm` are than those of `against`, item by item.

    `names` are those of `against` and `arm`, in this order. Swapping the two negates the difference and changes
    nothing else. Raises ValueError for lists of different lengths, without items, or with a score that is not finite.
    """
    if len(against) != len(arm):
        raise ValueError(f"{len(against)} scores against {len(arm)}: a paired comparison needs both for every item.")
    differences = np.sort(_finite(against, names[0]) - _finite(arm, names[1]))
    # Both directions draw from the same list, so that swapping the arms gives the same interval, negated.
    mirrored = -differences[::-1]
    sign = -1 if mirrored.tolist() > differences.tolist() else 1
    found = mean_interval(mirrored if sign < 0 else differences, confidence=confidence, seed=seed)
    ends = sorted(sign * end + 0.0 for end in (found.low, found.high) if end is not None)
    return Difference(
        arm=names[1],
        against=names[0],
        n=found.n,
        mean=sign * found.mean + 0.0,  # never -0.0
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        p=_sign_flip(differences, seed),
        smallest_effect=_smallest_effect(differences, confidence),
        confidence=confidence,
    )


@dataclass(frozen=True, slots=True)
class Crossed:
    """How much better one arm is than another over items and repeated trainings; above zero is better."""

    mean: float
    low: float | None
    """Lower end of the confidence interval of that mean; None for fewer than two items."""
    high: float | None
    items: int
    repeats: int


def crossed(
    against: Sequence[Numbers], arm: Sequence[Numbers], *, confidence: float = 0.95, seed: int = 0, draws: int = 4999
) -> Crossed:
    """
    Return how much lower (better) the scores of `arm` are: a row for each random seed, in it a score for each item.

    The interval is a percentile bootstrap that draws rows and items independently, as both vary: Owen (2007), "The
    pigeonhole bootstrap". It is too narrow for few rows, by about sqrt((rows - 1) / rows) in what the rows add, and
    with one row it says nothing of how another training would turn out. Raises ValueError for scores that do not pair.
    """
    first = np.array([_finite(row, "against") for row in against])
    other = np.array([_finite(row, "arm") for row in arm])
    if first.ndim != 2 or first.shape != other.shape:
        raise ValueError(f"scores of shape {first.shape} against {other.shape}: a score is needed for every item.")
    difference = first - other
    repeats, items = difference.shape
    mean = float(difference.mean())
    if items < 2:
        return Crossed(mean, None, None, items, repeats)
    rng = np.random.default_rng(seed)
    means = []
    for rows in _chunks(draws, max(items, repeats)):
        across = rng.multinomial(items, np.full(items, 1 / items), size=rows)
        down = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=rows)
        means.append(((down @ difference) * across).sum(axis=1) / (items * repeats))
    low, high = np.quantile(np.concatenate(means), ((1 - confidence) / 2, (1 + confidence) / 2))
    return Crossed(mean, float(low), float(high), items, repeats)


def mcnemar_exact(b: int, c: int) -> float:
    """
    Return the exact two-sided p-value for binary items: `b` that only one arm gets right, `c` only the other.

    McNemar (1947) with the binomial distribution: under no difference each of the b + c is a fair coin. Items that
    both get right, or neither, say nothing about the difference.
    """
    if min(b, c) < 0:
        raise ValueError(f"counts are {b} and {c}, but a count is not negative.")
    tail, ways = 0, 1
    for k in range(min(b, c) + 1):
        tail, ways = tail + ways, ways * (b + c - k) // (k + 1)
    return float(min(1.0, 2 * tail / 2 ** (b + c)))


def describe(
    difference: Difference,
    *,
    unit: str = "nats per token",
    arm_label: str | None = None,
    against_label: str | None = None,
) -> str:
    """Return one sentence that says what a difference shows, and no more than its interval does."""
    d = difference
    arm, against = arm_label or d.arm, against_label or d.against
    if d.low is None or d.high is None:
        items = "1 item is" if d.n == 1 else f"{d.n} items are"
        return f"{items} too few to tell {arm} and {against} apart: a confidence interval needs at least 2."
    if d.low == d.high == 0:
        return f"{_capital(arm)} and {against} score the same on every one of the {d.n} items."
    if d.low <= 0 <= d.high:
        return _cannot_tell(d, arm, against, unit)
    places = _places(d.high - d.low or abs(d.mean))
    verdict = f"{_capital(arm)} is {'better' if d.low > 0 else 'worse'} than {against} by"
    chance = _p(d.p) + (", so the permutation test is less sure" if d.p > 1 - d.confidence else "")
    if d.low == d.high:
        return f"{verdict} the same {abs(d.mean):.{places}f} {unit} on every one of the {d.n} items ({chance})."
    near, far = sorted((abs(d.low), abs(d.high)))
    return (
        f"{verdict} {abs(d.mean):.{places}f} {unit} on average over {d.n} items "
        f"({_level(d)} interval {near:.{places}f} to {far:.{places}f}; {chance})."
    )


def _cannot_tell(d: Difference, arm: str, against: str, unit: str) -> str:
    low, high, effect = d.low or 0.0, d.high or 0.0, d.smallest_effect or 0.0
    places = _places(high - low)
    chance = _p(d.p) + (", though the permutation test alone would call it one" if d.p <= 1 - d.confidence else "")
    return (
        f"These {d.n} items show no clear difference between {arm} and {against}: {arm} is "
        f"{'ahead' if d.mean >= 0 else 'behind'} by {abs(d.mean):.{places}f} {unit} on average, but the {_level(d)} "
        f"interval from {low:.{places}f} to {high:.{places}f} includes zero ({chance}); with {d.n} items, only a true "
        f"difference of about {effect:.{places}f} or more would show four times in five."
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _level(d: Difference) -> str:
    return f"{100 * d.confidence:g} %"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _places(width: float) -> int:
    """Return how many decimals give a width two significant digits, and never fewer than three."""
    return min(6, max(3, 1 - math.floor(math.log10(width)))) if width > 0 else 3


def _finite(values: Numbers, what: str) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"{what}: expected a list of at least one number, found shape {data.shape}.")
    bad = np.flatnonzero(~np.isfinite(data))
    if len(bad):
        raise ValueError(f"{what}: item {bad[0]} is {data[bad[0]]}. Leave it out, or find out why it has no number.")
    return data


def _chunks(draws: int, n: int) -> Iterator[int]:
    """Split a number of draws of n items each so that a chunk fits in memory."""
    most = max(1, _CELLS // n)
    yield from (min(most, draws - done) for done in range(0, draws, most))


def _bca(data: Floats, mean: float, confidence: float, seed: int, draws: int) -> tuple[float, float]:
    rng, n = np.random.default_rng(seed), len(data)
    means = np.concatenate([data[rng.integers(0, n, (rows, n))].mean(axis=1) for rows in _chunks(draws, n)])
    tail = (1 - confidence) / 2
    slack = 1e-12 * np.abs(data).max()  # resamples equal to the sample must not differ from it by rounding
    below = float((np.count_nonzero(means < mean - slack) + np.count_nonzero(means <= mean + slack)) / (2 * draws))
    shares = (tail, 1 - tail)
    if 0 < below < 1:
        bias, deviations = _NORMAL.inv_cdf(below), data - mean
        # The jackknife formula for the acceleration, which for a mean needs no jackknife.
        acceleration = float(np.sum(deviations**3) / (6 * np.sum(deviations**2) ** 1.5))
        shifted = [bias + _NORMAL.inv_cdf(share) for share in shares]
        if all(1 - acceleration * z > 0 for z in shifted):
            first, second = (_NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted)
            shares = (first, second)
    low, high = np.quantile(means, shares)
    return float(low), float(high)


def _sign_flip(differences: Floats, seed: int) -> float:
    """
    Return the two-sided p-value of the mean difference when each item's sign is a fair coin.

    All sign patterns are counted for up to 16 items that differ. Beyond, b of m random patterns are as extreme and
    p = (b + 1) / (m + 1): Phipson and Smyth (2010), "Permutation P-values Should Never Be Zero".
    """
    sizes = np.sort(np.abs(differences[differences != 0]))
    observed = abs(math.fsum(differences)) - 1e-12 * sizes.sum()
    if len(sizes) <= _EXACT:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums - size, sums + size])
        return float(np.mean(np.abs(sums) >= observed))
    rng, n = np.random.default_rng(seed), len(sizes)
    signs = (rng.integers(0, 2, (rows, n), dtype=np.int8) * 2 - 1 for rows in _chunks(_FLIPS, n))
    extreme = sum(int(np.count_nonzero(np.abs(chunk @ sizes) >= observed)) for chunk in signs)
    return (extreme + 1) / (_FLIPS + 1)


def _smallest_effect(differences: Floats, confidence: float) -> float | None:
    error = standard_error(differences)
    return None if error is None else _detectable(len(differences), confidence) * error


@functools.cache
def _detectable(n: int, confidence: float, power: float = 0.8) -> float:
    """
    Return the smallest effect, in standard errors, that a two-sided paired t-test of n items detects with that power.

    This is the noncentrality at which the noncentral t lies beyond the critical value with probability `power` (Cohen
    1988, "Statistical Power Analysis"); the chance of a verdict in the wrong direction is left out, being next to nil.
    """
    df, critical = n - 1, _t_quantile((1 + confidence) / 2, n - 1)
    # T > critical means Z > critical * S - noncentrality, with S = sqrt(chi2 / df): average over S on a fine grid.
    reach = 10 / math.sqrt(2 * df)
    edges = np.linspace(max(0.0, 1 - reach), 1 + reach, 501)
    s = (edges[1:] + edges[:-1]) / 2
    log_density = (df - 1) * np.log(s) - df * s**2 / 2
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()

    def detects(noncentrality: float) -> float:
        tails = [math.erfc(x) / 2 for x in (critical * s - noncentrality) / math.sqrt(2)]
        return float(weights @ tails)

    return _solve(detects, power, 0.0, 2 * critical + 10)


def _t_quantile(share: float, df: int) -> float:
    """Return the quantile (share of at least 0.5) of Student's t with a whole number of degrees of freedom."""
    angle = _solve(lambda angle: _t_within(angle, df), 2 * share - 1, 0.0, math.pi / 2)
    return math.sqrt(df) * math.tan(angle)


def _t_within(angle: float, df: int) -> float:
    """Return P(|T| < sqrt(df) tan(angle)): the finite series 26.7.3 and 26.7.4 of Abramowitz and Stegun (1964)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    k = np.arange(2 + df % 2, df - 1, 2)
    series = 1 + float(np.cumprod((k - 1) / k * cosine**2).sum())
    if df % 2 == 0:
        return sine * series
    return 2 / math.pi * (angle + (sine * cosine * series if df > 1 else 0.0))


def _solve(rising: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Return where a rising function meets its target, by bisection."""
    for _ in range(42):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < target else (low, middle)
    return (low + high) / 2
