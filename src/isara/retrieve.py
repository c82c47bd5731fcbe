"""Choosing demonstrations: neighbours of an anchor to write a question, neighbours of the question to answer it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.beginnings import common_starts, further
from isara.protocols import Vectors
from isara.samples import Sample
from isara.vectors import Store


class Pool:
    """What demonstrations are drawn from: the seeds, and what kept rounds accepted."""

    def __init__(self, samples: Sequence[Sample], vectors: NDArray[Any], first: Pool | None = None) -> None:
        """Hold samples with the vectors of their questions, shape (samples, dimensions); `first` began with them."""
        if len(samples) != len(vectors):
            raise ValueError(f"{len(samples)} samples but {len(vectors)} vectors")
        self.samples = tuple(samples)
        self.store = Store(vectors)
        self.first = first or self
        """The pool that this one grew from: its samples are the first ones here."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def vectors(self) -> Vectors:
        """The vectors of the questions, rounded as they are stored."""
        return self.store.held.astype(np.float32)

    def grown(self, samples: Sequence[Sample], vectors: NDArray[Any]) -> Pool:
        """Return a pool that holds these too."""
        rows = np.concatenate([self.store.held, vectors.astype(np.float16)])
        return Pool((*self.samples, *samples), rows, self.first)

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Return the places of the samples most like a vector, the most similar first; of equals, the first held."""
        return self.store.nearest(query[None], count)[0][0]

    def for_answer(self, query: NDArray[np.float32], count: int) -> list[Sample]:
        """Return the samples nearest to a question, the most similar last, next to where the answer is written."""
        return self.for_answers([query], count)[0]

    def for_answers(self, queries: Sequence[NDArray[np.float32]], count: int, shared: int = 0) -> list[list[Sample]]:
        """
        Return what `for_answer` does for each of several questions, in one go over the pool.

        The first `shared` of a question are not those nearest to it but, of the seeds that are among the `2 * count`
        nearest, those that most of these questions have in common: questions about like things then begin alike. Of
        the others too, those in common come first. Seeds are few, however much the pool has grown.
        """
        if not queries:
            return []
        shared, rows = min(shared, count), np.stack(queries)
        own = [places for places, _ in self.store.nearest(rows, count + shared)]
        if not shared:
            return [[self.samples[i] for i in reversed(places)] for places in own]
        near = [places for places, _ in self.first.store.nearest(rows, 2 * count)]
        starts = common_starts(near, shared)
        rest = [
            [i for i in places if i not in start][: count - len(start)]
            for places, start in zip(own, starts, strict=True)
        ]
        return [
            [self.samples[i] for i in (*start, *end, *(i for i in reversed(places) if i not in end))]
            for start, end, places in zip(starts, further(starts, rest), rest, strict=True)
        ]

    def at_random(self, count: int, *key: int) -> list[Sample]:
        """Return samples drawn at random, each at most once; `key` are the numbers that the draw depends on."""
        few = min(count, len(self))
        return [self.samples[int(i)] for i in np.random.default_rng(key).choice(len(self), size=few, replace=False)]

    def for_question(self, turn: int, count: int, neighbourhood: int, *key: int) -> list[Sample]:
        """
        Return an anchor, last, after others drawn from its neighbourhood.

        Anchors are taken in turn from shuffles of the pool, so that every sample is one equally often; `key` are
        the numbers that the shuffles and draws depend on.
        """
        return self.for_questions(range(turn, turn + 1), count, neighbourhood, *key)[0]

    def for_questions(self, turns: Sequence[int], count: int, neighbourhood: int, *key: int) -> list[list[Sample]]:
        """Return what `for_question` does for each of several turns, in one go over the pool."""
        shuffles = {
            cycle: np.random.default_rng([*key, 0, cycle]).permutation(len(self))
            for cycle in {turn // len(self) for turn in turns}
        }
        anchors = [int(shuffles[turn // len(self)][turn % len(self)]) for turn in turns]
        near = self.store.nearest(self.store.rows_at(anchors), neighbourhood + 1)
        found = []
        for turn, anchor, (places, _) in zip(turns, anchors, near, strict=True):
            around = [i for i in places if i != anchor][:neighbourhood]
            few = min(count - 1, len(around))
            drawn = np.random.default_rng([*key, 1, turn]).choice(len(around), size=few, replace=False) if few else ()
            found.append([*(self.samples[around[int(i)]] for i in drawn), self.samples[anchor]])
        return found


def request_seed(*parts: object) -> int:
    """Return the random seed of one request, from what names it: below 2**63, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
