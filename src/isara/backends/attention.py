"""Attention over padded sequences, written out: forward for every architecture, backward without waste."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every reader of torch code knows)
from torch import Tensor

_WRITTEN_OUT = 1 << 25
"""Most attention weights to write out: 128 MB in float32."""


def grouped_heads(query: Tensor, heads: int) -> Tensor:
    """Put the query heads that share a key head beside each other: (batch, key heads, group, length, size)."""
    return query.reshape(query.shape[0], heads, -1, *query.shape[2:])


def causal(length: int, window: int | None, device: torch.device) -> Tensor:
    """Return which columns each row may see, shape (length, length)."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def explicit(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """
    Attention written out; query is (batch, key heads, group, length, size).

    `sinks` has one logit for each query head, which takes its share of the attention and gives nothing (GPT-OSS).
    """
    batch, heads, group, length, size = query.shape
    flat = query.reshape(batch, heads, group * length, size)
    weights = (flat @ key.transpose(-1, -2)).view(batch, heads, group, length, -1).float() * scale
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    weights = weights.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, heads, group, 1, 1).expand(batch, -1, -1, length, -1)
        weights = torch.cat([weights, column], -1).softmax(-1)[..., :-1]
    else:
        weights = weights.softmax(-1)
    out = weights.to(value.dtype).reshape(batch, heads, group * length, -1) @ value
    return out.view(batch, heads * group, length, -1)


def padded_attention(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """
    Attend within padded sequences, for inference: queries (batch, heads, length, size), `seen` (batch, length, keys).

    On a CPU, torch's fused attention takes half as long again as the products written out, while those fit in memory.
    """
    batch, heads, length, size = query.shape
    if query.device.type != "cpu" or batch * heads * seen.shape[1] * seen.shape[2] > _WRITTEN_OUT:
        return F.scaled_dot_product_attention(query, key, value, seen[:, None], scale=scale, enable_gqa=True)
    flat = query.reshape(batch, key.shape[1], -1, size)
    weights = (flat @ key.transpose(-1, -2)).float().view(batch, heads, length, -1)
    shares = weights.mul_(scale).masked_fill_(~seen[:, None], float("-inf")).softmax(-1).to(value.dtype)
    return (shares.view(*flat.shape[:3], -1) @ value).view(batch, heads, length, -1)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a packed row, one for each token and head, stand among padded sequences of heads."""

    shape: tuple[int, int, int]
    """Sequences, heads, and the length of the longest sequence."""
    apart: Tensor
    """For each place of (sequences, heads, longest): its row in (tokens, heads); padding repeats the first row."""
    together: Tensor
    """For each row of (tokens, heads): its place in (sequences, heads, longest)."""
    padding: Tensor
    """The places whose output is not read: those that hold no token, or one that an earlier sequence has too."""
    again: tuple[Tensor, Tensor]
    """Rows of (tokens, heads) that stand in several places, and each place but the first."""

    def take_apart(self, states: Tensor) -> Tensor:
        """Return (1, heads, tokens, size) as (sequences, heads, longest, size), copied once."""
        rows = states.transpose(1, 2).reshape(-1, states.shape[-1])
        return rows.index_select(0, self.apart).view(*self.shape, -1)

    def take_gradients_apart(self, states: Tensor) -> Tensor:
        """Do so for gradients, which must not count a second time where padding repeats a row."""
        apart = self.take_apart(states)
        apart.view(-1, apart.shape[-1]).index_fill_(0, self.padding, 0)
        return apart

    def put_together(self, states: Tensor) -> Tensor:
        """Return (sequences, heads, longest, size) as (1, tokens, heads, size), copied once."""
        rows = states.reshape(-1, states.shape[-1]).index_select(0, self.together)
        return rows.view(1, -1, self.shape[1], states.shape[-1])

    def add_together(self, states: Tensor) -> Tensor:
        """Do so for gradients of what was read in every place: those of a token in several places are added up."""
        together = self.put_together(states)
        rows, places = self.again
        if len(rows):
            more = states.reshape(-1, states.shape[-1]).index_select(0, places)
            flat = together.view(-1, states.shape[-1])
            # A GPU adds with index_add_ in whatever order its threads come, and sorts for index_put_.
            if flat.device.type == "cpu":
                flat.index_add_(0, rows, more)
            else:
                flat.index_put_((rows,), more, accumulate=True)
        return together


