"""Parts of a batch on the cores of a CPU, each at its own pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Part = TypeVar("Part")
Made = TypeVar("Made")


def side_by_side(work: Callable[[Part], Made], parts: Sequence[Part], cores: int) -> list[Made]:
    """
    Return what `work` makes of each part, in order; up to `cores` parts at a time share the threads torch may use.

    Threads that share one matrix product wait for each other after every one, thousands of times a second, and for
    other programs on their cores. Threads with a part of the batch each meet once, at the end.
    """
    if len(parts) < 2 or cores < 2:
        return [work(part) for part in parts]
    threads = torch.get_num_threads()
    own = max(1, threads // cores)
    try:
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            return list(pool.map(work, parts))
    finally:
        # One of torch's libraries keeps this number for all threads.
        torch.set_num_threads(threads)


@contextmanager
def on_one_core() -> Iterator[None]:
    """Let torch use one thread meanwhile: for many small operations, after each of which its threads would meet."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cores_for(tokens: int, least: int, device: torch.device) -> int:
    """Return in how many parts to divide so many tokens: one a core, each of `least` tokens; 1 on a GPU."""
    return max(1, min(torch.get_num_threads(), tokens // least)) if device.type == "cpu" else 1


def shares(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return indices in up to `count` parts of like size; they depend on nothing else."""
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        emptiest = filled.index(min(filled))
        parts[emptiest].append(i)
        filled[emptiest] += sizes[i]
    return [sorted(part) for part in parts if part]
