"""
Several sequences in one row: no padding in the large matrix products, exact boundaries in attention.

All linear layers of a transformer work on tokens one by one, so the tokens of a whole batch can lie end to end in
a row of shape (1, tokens). Only attention must know where a sequence ends. `attend` is registered with
transformers as the attention implementation `isara`; it finds the boundaries in a `Layout` that travels through
the model's keyword arguments. The same function keeps the keys and values of each sequence for decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every reader of torch code knows)
from torch import Tensor

from isara.backends.attention import (
    Places,
    causal,
    explicit,
    grouped_heads,
    packed_attention,
    places,
    put_together,
    taken_apart,
)
from isara.backends.forest import Forest

IMPLEMENTATION = "isara"


class Layout:
    """Where the tokens of several sequences lie in one row, and what their attention may see."""

    def __init__(
        self, lengths: Sequence[int], device: torch.device, rows: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Lay out sequences of the given lengths: end to end, or where `rows` says, which may have some in common."""
        self.count = len(lengths)
        self.longest = max(lengths)
        self.device = device
        self.decoding = False
        self.windows: set[int | None] = set()
        """The sliding windows that layers asked for; None for a layer that sees everything before it."""
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.lengths = torch.tensor(lengths, device=device)
        starts = torch.cumsum(self.lengths, 0) - self.lengths
        self.last = starts + self.lengths - 1
        columns = torch.arange(self.longest, device=device)
        inside = columns[None, :] < self.lengths[:, None]
        self.gather = torch.where(inside, starts[:, None] + columns[None, :], 0)
        self.scatter = inside.flatten().nonzero()[:, 0]
        self.again = torch.empty(2, 0, dtype=torch.long, device=device)
        """Rows that several sequences have in common, and each place where they stand but the first, (2, places)."""
        if rows is not None:
            self._stand(rows)
        self.positions = (self.scatter % self.longest)[None, :]
        self._places: dict[int, Places] = {}
        self._biases: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def _stand(self, rows: Sequence[Sequence[int]]) -> None:
        """Let each sequence stand in its rows; the first to stand in a row is who reads it."""
        first: dict[int, int] = {}
        again: list[tuple[int, int]] = []
        for sequence, own in enumerate(rows):
            for place, row in enumerate(own, sequence * self.longest):
                if first.setdefault(row, place) != place:
                    again.append((row, place))
        device = self.device
        padded = [[*own, *[0] * (self.longest - len(own))] for own in rows]
        self.gather = torch.tensor(padded, device=device)
        self.scatter = torch.tensor([first[row] for row in range(len(first))], device=device)
        if again:
            self.again = torch.tensor(again, device=device).t()

    def places(self, heads: int) -> Places:
        """Return where the rows of so many heads stand among padded sequences."""
        if heads not in self._places:
            self._places[heads] = places(self.gather, self.scatter, self.again, heads)
        return self._places[heads]

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return 0 where a place may see another and -inf where not, shape (longest, longest)."""
        if (window, dtype) not in self._biases:
            hidden = ~causal(self.longest, window, self.device)
            self._biases[window, dtype] = torch.zeros_like(hidden, dtype=dtype).masked_fill_(hidden, float("-inf"))
        return self._biases[window, dtype]

    def split(self, states: Tensor) -> Tensor:
        """Take (1, heads, tokens, size) apart into (sequences, heads, longest, size)."""
        return taken_apart(states, self.places(states.shape[1]))

    def join(self, states: Tensor) -> Tensor:
        """Put (sequences, heads, longest, size) together as (1, tokens, heads, size)."""
        return put_together(states, self.places(states.shape[1]))

    def decode_step(self) -> Tensor:
        """Go on to one further token in each sequence; returns their positions, shape (1, sequences)."""
        if self.decoding:
            self.lengths = self.lengths + 1
        self.decoding = True
        return self.lengths[None, :]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add one token (1, heads, sequences, size) to each sequence; returns all keys, values and what is real."""
        rows = torch.arange(self.count, device=self.device)
        self.keys[layer][rows, :, self.lengths] = key[0].transpose(0, 1)
        self.values[layer][rows, :, self.lengths] = value[0].transpose(0, 1)
        # The longest sequence bounds what has to be read; the host keeps count, so no GPU has to be asked.
        end = self.longest + 1
        seen = torch.arange(end, device=self.device)[None, :] <= self.lengths[:, None]
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end], seen

    def grew(self) -> None:
        """Note that every layer has taken the step."""
        self.longest += 1

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the sequences only."""
        self.count = len(rows)
        self.lengths = self.lengths[rows]
        self.keys = {layer: states[rows] for layer, states in self.keys.items()}
        self.values = {layer: states[rows] for layer, states in self.values.items()}


def prefill(prompts: Sequence[list[int]], device: torch.device, room: int) -> tuple[Forest, Layout]:
    """
    Return prompts laid out to be read, and the layout to decode from once they have been.

    Reading the first fills the second with the keys and values of each prompt, and space for `room` further tokens.
    """
    forest = Forest(prompts, device)
    layout = Layout([len(prompt) for prompt in prompts], device)
    rows = torch.tensor([[*rows, *[0] * (layout.longest - len(rows))] for rows in forest.rows], device=device)

    def keep(layer: int, key: Tensor, value: Tensor) -> None:
        for kept, states in ((layout.keys, key), (layout.values, value)):
            kept[layer] = F.pad(states[0].transpose(0, 1)[rows].transpose(1, 2), (0, 0, 0, room))

    forest.keep = keep
    return forest, layout


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | Forest,
    layer_idx: int | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of a packed row; see transformers' `AttentionInterface` for the arguments."""
    layout.windows.add(sliding_window)
    layer: int = module.layer_idx if layer_idx is None else layer_idx  # type: ignore[assignment]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(layout, Forest):
        layout.keep(layer, key, value)
        return layout.attend(query, key, value, scale, sliding_window, softcap, s_aux), None
    if layout.decoding:
        keys, values, seen = layout.extend(layer, key, value)
        if sliding_window is not None:
            far = layout.lengths[:, None] - torch.arange(seen.shape[1], device=seen.device)[None, :]
            seen = seen & (far < sliding_window)
        grouped = grouped_heads(query[0].transpose(0, 1)[:, :, None, :], keys.shape[1])
        out = explicit(grouped, keys, values, seen[:, None, None, None, :], scale, softcap, s_aux)
        return out.reshape(1, layout.count, query.shape[1], -1), None
    windowed = sliding_window is not None and layout.longest > sliding_window
    window = sliding_window if windowed else None
    slow = _slow_fused(query)
    if slow and softcap is None and s_aux is None:
        at = layout.places(query.shape[1]), layout.places(key.shape[1])
        return packed_attention(query, key, value, at, layout.bias(window, query.dtype), scale), None
    q, k, v = layout.split(query), layout.split(key), layout.split(value)
    if windowed or softcap is not None or s_aux is not None or slow:
        mask = causal(layout.longest, window, query.device)
        grouped = grouped_heads(q, k.shape[1])
        out = explicit(grouped, k, v, mask, scale, softcap, s_aux).reshape(q.shape[:3] + v.shape[-1:])
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return layout.join(out), None


def _slow_fused(query: Tensor) -> bool:
    """Return whether the fused kernel would be slow: in backward on a CPU (15 ms a layer against 1 ms in bfloat16)."""
    return query.device.type == "cpu" and torch.is_grad_enabled() and query.requires_grad


def register() -> None:
    """Make `attn_implementation="isara"` known to transformers; doing it twice is harmless."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*unused: Any, **unused_too: Any) -> None:
    """Build no mask: the layout says what may be seen."""
