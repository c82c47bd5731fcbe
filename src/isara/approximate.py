"""An approximate index over vectors that do not change: the only user of usearch, which the `scale` extra brings."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPARE = 16
"""Proposals beyond those asked for: the product in float16 is not quite the one that decides."""


def version() -> str | None:
    """Return the version of the library that is installed, or None: then every vector is looked at."""
    try:
        return metadata.version("usearch")
    except metadata.PackageNotFoundError:
        return None


class Segment:
    """Vectors with an index of their own: the same vectors in the same order always make the same index."""

    def __init__(self, rows: NDArray[np.float16]) -> None:
        from usearch.index import Index

        self._index: Any = Index(ndim=rows.shape[1], metric="ip", dtype="f16", expansion_search=128)
        # By one thread: with more, the links of the graph depend on which is faster.
        self._index.add(np.arange(len(rows)), rows, threads=1)

    def propose(self, queries: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        """Return places of vectors likely to be the most similar to each query, shape (queries, at least count)."""
        wanted = min(len(self._index), count + _SPARE)
        # As a matrix, since a single query would come back in another shape.
        found = self._index.search(np.atleast_2d(queries), wanted, threads=1)
        keys = np.asarray(found.keys).reshape(len(queries), -1).astype(np.intp)
        # A query can get fewer than it asked for; its row then ends in places that mean nothing.
        counts = np.asarray(found.counts).reshape(len(queries), 1)
        return np.where(np.arange(keys.shape[1]) < counts, keys, -1)
