"""When memory runs out: telling that from other errors, and going on with less at once."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from isara.errors import BackendError

_SIGNS = (
    "allocate memory",
    "failed to allocate",
    "can't alloc",
    "resource temporarily unavailable",
    "out of memory",
    "not enough memory",
    "alloc_cpu",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory",
    "could not create a primitive",
)
"""What the allocators of torch and OpenVINO, the kernel's mapping and oneDNN say, in part, when memory runs out."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no more memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and bool(signs_in(str(error)))


def signs_in(said: str) -> list[str]:
    """Return the lines that say that there is no more memory."""
    return [line.strip() for line in said.splitlines() if any(sign in line.lower() for sign in _SIGNS)]


def told_by(error: BaseException) -> str:
    """Return the line of an error that says that there is no more memory."""
    return [*signs_in(str(error)), *str(error).splitlines(), "no more memory"][0][:200]


class Budget:
    """How many tokens are worked on at once: halved when memory runs out, and not raised again."""

    def __init__(self, tokens: int, doing: str = "scoring", lower: str = "answers.max_tokens") -> None:
        """Start with `tokens`; `doing` says what for, `lower` what a reader can lower where one text is too much."""
        self.tokens = self.first = tokens
        self.doing = doing
        self.lower = lower

    @property
    def left(self) -> float:
        """The share of the first number of tokens that is left."""
        return self.tokens / self.first

    def shrink(self, sizes: Sequence[int], said: str) -> None:
        """Go on with half of what was too much; BackendError: that was a single text."""
        total = sum(sizes)
        if len(sizes) == 1:
            raise BackendError(
                f"Memory ran out {self.doing} one text of {total} tokens ({said}). Close other programs, lower "
                f"{self.lower}, or take a smaller model; what is complete is kept."
            )
        self.tokens = max(1, total // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        logging.getLogger(__name__).warning(
            "Memory ran out %s %d tokens at once; going on with at most %d at once. Nothing else changes but the last "
            "digits.",
            self.doing,
            total,
            self.tokens,
        )

    def work(self, sizes: Sequence[int], do: Callable[[list[int]], None]) -> None:
        """Call `do` with indices of items, in groups that fit; a group that does not is taken apart and done again."""
        left = list(range(len(sizes)))
        while left:
            group = [left[i] for i in next(grouped([sizes[i] for i in left], self.tokens))]
            said = attempt(lambda: do(group))  # noqa: B023  (called at once)
            if said is None:
                done = set(group)
                left = [i for i in left if i not in done]
            else:
                self.shrink([sizes[i] for i in group], said)


def attempt(do: Callable[[], None]) -> str | None:
    """Do something; returns the line that says that memory ran out where it did, else None."""
    try:
        do()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return told_by(error)
    return None


def grouped(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield indices in groups of like size whose sum stays under `most`; longest first, so memory runs out early."""
    group: list[int] = []
    total = 0
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        if group and total + sizes[i] > most:
            yield group
            group, total = [], 0
        group.append(i)
        total += sizes[i]
    if group:
        yield group


def give_back() -> None:
    """Return freed memory to the system: glibc keeps nearly a gigabyte of what the steps of a training took."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        # Another system, or another C library, such as musl, which keeps less.
        return
