"""The loss of answers, and how likely their tokens are, a few rows of the vocabulary at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS, _ROWS_OF_A_GPU = 16, 1024
"""Rows of logits in float32 at once: 3 MB of a vocabulary of 49,152, which stays in a processor's cache; and 200 MB,
so that a GPU is not asked hundreds of times for little."""


def answer_loss(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """Return the cross-entropy of rows of logits with one token each, summed and divided by `total`."""
    return shares_loss(logits, targets[:, None], torch.ones(len(targets), 1, device=targets.device), total)


def shares_loss(logits: Tensor, ids: Tensor, shares: Tensor, total: int) -> Tensor:
    """
    Return the cross-entropy of rows of logits with the shares of several tokens, summed and divided by `total`.

    `ids` and `shares` are (rows, k); the shares of a row add up to 1.
    """
    loss: Tensor = _SharesLoss.apply(logits, ids, shares, total)  # type: ignore[no-untyped-call]
    return loss


class _SharesLoss(torch.autograd.Function):
    """
    One exponential serves loss and gradient, and no copy of all rows is made in another format.

    The gradient takes the place of the logits, of which there are many: whoever reads them afterwards finds it there.
    A layer that kept its output for its own gradient would be told so by autograd.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, shares: Tensor, total: int) -> Tensor:
        losses = []
        count = rows_at_once(logits)
        for rows, wanted, weights in zip(*(torch.split(each, count) for each in (logits, ids, shares)), strict=True):
            found, sums, logs = _exponentials(rows, wanted)
            losses.append((logs * weights).sum(-1))
            found.mul_(1 / (sums * total))
            found.scatter_add_(1, wanted, weights / -total)
            rows.copy_(found)
        ctx.save_for_backward(logits)
        return -torch.cat(losses).sum() / total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The loss is nearly always the root, and then there is nothing to multiply these many numbers by; but to ask a
        # GPU for the factor would be to wait for it.
        root = gradient.device.type == "cpu" and float(grads[0]) == 1
        own = gradient if root else gradient * grads[0].to(gradient.dtype)
        return own, None, None, None


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of one token for each row of logits, in float32."""
    count = rows_at_once(logits)
    parts = zip(torch.split(logits, count), torch.split(targets[:, None], count), strict=True)
    return torch.cat([_exponentials(rows, wanted)[2] for rows, wanted in parts])[:, 0]


def rows_at_once(logits: Tensor) -> int:
    """Return how many rows of logits to work on at once."""
    return _ROWS if logits.device.type == "cpu" else _ROWS_OF_A_GPU


def _exponentials(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exponentials of rows less their maximum, their sums, and the log-probabilities of the wanted tokens."""
    found = rows.float() if rows.dtype != torch.float32 else rows.clone()
    chosen = found.gather(1, wanted)
    highest = found.amax(-1, keepdim=True)
    sums = found.sub_(highest).exp_().sum(-1, keepdim=True)
    return found, sums, chosen - highest - sums.log()
