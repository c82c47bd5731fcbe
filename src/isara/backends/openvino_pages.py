"""
Keys and values in pages of fixed size, shared by all prompts that begin in the same way.

A page that a prompt fills is known by its tokens and by the page before it, and is computed once: later prompts, and
those of the same step, point to it. Pages whose prompts are gone are kept until the room is needed, the one that has
been idle for longest going first. What a model wrote itself is never shared, so that what a prompt finds does not
depend on how it was decoded (Kwon et al. 2023, arXiv 2309.06180, has the idea; the tables are OpenVINO's).

Most beginnings end within a page. Once that page is computed, and kept, others copy it and go on in their copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Key = tuple[int, tuple[int, ...]]
"""What a page holds: the number of the content before it (0: nothing), and its own tokens."""

OWN = 2
"""Tokens at the end of a prompt that are always computed, whatever is known."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The pages of one sequence."""

    pages: tuple[int, ...]
    known: int
    """Tokens at its beginning that need not be computed: another prompt has, or does so in the same step."""
    copied: int | None = None
    """The page to copy into the one within which these tokens end; None where they end with a page."""


class Pages:
    """Which page holds what, and who uses it."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._free = list(range(count - 1, -1, -1))
        self._users = [0] * count
        self._keys: dict[int, Key] = {}
        self._found: dict[Key, tuple[int, int]] = {}
        """For each content, its page and the number it has as the beginning of longer contents."""
        self._kept: dict[int, dict[tuple[int, ...], int]] = {}
        """For each content, what follows it without filling a page, and a page that begins so and is computed."""
        self._idle: dict[int, None] = {}
        self._numbers = 0

    def needed(self, tokens: int) -> int:
        """Return how many pages a sequence of that length fills."""
        return -(-tokens // self.size)

    def lease(self, prompt: Sequence[int], length: int) -> Lease | None:
        """
        Return pages for a prompt that is to grow to `length` tokens; None where there is no room now.

        The last two tokens of a prompt are always computed: what follows them is what is asked for, and one token
        alone would be computed as a decoding step is, which rounds in another way.
        """
        shared, parent = self._known(prompt)
        begun, copied = self._begun(prompt, len(shared) * self.size, parent)
        idle = sum(page in self._idle for page in shared)
        fresh = self.needed(length) - len(shared)
        if fresh > len(self._free) + len(self._idle) - idle:
            return None
        for page in shared:
            self._idle.pop(page, None)
            self._users[page] += 1
        pages = [*shared, *(self._take() for _ in range(fresh))]
        for place in range(len(shared), self._shareable(prompt)):
            key = (parent, tuple(prompt[place * self.size : (place + 1) * self.size]))
            self._numbers += 1
            parent = self._numbers
            self._keys[pages[place]] = key
            self._found[key] = (pages[place], parent)
        return Lease(tuple(pages), len(shared) * self.size + begun, copied)

    def keep(self, tokens: Sequence[int], lease: Lease) -> None:
        """
        Let prompts copy the last page of a lease, when all of its tokens are computed.

        At least two of them are in that page, and it is not full.
        """
        parent, rest = self._unfilled(tokens)
        self._kept.setdefault(parent, {})[rest] = lease.pages[-1]

    def let_go(self, tokens: Sequence[int], lease: Lease) -> None:
        """End what `keep` began, and the lease."""
        parent, rest = self._unfilled(tokens)
        del self._kept[parent][rest]
        self.give_back(lease)

    def _unfilled(self, tokens: Sequence[int]) -> Key:
        """Return which content fills the pages of some tokens, and what is left for a page of its own."""
        pages, parent = self._known(tokens)
        return parent, tuple(tokens[len(pages) * self.size :])

    def give_back(self, lease: Lease) -> None:
        """End the use of pages; shared ones stay known for as long as there is room."""
        # The last pages go first, so that a long beginning loses its end before its start.
        for page in reversed(lease.pages):
            self._users[page] -= 1
            if self._users[page]:
                continue
            if page in self._keys:
                self._idle[page] = None
            else:
                self._free.append(page)

    def forget(self) -> None:
        """Know nothing any more of pages that nobody uses."""
        for page in list(self._idle):
            self._drop(page)
            self._free.append(page)

    def _shareable(self, prompt: Sequence[int]) -> int:
        """Return how many of a prompt's pages others may use."""
        return max(0, len(prompt) - OWN) // self.size

    def _known(self, prompt: Sequence[int]) -> tuple[list[int], int]:
        """Return the pages that already hold a prompt's beginning, and the number of that content."""
        pages: list[int] = []
        parent = 0
        for place in range(self._shareable(prompt)):
            found = self._found.get((parent, tuple(prompt[place * self.size : (place + 1) * self.size])))
            if found is None:
                break
            pages.append(found[0])
            parent = found[1]
        return pages, parent

    def _begun(self, prompt: Sequence[int], start: int, parent: int) -> tuple[int, int | None]:
        """Return how many tokens from `start` on a prompt has in common with a page that is kept, and that page."""
        kept = self._kept.get(parent, {})
        room = max(0, len(prompt) - OWN - start)
        for length in sorted({len(rest) for rest in kept}, reverse=True):
            page = kept.get(tuple(prompt[start : start + length])) if length <= room else None
            if page is not None:
                return length, page
        return 0, None

    def _take(self) -> int:
        """Return a page for new content, an idle one where none is free."""
        if self._free:
            page = self._free.pop()
        else:
            page = next(iter(self._idle))
            self._drop(page)
        self._users[page] = 1
        return page

    def _drop(self, page: int) -> None:
        """Forget what an idle page holds."""
        del self._idle[page]
        del self._found[self._keys.pop(page)]
