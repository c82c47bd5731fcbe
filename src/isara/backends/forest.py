"""
Sequences that begin alike in one row: what they share stands there once, and is computed once.

The candidates of one question share its prompt; prompts share the demonstrations they begin with. `Forest` lays
sequences out as segments, each going on from the segment before it, as in a prefix tree. The linear layers see each
token once; attention sees, for each segment, the whole path from the beginning. Nothing else changes, so the numbers
are those of the sequences one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from isara.backends.attention import explicit, grouped_heads, padded_attention

_WORTH = 8
"""Tokens that a shared beginning must have: for a few tokens of a template, more segments are not worth it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that goes on from another, or from the beginning."""

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    """The places in the packed row of the whole path to here, these tokens included."""

    @property
    def start(self) -> int:
        """The position of the first token."""
        return len(self.rows) - len(self.tokens)


@dataclass(frozen=True, slots=True)
class Block:
    """Segments of like length, padded to the longest: their own rows, the rows they may see, and their starts."""

    queries: Tensor
    keys: Tensor
    starts: Tensor
    real: Tensor
    """Which places of the padded queries hold a token."""


class Forest:
    """Sequences laid out as segments, and what each may see; travels through a network as a `Layout` does."""

    decoding = False

    def __init__(self, sequences: Sequence[list[int]], device: torch.device) -> None:
        """Lay out sequences, each of at least one token."""
        self.windows: set[int | None] = set()
        self.keep: Callable[[int, Tensor, Tensor], None] = _forget
        """Takes each layer's keys and values, where they are needed later."""
        self._seen: dict[tuple[int, int | None], Tensor] = {}
        self.rows: list[tuple[int, ...]] = [()] * len(sequences)
        """Where each sequence's tokens stand in the row."""
        segments = list(self._segments(sequences))
        self.tokens = torch.tensor([[token for segment in segments for token in segment.tokens]], device=device)
        ranges = [range(segment.start, len(segment.rows)) for segment in segments]
        self.positions = torch.tensor([[place for each in ranges for place in each]], device=device)
        self.blocks = [block_of(alike, device) for alike in alike_in_length(segments)]
        placed = torch.cat([block.queries[block.real] for block in self.blocks])
        self.order = torch.empty_like(placed)
        self.order[placed] = torch.arange(len(placed), device=device)

    def _segments(self, sequences: Sequence[list[int]]) -> Iterator[Segment]:
        """Yield the segments in the order of the row, and note where each sequence stands."""
        order = sorted(range(len(sequences)), key=lambda i: sequences[i])
        used = 0
        waiting: list[tuple[list[int], tuple[int, ...]]] = [(order, ())]
        while waiting:
            members, path = waiting.pop()
            for some in branches([sequences[i] for i in members], len(path)):
                inside = members[some.start : some.stop]
                first, last = sequences[inside[0]], sequences[inside[-1]]
                end = common(first, last)
                own = tuple(first[len(path) : end])
                rows = (*path, *range(used, used + len(own)))
                used += len(own)
                yield Segment(own, rows)
                for i in inside:
                    if len(sequences[i]) == end:
                        self.rows[i] = rows
                longer = [i for i in inside if len(sequences[i]) > end]
                if longer:
                    waiting.append((longer, rows))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Attend from each segment to its path: (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
        rows_q, rows_k, rows_v = (states[0].transpose(0, 1) for states in (query, key, value))
        found = []
        for number, block in enumerate(self.blocks):
            q, k, v = rows_q[block.queries], rows_k[block.keys], rows_v[block.keys]
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            seen = self.seen(number, window)
            if softcap is not None or sinks is not None:
                grouped = grouped_heads(q, k.shape[1])
                out = explicit(grouped, k, v, seen[:, None, None], scale, softcap, sinks)
                out = out.view(*q.shape[:3], -1)
            else:
                out = padded_attention(q, k, v, seen, scale)
            found.append(out.transpose(1, 2)[block.real])
        return torch.cat(found)[self.order][None]

    def seen(self, number: int, window: int | None) -> Tensor:
        """Return which places of its path each token of a block may see, shape (segments, queries, keys)."""
        if (number, window) not in self._seen:
            block = self.blocks[number]
            queries, keys = (torch.arange(rows.shape[1], device=rows.device) for rows in (block.queries, block.keys))
            behind = block.starts[:, None, None] + queries[None, :, None] - keys[None, None, :]
            seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
            self._seen[number, window] = seen
        return self._seen[number, window]


def _forget(layer: int, key: Tensor, value: Tensor) -> None:
    """Keep nothing."""


def common(one: list[int], other: list[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    if one[: len(other)] == other[: len(one)]:
        return min(len(one), len(other))
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def shared(sequences: Sequence[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Return tokens among which what sequences begin with alike stands once, and where each sequence stands there."""
    tokens: list[int] = []
    rows: list[list[int]] = [[] for _ in sequences]
    before: tuple[list[int], list[int]] = ([], [])
    # Sorted, a sequence has most in common with the one before it.
    for i in sorted(range(len(sequences)), key=lambda i: sequences[i]):
        alike = common(sequences[i], before[0])
        own = sequences[i][alike:]
        rows[i] = [*before[1][:alike], *range(len(tokens), len(tokens) + len(own))]
        tokens += own
        before = sequences[i], rows[i]
    return tokens, rows


def branches(sequences: Sequence[list[int]], depth: int) -> Iterator[range]:
    """Yield ranges of sorted sequences that go on alike for long enough after a depth; the others one by one."""
    start = 0
    for i, (one, other) in enumerate(pairwise(sequences), 1):
        alike = common(one, other)
        if alike - depth < _WORTH and not (alike == len(one) == len(other)):
            yield range(start, i)
            start = i
    yield range(start, len(sequences))


def alike_in_length(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield segments in groups whose padding takes no more than half of the places that attention looks at."""
    group: list[Segment] = []
    area = 0
    for segment in sorted(segments, key=lambda s: (len(s.tokens), len(s.rows))):
        own = len(segment.tokens) * len(segment.rows)
        padded = len(segment.tokens) * max([len(segment.rows), *(len(s.rows) for s in group)]) * (len(group) + 1)
        if group and padded > 2 * (area + own):
            yield group
            group, area = [], 0
        group.append(segment)
        area += own
    if group:
        yield group


def block_of(segments: Sequence[Segment], device: torch.device) -> Block:
    """Return segments as padded tensors; padding points at the first row."""
    longest, deepest = max(len(s.tokens) for s in segments), max(len(s.rows) for s in segments)
    own = [s.rows[s.start :] for s in segments]
    return Block(
        torch.tensor([[*rows, *[0] * (longest - len(rows))] for rows in own], device=device),
        torch.tensor([[*s.rows, *[0] * (deepest - len(s.rows))] for s in segments], device=device),
        torch.tensor([s.start for s in segments], device=device),
        torch.tensor([[True] * len(rows) + [False] * (longest - len(rows)) for rows in own], device=device),
    )


def fresh(sequences: Sequence[list[int]]) -> list[int]:
    """
    Return how many tokens at most each sequence, taken in the order of sorting, adds to those before it.

    The end of what it shares with the one before may lie beyond the last segment of both by less than is worth another.
    """
    order = sorted(sequences)
    alike = [0, *(common(one, other) for one, other in pairwise(order))]
    return [len(row) - max(0, shared - (_WORTH - 1)) for row, shared in zip(order, alike, strict=True)]


def cut(sequences: Sequence[list[int]], most: int) -> list[list[int]]:
    """Return indices in groups of about `most` tokens at most, counted once where shared; those alike together."""
    groups: list[list[int]] = []
    total = 0
    order = sorted(range(len(sequences)), key=lambda i: sequences[i])
    for i, new in zip(order, fresh(sequences), strict=True):
        if not groups or total + new > most:
            groups.append([])
            total, new = 0, len(sequences[i])
        groups[-1].append(i)
        total += new
    return groups
