"""
What an answer teaches at each of its places: one token, or the probabilities that a model gave to several.

Training on the probabilities that the same model gives with demonstrations in view moves what the demonstrations
change into the weights: context distillation (Snell et al. 2022, arXiv 2209.15189). One sampled string carries much
less of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isara.backends.loss import shares_loss
from isara.protocols import Targets

Soft = tuple[Tensor, Tensor]
"""Token ids and their probabilities at each place of a completion, both (places, k)."""
Likely = tuple[NDArray[np.int32], NDArray[np.float16]]
"""The same as they are recorded; or those of one place, both (k)."""


def likeliest(tokens: Sequence[int], logits: Tensor, k: int) -> Targets:
    """Return the `k` likeliest tokens at each place, from the logits there, shape (places, vocabulary)."""
    # In parts, as the float32 copy of all rows of a long answer would be large.
    ids, probabilities = zip(*(likeliest_in(rows, k) for rows in torch.split(logits, 256)), strict=True)
    return Targets(tuple(tokens), np.concatenate(ids), np.concatenate(probabilities))


def likeliest_in(logits: Tensor, k: int) -> Likely:
    """Return the `k` likeliest tokens of rows of logits, shape (rows, vocabulary), and their probabilities."""
    rows = logits.float()
    values, ids = rows.topk(min(k, rows.shape[-1]))
    shares = (values - rows.logsumexp(-1, keepdim=True)).exp()
    return ids.cpu().numpy().astype(np.int32), shares.cpu().numpy().astype(np.float16)


def recorded(tokens: Sequence[int], likely: Sequence[Likely]) -> Targets | None:
    """Return what was noted at each place while a text was written; None where a place is wanting."""
    if not tokens or len(likely) < len(tokens):
        return None
    places = likely[: len(tokens)]
    return Targets(tuple(tokens), np.stack([ids for ids, _ in places]), np.stack([shares for _, shares in places]))


def aligned(completion: Sequence[int], targets: Targets | None) -> Soft | None:
    """
    Return what a completion teaches where it has targets; None where it has none.

    The generator may have read the same answer as other tokens: after plain text it begins with a space, and no end
    of the turn follows. The end is then certain, and so are places before the last one at which the tokens differ.
    """
    if targets is None:
        return None
    end = 0 if targets.tokens[-1:] == tuple(completion[-1:]) else 1
    ours, theirs = completion[: len(completion) - end], targets.tokens
    same = 0
    while same < min(len(ours), len(theirs)) and ours[-1 - same] == theirs[-1 - same]:
        same += 1
    ids = torch.zeros(len(completion), targets.ids.shape[1], dtype=torch.long)
    probabilities = torch.zeros(ids.shape)
    ids[:, 0], probabilities[:, 0] = torch.tensor(completion), 1.0
    if same:
        kept = torch.from_numpy(targets.probabilities[len(theirs) - same :].astype(np.float32))
        place = slice(len(ours) - same, len(ours))
        ids[place] = torch.from_numpy(targets.ids[len(theirs) - same :].astype(np.int64))
        probabilities[place] = kept / kept.sum(-1, keepdim=True)
    return ids, probabilities


def soft_loss(logits: Tensor, tokens: Tensor, total: int, counts: Sequence[int], soft: Sequence[Soft | None]) -> Tensor:
    """
    Return the cross-entropy of rows of logits, summed and divided by `total`.

    The rows are those of several completions of `counts` tokens each, end to end; `soft` has what each of them
    teaches, where that is more than its own tokens.
    """
    widest = max((one[0].shape[1] for one in soft if one is not None), default=1)
    ids = torch.zeros(len(tokens), widest, dtype=torch.long, device=tokens.device)
    probabilities = torch.zeros(len(tokens), widest, device=tokens.device)
    ids[:, 0], probabilities[:, 0] = tokens, 1.0
    start = 0
    for count, one in zip(counts, soft, strict=True):
        if one is not None:
            width = one[0].shape[1]
            ids[start : start + count, :width] = one[0].to(tokens.device)
            probabilities[start : start + count, :width] = one[1].to(tokens.device)
        start += count
    return shares_loss(logits, ids, probabilities, total)
