"""Which demonstrations the prompts of a batch may have in common, so that what they begin with is read once."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence


def common_starts(near: Sequence[Sequence[int]], most: int) -> list[tuple[int, ...]]:
    """
    Return with what each of several lists may begin: at most `most` of its own members, in an order that others share.

    Among all lists the member that most of them have comes first, for all that have it; among these again the next
    one, and so on; then the same for the lists that are left. One that no two lists have is in no start. This is the
    greedy prefix tree: whether a better one exists is not looked for.
    """
    starts: list[tuple[int, ...]] = [()] * len(near)
    waiting: list[tuple[Sequence[int], tuple[int, ...]]] = [(range(len(near)), ())] if most > 0 else []
    while waiting:
        lists, start = waiting.pop()
        for member, having in most_common(near, lists, frozenset(start)):
            for i in having:
                starts[i] = (*start, member)
            if len(start) + 1 < most:
                waiting.append((having, (*start, member)))
    return starts


def further(starts: Sequence[tuple[int, ...]], rest: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return with what lists that have the same start may go on, in the same way, out of the `rest` of each."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for i, start in enumerate(starts):
        alike.setdefault(start, []).append(i)
    ends: list[tuple[int, ...]] = [()] * len(rest)
    for group in alike.values():
        some = [rest[i] for i in group]
        for i, end in zip(group, common_starts(some, max(map(len, some))), strict=True):
            ends[i] = end
    return ends


def most_common(
    near: Sequence[Sequence[int]], lists: Sequence[int], left_out: frozenset[int]
) -> Iterator[tuple[int, list[int]]]:
    """
    Part some of the lists by their most frequent members: yield a member, and the lists that have it.

    Each list comes once, with the most frequent of its members among the lists left at that time; of equals the
    smallest. Lists without a member in common with another come in no part.
    """
    having: dict[int, list[int]] = {}
    for i in lists:
        for member in near[i]:
            if member not in left_out:
                having.setdefault(member, []).append(i)
    counts = Counter({member: len(some) for member, some in having.items()})
    heap = [(-count, member) for member, count in counts.items()]
    heapq.heapify(heap)
    left = set(lists)
    while heap:
        count, member = heapq.heappop(heap)
        if -count != counts[member]:
            # Counted when more lists were left.
            heapq.heappush(heap, (-counts[member], member))
            continue
        if counts[member] < 2:
            return
        part = [i for i in having[member] if i in left]
        left.difference_update(part)
        for i in part:
            for other in near[i]:
                counts[other] -= 1
        yield member, part
