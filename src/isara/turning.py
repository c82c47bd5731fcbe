"""Which step of a training is the best so far, and when none after it is worth its time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isara.protocols import Step


def best_of(curve: Sequence[Step]) -> Step | None:
    """Return the step after which the held-out samples were likeliest, the first of equals; None without a check."""
    return min((step for step in curve if step.heldout), key=_total, default=None)


def has_turned(curve: Sequence[Step], patience: int) -> bool:
    """Return whether the last `patience` checks in a row, or more, found no held-out mean below the best."""
    scored = [step for step in curve if step.heldout]
    best = best_of(scored)
    return best is not None and len(scored) - 1 - scored.index(best) >= patience


def _total(step: Step) -> float:
    return math.fsum(step.heldout or ())
