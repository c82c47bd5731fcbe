"""
Products with a frozen weight, as it is or in 8 bits.

Many CPUs multiply numbers of 8 bits four times as fast as float32, and bfloat16 not at all. Each row of the weight and
of what it is multiplied with is then rounded to multiples of a 127th of its largest number, and these are multiplied
exactly (vector-wise quantisation: Dettmers et al. 2022, arXiv 2208.07339). Gradients of the input come from the same
rounded weight, and those of an adapter's factors from numbers in full (as in SwitchBack: Wortsman et al. 2023, arXiv
2304.13013).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = 127
"""Steps on each side of zero that a number of 8 bits has."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A frozen weight as it is."""

    weight: Tensor

    def onward(self, x: Tensor) -> Tensor:
        """Return x W', (rows, out), for x of shape (rows, in)."""
        return x @ self.weight.t()

    def back(self, grad: Tensor) -> Tensor:
        """Return g W, (rows, in), for the gradient g of what came out, (rows, out)."""
        return grad @ self.weight


class InEightBits:
    """A frozen weight in 8 bits, with the step of each of its rows; for inputs in float32 on a CPU."""

    def __init__(self, weight: Tensor) -> None:
        self.numbers, steps = in_eight_bits(weight.detach().float())
        self.steps = steps.t().contiguous()

    def onward(self, x: Tensor) -> Tensor:
        """Return about x W', (rows, out), for x of shape (rows, in)."""
        numbers, steps = in_eight_bits(x)
        return torch._int_mm(numbers, self.numbers.t()).float().mul_(self.steps).mul_(steps)

    def back(self, grad: Tensor) -> Tensor:
        """Return about g W, (rows, in), for the gradient g of what came out, (rows, out)."""
        # The steps of the weight's rows are taken along here: what is added up has to have a step in common.
        numbers, steps = in_eight_bits(grad * self.steps)
        return torch._int_mm(numbers, self.numbers).float().mul_(steps)


Frozen = Whole | InEightBits
"""A frozen weight, (out, in), with its products onward and back."""


def in_eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as whole numbers of 8 bits, and the step of each row, shape (rows, 1)."""
    scratch = rows.abs()
    # A row of zeros has a step as well, to be divided by.
    steps = scratch.amax(1, keepdim=True).clamp_(min=torch.finfo(rows.dtype).tiny * _STEPS).div_(_STEPS)
    return torch.div(rows, steps, out=scratch).round_().to(torch.int8), steps
