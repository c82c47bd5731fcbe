"""Which example a training draws when, by the weights of the examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch


def draw_order(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """
    Return which example comes when: each as often as its weight asks, to within one, spread evenly over the time.

    The copies of an example are placed at equal distances with a random offset, so no batch is full of one.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(len(weights), generator=generator, dtype=torch.float64).tolist()
    places = [
        ((copy + offsets[i]) / copies, i)
        for i, copies in enumerate(copies_of(weights, count, generator))
        for copy in range(copies)
    ]
    return [i for _, i in sorted(places)]


def copies_of(weights: Sequence[float], count: int, generator: torch.Generator) -> list[int]:
    """Return how often each example is drawn: its share of `count` rounded up or down, `count` in all."""
    copies = [0] * len(weights)
    order = torch.randperm(len(weights), generator=generator).tolist()
    # Systematic sampling: the shares lie end to end in random order, and the copies are the whole numbers they cover.
    passed = list(accumulate(weights[i] for i in order))
    start = float(torch.rand(1, generator=generator, dtype=torch.float64))
    reached = 0
    for i, sofar in zip(order, passed, strict=True):
        end = min(count, math.floor(start + count * (sofar / passed[-1])))
        copies[i], reached = end - reached, end
    return copies
