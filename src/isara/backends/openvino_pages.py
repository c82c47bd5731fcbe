"""
Keys and values in pages of fixed size, shared by all prompts that begin in the same way.

A page that a prompt fills is known by its tokens and by the page before it, and is computed once: later prompts, and
those of the same step, point to it. Pages whose prompts are gone are kept until the room is needed, the one that has
been idle for longest going first. What a model wrote itself is never shared, so that what a prompt finds does not
depend on how it was decoded (Kwon et al. 2023, arXiv 2309.06180, has the idea; the tables are OpenVINO's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Key = tuple[int, tuple[int, ...]]
"""What a page holds: the number of the content before it (0: nothing), and its own tokens."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The pages of one sequence."""

    pages: tuple[int, ...]
    known: int
    """Tokens at its beginning that need not be computed: another prompt has, or does so in the same step."""


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
        return Lease(tuple(pages), len(shared) * self.size)

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
        return max(0, len(prompt) - 2) // self.size

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