def places(gather: Tensor, scatter: Tensor, again: Tensor, heads: int) -> Places:
    """
    Return the places of rows of `heads` heads.

    `gather` (sequences, longest) says which token stands at each place of the padded sequences, `scatter` (tokens) at
    which place each token stands first, and `again` (2, places) which tokens stand in which places besides.
    """
    count, longest = gather.shape
    head = torch.arange(heads, device=gather.device)
    apart = (gather[:, None, :] * heads + head[None, :, None]).flatten()

    def at(places: Tensor) -> Tensor:
        sequence, offset = places // longest, places % longest
        return ((sequence[:, None] * heads + head[None, :]) * longest + offset[:, None]).flatten()

    together = at(scatter)
    empty = torch.ones(len(apart), dtype=torch.bool, device=gather.device)
    empty[together] = False
    rows = (again[0][:, None] * heads + head[None, :]).flatten()
    return Places((count, heads, longest), apart, together, empty.nonzero()[:, 0], (rows, at(again[1])))


def taken_apart(states: Tensor, at: Places) -> Tensor:
    """Return (1, heads, tokens, size) as (sequences, heads, longest, size); the gradient is gathered, not scattered."""
    # What stands as padding is seen by no token and read by nobody, so that its gradient is 0.
    apart: Tensor = _Moved.apply(states, at.take_apart, lambda grad: at.add_together(grad).transpose(1, 2))  # type: ignore[no-untyped-call]
    return apart


def put_together(states: Tensor, at: Places) -> Tensor:
    """Return (sequences, heads, longest, size) as (1, tokens, heads, size); the gradient is gathered, not scattered."""
    together: Tensor = _Moved.apply(  # type: ignore[no-untyped-call]
        states, at.put_together, lambda grad: at.take_gradients_apart(grad.transpose(1, 2))
    )
    return together


class _Moved(torch.autograd.Function):
    """
    States moved to other places, and their gradients back again by a way of their own.

    Autograd would add gradients up place by place, and a GPU sort them first; here each is read from its place.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.back = back
        return there(states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(grads[0]), None, None


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, at: tuple[Places, Places], bias: Tensor, scale: float
) -> Tensor:
    """
    Attend within the sequences of a packed row, for training.

    In: (1, heads, tokens, size); out: (1, tokens, heads, size).

    `at` has the places of the query's rows and of the key's; `bias` (longest, longest) is 0 where a place may be seen
    and -inf elsewhere.
    """
    out: Tensor = _PackedAttention.apply(query, key, value, at, bias, scale)  # type: ignore[no-untyped-call]
    return out


class _PackedAttention(torch.autograd.Function):
    """
    softmax(scale Q K' + bias) V for each sequence, with the gradient by hand.

    Autograd would keep the weights in two formats and add gradients up place by place, which took longer than the
    products. Here each gradient is read from its place, once. With S the shares, O the output and D the row sums of
    dO O: dV = S' dO; dW = S (dO V' - D); dQ = scale dW K; dK = scale dW' Q (Dao et al. 2022, arXiv 2205.14135, 3.1).
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, at: tuple[Places, Places], bias: Tensor, scale: float
    ) -> Tensor:
        queries, keys = at
        count, heads, longest = keys.shape
        flat = queries.take_apart(query).view(count, heads, -1, query.shape[-1])
        k, v = keys.take_apart(key), keys.take_apart(value)
        weights = (flat @ k.transpose(-1, -2)).view(count, heads, -1, longest, longest)
        # In 16 bits torch's softmax over a few dozen places takes three times as long as in 32.
        wide = torch.add(bias, weights, alpha=scale, out=weights).softmax(-1, dtype=torch.float32)
        shares = wide.to(weights.dtype).view(count, heads, -1, longest)
        out = queries.put_together((shares @ v).view(*queries.shape, -1))
        ctx.save_for_backward(flat, k, v, shares, out)
        ctx.at, ctx.scale = at, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, k, v, shares, out = ctx.saved_tensors
        queries, keys = ctx.at
        (grad,) = grads
        along = queries.take_gradients_apart((grad * out).sum(-1, keepdim=True).transpose(1, 2))
        grad = queries.take_gradients_apart(grad.transpose(1, 2)).view(*flat.shape[:-1], -1)
        grad_v = shares.transpose(-1, -2) @ grad
        weights = grad @ v.transpose(-1, -2)
        weights.sub_(along.view(*flat.shape[:-1], 1)).mul_(shares)
        grad_q = (weights @ k).mul_(ctx.scale)
        grad_k = (weights.transpose(-1, -2) @ flat).mul_(ctx.scale)
        return (
            queries.put_together(grad_q.view(*queries.shape, -1)).transpose(1, 2),
            keys.add_together(grad_k).transpose(1, 2),
            keys.add_together(grad_v).transpose(1, 2),
            None,
            None,
            None,
        )
