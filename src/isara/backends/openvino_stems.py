"""
Stems: what several prompts begin with and that ends within a page, computed before them so that they can copy it.

Pages are shared whole, and prompts that begin alike seldom part at the end of one: the answers that a question is
scored with share half a page of it on average, and the system prompt of a chat template may fill none.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from isara.backends.forest import common
from isara.backends.openvino_graph import Batch
from isara.backends.openvino_pages import OWN, Lease
from isara.backends.openvino_session import Session

_WORTH = 16
"""Tokens that a stem must spare the prompts that begin with it, beyond its own."""
_SHARE = 4
"""Stems take no more than one of so many pages."""


@dataclass(frozen=True, slots=True)
class Stem:
    """A beginning of several prompts."""

    tokens: list[int]
    first: int
    """The first of these prompts, in their order."""
    end: int
    """The one after the last of them."""


def stems(prompts: Sequence[list[int]], size: int) -> Iterator[Stem]:
    """Yield the stems of sorted prompts that are worth it, pages being of `size` tokens; those of the first first."""
    alike = [0, *(common(one, other) for one, other in pairwise(prompts)), 0]
    # What each prompt finds in whole pages, stems or not.
    paged = [min(max(alike[i : i + 2]), len(prompt) - OWN) // size * size for i, prompt in enumerate(prompts)]
    waiting = [(0, len(prompts), 0)]
    while waiting:
        start, end, before = waiting.pop()
        if end - start < 2:
            continue
        parting = min(alike[start + 1 : end])
        depth = min(parting, len(prompts[start]) - OWN)
        spared = sum(max(0, depth - max(before, paged[i])) for i in range(start, end) if depth <= len(prompts[i]) - OWN)
        if depth % size >= OWN and spared - depth % size >= _WORTH:
            yield Stem(prompts[start][:depth], start, end)
            before = depth
        forks = [start, *(i for i in range(start + 1, end) if alike[i] == parting), end]
        # Taken from the end, so the first part is put there.
        waiting += [(*part, before) for part in reversed(list(pairwise(forks)))]


class Stems:
    """
    Leases pages to sorted prompts, one after the other, and computes their stems some time before their turn.

    What is held at the end, or when something failed, goes with all other pages of the call.
    """

    def __init__(self, session: Session, prompts: Sequence[list[int]]) -> None:
        self.session = session
        self.turn = 0
        self.until = 0
        self.coming = deque(stems(prompts, session.pages.size))
        self.held: list[tuple[Stem, Lease]] = []

    def prepare(self) -> None:
        """
        Have computed what the prompts of the next batch begin with; none of them may have its pages yet.

        Pages are known as soon as they are leased, and a stem would go on from what no batch has computed.
        """
        self.let_go(self.turn)
        if self.coming and self.coming[0].first <= self.turn:
            self.compute()
        # Those for which there is no room yet are not waited for.
        self.until = next((stem.first for stem in self.coming if stem.first > self.turn), sys.maxsize)

    def lease(self, prompt: list[int], length: int, *, alone: bool) -> Lease | None:
        """
        Return pages for the next prompt; None where it has to wait: for room, or for its stems.

        For one that is `alone`, with nothing under way, stems make room.
        """
        if self.turn >= self.until:
            return None
        lease = self.session.lease(prompt, length)
        if lease is None and alone and self.held:
            self.let_go()
            lease = self.session.lease(prompt, length)
        self.turn += lease is not None
        return lease

    def compute(self) -> None:
        """Compute the next stems: as many as are computed at once and as have room."""
        batch, found, pages = Batch(), [], self.session.pages
        room = pages.count // _SHARE - sum(len(lease.pages) for _, lease in self.held)
        while self.coming and room > 0 and len(batch.tokens) < self.session.most_tokens:
            stem = self.coming.popleft()
            lease = self.session.lease(stem.tokens, len(stem.tokens)) if stem.end > self.turn else None
            if lease is not None:
                batch.add(stem.tokens[lease.known :], lease.known, lease.pages, [])
                found.append((stem, lease))
                room -= len(lease.pages)
        if not found:
            return
        # A graph that is asked for no place at all has no shape for its logits.
        batch.places.append(len(batch.tokens) - 1)
        self.session.runner.run(batch)
        for stem, lease in found:
            pages.keep(stem.tokens, lease)
        self.held += found

    def let_go(self, turn: int | None = None) -> None:
        """Give back the stems that no prompt from a turn on begins with; all of them where no turn is given."""
        for stem, lease in self.held:
            if turn is None or stem.end <= turn:
                self.session.pages.let_go(stem.tokens, lease)
        self.held = [(stem, lease) for stem, lease in self.held if turn is not None and stem.end > turn]
