"""How long to go on asking a server that fails: which failures may pass, and how long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_FIRST, _LONGEST = 0.5, 30.0
"""Seconds of the first wait and of the longest one that we choose ourselves."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""Status codes of failures that may pass: time-outs, overload, a crash of one request, a gateway without its server."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be."""

    timeout: float
    """Seconds for one answer."""
    retries: int
    deadline: float
    """Seconds for one request, with all its repeats and waits."""


class TroubleError(Exception):
    """A failure that may pass. `words` say what happened, for the last of them to be told."""

    def __init__(
        self,
        words: str,
        *,
        pressed: bool = False,
        after: float | None = None,
        silent: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(words)
        self.words = words
        self.pressed = pressed
        """Whether fewer requests at once would help."""
        self.after = after
        """Seconds that the server asks to wait."""
        self.silent = silent
        """Whether nobody answered at all."""
        self.status = status


class Patience:
    """The tries of one request: says how long to wait before the next one, or that enough is enough."""

    def __init__(self, limits: Limits, now: float, draw: Callable[[], float] = random.random) -> None:
        self.limits = limits
        self.begun = now
        self.draw = draw
        self.tries = 0

    def pause(self, trouble: TroubleError, now: float) -> float | None:
        """
        Return the seconds to wait before another try; None where there is to be none.

        Waits double, and are drawn between half and the whole, so that many requests that failed together do not come
        back together. What the server asks for is a lower bound.
        """
        self.tries += 1
        if self.tries > self.limits.retries:
            return None
        wait = min(_LONGEST, _FIRST * 2 ** (self.tries - 1)) * (0.5 + self.draw() / 2)
        wait = max(wait, trouble.after or 0.0)
        return wait if now + wait - self.begun < self.limits.deadline else None


def asked_to_wait(header: str | None, now: datetime) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if not header:
        return None
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())
