"""The loss of answers, and how likely their tokens are, a few rows of the vocabulary at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 16
"""Rows of logits in float32 at once: 3 MB of a vocabulary of 49,152, which stays in a processor's cache."""


def answer_loss(logits: Tensor, targets: Tensor, total: int) -> Tensor:
    """Return the cross-entropy of rows of logits, summed and divided by `total`."""
    loss: Tensor = _AnswerLoss.apply(logits, targets, total)  # type: ignore[no-untyped-call]
    return loss


class _AnswerLoss(torch.autograd.Function):
    """One exponential serves loss and gradient, and no copy of all rows is made in another format."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, total: int) -> Tensor:
        gradient = torch.empty_like(logits)
        losses = []
        for rows, wanted, out in zip(
            torch.split(logits, _ROWS), torch.split(targets[:, None], _ROWS), torch.split(gradient, _ROWS), strict=True
        ):
            shares, sums, logs = _exponentials(rows, wanted)
            losses.append(logs)
            shares.mul_(1 / (sums * total))
            shares.scatter_add_(1, wanted, torch.full_like(logs, -1 / total))
            out.copy_(shares)
        ctx.save_for_backward(gradient)
        return -torch.cat(losses).sum() / total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The loss is nearly always the root, and then there is nothing to multiply these many numbers by.
        return gradient if float(grads[0]) == 1 else gradient * grads[0].to(gradient.dtype), None, None


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probability of one token for each row of logits, in float32."""
    parts = zip(torch.split(logits, _ROWS), torch.split(targets[:, None], _ROWS), strict=True)
    return torch.cat([_exponentials(rows, wanted)[2] for rows, wanted in parts])[:, 0]


def _exponentials(rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exponentials of rows less their maximum, their sums, and the log-probabilities of the wanted tokens."""
    shares = rows.float() if rows.dtype != torch.float32 else rows.clone()
    chosen = shares.gather(1, wanted)
    highest = shares.amax(-1, keepdim=True)
    sums = shares.sub_(highest).exp_().sum(-1, keepdim=True)
    return shares, sums, chosen - highest - sums.log()
