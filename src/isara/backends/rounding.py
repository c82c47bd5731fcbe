"""Rounding to bfloat16 at random, up or down by what is nearer, so that small changes are seen on average."""

from __future__ import annotations

import torch
from torch import Tensor

_DROPPED = 16
"""Bits of a float32 that a bfloat16 has not."""
_AT_ONCE = 1 << 20
"""Numbers at a time, which stay in a processor's cache."""


def rounded_at_random(x: Tensor, generator: torch.Generator) -> Tensor:
    """
    Return float32 numbers as bfloat16, each rounded to either neighbour with the odds that make it right on average.

    Stochastic rounding (Zamirai et al. 2020, arXiv 2010.06192). What bfloat16 has is not changed. Weights of a
    checkpoint in bfloat16 begin in the middle between two roundings: rounded to the nearest, what they learned shows
    only once it is more than half of what bfloat16 numbers lie apart.
    """
    rounded = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
    parts = zip(
        *(torch.split(each, _AT_ONCE) for each in (x.reshape(-1), rounded.view(torch.int16).view(-1))), strict=True
    )
    for part, place in parts:
        # Drawing is most of the work, so that each 64 bits drawn serve four numbers.
        drawn = torch.randint(
            -(1 << 63), (1 << 63) - 1, (-(-len(part) // 4),), dtype=torch.int64, device=x.device, generator=generator
        )
        noise = drawn.view(torch.int16)[: len(part)].to(torch.int32).bitwise_and_((1 << _DROPPED) - 1)
        place.copy_(noise.add_(part.view(torch.int32)).bitwise_right_shift_(_DROPPED))
    return rounded
