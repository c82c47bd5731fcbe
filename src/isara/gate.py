"""The gate: whether a round is kept, by the held-out scores of the same samples under two arms."""

from __future__ import annotations

import numpy as np

from isara import stats
from isara.settings import GateSettings

_NAMES = {"base": "the untouched model", "seeds-only": "tuning on the seeds alone"}


def decide(
    before: stats.Numbers, after: stats.Numbers, names: tuple[str, str], chosen: GateSettings
) -> tuple[bool, str]:
    """
    Return whether a round is kept, and a sentence that says why.

    `before` and `after` are NLL per token of the same samples under the best arm so far and under the round's, which
    `names` gives in this order. Where `chosen` asks for it, a gain within so many standard errors of the paired
    difference is no reason to leave the arm that was there: the rule of Breiman et al. (1984), "Classification and
    Regression Trees", section 3.4.3, for a choice by estimates that are noisy. One sample alone has no standard error,
    and decides by its gain. ValueError as by `isara.stats.standard_error`.
    """
    then, now = (np.asarray(scores, dtype=np.float64) for scores in (before, after))
    gain, error = float(then.mean() - now.mean()), stats.standard_error(then - now)
    margin = 0.0 if error is None else chosen.standard_errors * error
    kept = gain > max(chosen.min_gain, margin)
    verb = "lowers" if gain > 0 else "raises" if gain < 0 else "does not change"
    why = f"{names[1]} {verb} the held-out NLL per token of {_NAMES.get(names[0], names[0])} "
    why += f"({then.mean():.3f}) to {now.mean():.3f}"
    if gain > 0 and not kept:
        why += f", by {gain:.3f}, and not by more than {limit(margin, chosen)}"
    return kept, f"{why}: {'kept' if kept else 'not kept'}."


def goes_on(kept: bool, chosen: GateSettings) -> bool:
    """Whether later rounds build on one that the gate kept, or did not."""
    return kept or chosen.keep == "all"


def stopped(number: int, failures: int) -> str:
    """Say that rounds ended after one, as so many in a row were not kept."""
    which = "it was" if failures == 1 else f"the last {failures} rounds were"
    return f"Stopped after round {number}: {which} not kept."


def limit(margin: float, chosen: GateSettings) -> str:
    """Return what a gain that was not enough should have been above."""
    if chosen.min_gain >= margin:
        return f"gate.min_gain, {chosen.min_gain:g}"
    times = "the standard error" if chosen.standard_errors == 1 else f"{chosen.standard_errors:g} standard errors"
    return f"{times} of the difference, {margin:.3f}"
