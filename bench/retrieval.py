"""
How fast the nearest vectors are found, and whether the right ones are.

    python bench/retrieval.py --sizes 1000 10000 100000 --approximate 200000

The vectors are of 384 dimensions in groups, as sentence embeddings are. A batch of 64 is searched at once, as a run
does. The peer sorts all float64 products of one query after the other, which is what isara did before. With
`--approximate`, the index of the `scale` extra is measured against the exact search: its recall, and its time.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from table import Row, row

from isara.approximate import version
from isara.vectors import SEGMENT, Store

DIMENSIONS, BATCH, WANTED = 384, 64, 16
UNIT = "processor ms a query"
SIZES = (1_000, 10_000, 100_000)


def embeddings(count: int, seed: int = 0) -> NDArray[np.float16]:
    """Return made-up embeddings in groups of groups: every vector has some that are near, and most are not."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(50, DIMENSIONS))
    kinds = topics[rng.integers(50, size=2000)] + 0.7 * rng.normal(size=(2000, DIMENSIONS))
    made = np.empty((count, DIMENSIONS), dtype=np.float16)
    rng = np.random.default_rng([seed, count])
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        rows = kinds[rng.integers(2000, size=size)] + 0.5 * rng.normal(size=(size, DIMENSIONS))
        made[start : start + size] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return made


def timed(store: Store, queries: NDArray[Any], turns: int) -> tuple[float, list[list[int]]]:
    """Return the processor seconds for each query, and what was found."""
    begun = time.process_time()
    for _ in range(turns):
        found = store.nearest(queries, WANTED)
    return (time.process_time() - begun) / turns / len(queries), [places for places, _ in found]


def sorting(rows: NDArray[np.float16], queries: NDArray[Any], turns: int) -> tuple[float, list[list[int]]]:
    """Return the processor seconds for each query of sorting all products, and what comes first."""
    wide = rows.astype(np.float64)
    begun = time.process_time()
    for _ in range(turns):
        found = [np.argsort(-(wide @ query), kind="stable")[:WANTED].tolist() for query in queries.astype(np.float64)]
    return (time.process_time() - begun) / turns / len(queries), found


def exact_row(size: int) -> Row:
    """Return a row for the exact search; AssertionError where it does not find what sorting finds."""
    rows, queries = embeddings(size), embeddings(BATCH, seed=0)[:BATCH].astype(np.float32)
    turns = max(1, 100_000 // size)
    own, found = timed(Store(rows, exact=size), queries, turns)
    peer, right = sorting(rows, queries[:8], turns)
    assert found[:8] == right
    return row(f"retrieval_{size // 1000}k", own * 1000, peer * 1000, "float64 products, sorted", UNIT, recall=1.0)


def approximate_rows(size: int) -> list[Row]:
    """Return a row for the index against the exact search, with its recall; none without the library."""
    if version() is None:
        return []
    rows, queries = embeddings(size), embeddings(512, seed=0)[:512].astype(np.float32)
    exact, right = timed(Store(rows, exact=size), queries, 1)
    begun = time.process_time()
    store = Store(rows, exact=0, segment=min(SEGMENT, size))
    building = time.process_time() - begun
    own, found = timed(store, queries, 1)
    recall = np.mean([len(set(a) & set(b)) / WANTED for a, b in zip(found, right, strict=True)])
    first = np.mean([a[0] == b[0] for a, b in zip(found, right, strict=True)])
    more = {
        "recall": round(float(recall), 4),
        "recall_of_first": round(float(first), 4),
        "building_ms_each": round(building / size * 1000, 3),
    }
    return [row(f"retrieval_index_{size // 1000}k", own * 1000, exact * 1000, "isara's exact search", UNIT, **more)]


def rows(sizes: Sequence[int] = SIZES, approximate: int = 0) -> list[Row]:
    """Return a row for each size, and those of the index at one size, where one is given."""
    found = [exact_row(size) for size in sizes]
    for (a, before), (b, after) in zip(
        zip(sizes, found, strict=True), zip(sizes[1:], found[1:], strict=True), strict=False
    ):
        after["growth"] = round(math.log(after["ours"] / before["ours"]) / math.log(b / a), 2)
    return found + (approximate_rows(approximate) if approximate else [])


def main() -> None:
    """Print one line for each row."""
    options = argparse.ArgumentParser(description="Time the search for nearest vectors.")
    options.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    options.add_argument("--approximate", type=int, default=0, help="vectors for the approximate index")
    given = options.parse_args()
    for found in rows(given.sizes, given.approximate):
        sys.stdout.write("  ".join(f"{key}={value}" for key, value in found.items()) + "\n")


if __name__ == "__main__":
    main()
