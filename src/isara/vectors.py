"""
Vectors that can be searched by their inner product, the same on every machine, in memory that is no more than theirs.

Vectors are rounded to float16 as they come in. Products of such numbers add up exactly in float64, in whatever order a
machine does it, so what is nearest, and which of equals comes first, is the same everywhere. That arithmetic is slow,
and only needed for what can win: products in float32, whose error has a bound, find out which those are.

Up to `EXACT` vectors every one is looked at. Beyond that, where the `scale` extra is installed, each full segment of
`SEGMENT` vectors gets an approximate index of its own (HNSW: Malkov and Yashunin 2016, "Efficient and robust
approximate nearest neighbor search using Hierarchical Navigable Small World graphs"). One thread makes it from those
vectors in their order, and it never changes, so that a run that was killed and goes on finds what it would have found.
What an index proposes is compared exactly, like the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.approximate import Segment, version
from isara.protocols import Vectors

EXACT = 200_000
"""As many vectors are searched one by one: a batch of 64 takes about a second there, and a model longer to write it."""
SEGMENT = 100_000
_BLOCK = 8192
_FIRST = 256
_FEW = 512


class Store:
    """Vectors that are searched; they grow in number, and none is forgotten."""

    def __init__(self, rows: NDArray[Any], *, exact: int = EXACT, segment: int = SEGMENT) -> None:
        """Hold vectors, shape (count, dimensions); `exact` and `segment` are for tests."""
        self._rows = np.zeros((0, rows.shape[1]), dtype=np.float16)
        self._count, self._longest = 0, 0.0
        self._exact, self._size = exact, segment
        self._segments: list[Segment] = []
        self.add(rows)

    def __len__(self) -> int:
        return self._count

    @property
    def held(self) -> NDArray[np.float16]:
        """The vectors themselves; not to be written to."""
        return self._rows[: self._count]

    def rows_at(self, places: Sequence[int]) -> Vectors:
        """Return the vectors at some places, in float32."""
        return self._rows[np.asarray(places, dtype=np.intp)].astype(np.float32)

    def add(self, rows: NDArray[Any]) -> None:
        """Hold these too."""
        total = self._count + len(rows)
        if total > len(self._rows):
            # By a half, not to twice the size: vectors are most of what a long run holds.
            more = np.zeros((max(total, _FIRST, len(self._rows) * 3 // 2), rows.shape[1]), dtype=np.float16)
            more[: self._count] = self._rows[: self._count] if self._count else 0
            self._rows = more
        self._rows[self._count : total] = rows
        self._count, self._longest = total, max(self._longest, longest(rows))
        self._seal()

    def _seal(self) -> None:
        """Give each full segment its index, once there are more vectors than are searched one by one."""
        if self._count <= self._exact or version() is None:
            return
        for start in range(len(self._segments) * self._size, self._count - self._size + 1, self._size):
            self._segments.append(Segment(self._rows[start : start + self._size]))

    def nearest(
        self, queries: NDArray[Any], count: int, start: int = 0, end: int | None = None
    ) -> list[tuple[list[int], list[float]]]:
        """
        Return for each query the places of the `count` most similar vectors and their products, the largest first.

        Only places from `start` up to `end` are looked at. Of equals, the one held first comes first.
        """
        end = self._count if end is None else end
        if start >= end or count < 1:
            return [([], [])] * len(queries)
        wide = np.asarray(queries, dtype=np.float64)
        if end - start <= _FEW:
            products = wide @ self._rows[start:end].astype(np.float64).T
            proposed = [(np.arange(start, end), row) for row in products]
        else:
            places = self._proposed(wide, count, start, end)
            proposed = [(f, self._rows[f].astype(np.float64) @ query) for f, query in zip(places, wide, strict=True)]
        found = []
        for few, exact in proposed:
            order = np.lexsort((few, -exact))[:count]
            found.append((few[order].tolist(), exact[order].tolist()))
        return found

    def _proposed(self, queries: NDArray[np.float64], count: int, start: int, end: int) -> list[NDArray[np.intp]]:
        """Return for each query the places of all vectors that may be among the most similar."""
        narrow = queries.astype(np.float32)
        # Bound on the rounding of a sum of products (Higham 2002, "Accuracy and Stability of Numerical Algorithms",
        # section 3.1), and on that of the query to float32; twice, as two sums are compared.
        error = 2 * (queries.shape[1] + 4) * 2.0**-24 * self._longest * np.linalg.norm(queries, axis=1) * 1.01
        top = np.full((len(queries), min(count, end - start)), -np.inf, dtype=np.float32)
        kept: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []
        for places, products in self._products(narrow, count, start, end):
            both = np.concatenate([top, products], axis=1)
            top = np.partition(both, both.shape[1] - top.shape[1], axis=1)[:, -top.shape[1] :]
            near = (products >= (top.min(axis=1) - error)[:, None]) & np.isfinite(products)
            rows, columns = np.nonzero(near)
            kept.append((rows, places[rows, columns], products[rows, columns]))
        rows, found, products = (np.concatenate(part) for part in zip(*kept, strict=True))
        near = products >= (top.min(axis=1) - error)[rows]
        return [found[near & (rows == i)] for i in range(len(queries))]

    def _products(
        self, queries: NDArray[np.float32], count: int, start: int, end: int
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """Yield places and the products of all queries with the vectors there, shape (queries, places), in parts."""
        place = start
        while place < end:
            number, into = divmod(place, self._size)
            if into == 0 and number < len(self._segments) and place + self._size <= end:
                proposed = self._segments[number].propose(queries, count)
                rows = self._rows[place + proposed].astype(np.float32)
                products = np.einsum("ijk,ik->ij", rows, queries)
                yield place + proposed, np.where(proposed < 0, -np.inf, products).astype(np.float32)
                place += self._size
                continue
            # Up to where the next segment begins, as that may have an index.
            size = min(_BLOCK, end - place, self._size - into)
            block = self._rows[place : place + size].astype(np.float32)
            yield np.broadcast_to(np.arange(place, place + size), (len(queries), size)), queries @ block.T
            place += size


def longest(rows: NDArray[Any]) -> float:
    """Return the length of the longest vector."""
    return float(np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64).max(initial=0.0)))


def how(most: int, *, exact: int = EXACT) -> tuple[str | None, str | None]:
    """
    Return what searches the vectors of a run that may come to hold `most` of them, and a sentence that says so.

    Both are None where each vector is looked at and nobody will notice. The first belongs to what identifies a run:
    with another library, or none, it could decide otherwise.
    """
    if most <= exact:
        return None, None
    begun = f"This run may come to compare up to {most:,} questions. Beyond {exact:,}, "
    found = version()
    if found is None:
        return (
            None,
            f'{begun}each is still compared with all, which takes time; pip install "isara[scale]" for an index.',
        )
    return f"usearch {found}", f"{begun}the nearest are proposed by an index (usearch {found}), which can miss one."
