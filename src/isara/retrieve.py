"""Choosing demonstrations: neighbours of an anchor to write a question, neighbours of the question to answer it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isara.protocols import Vectors
from isara.samples import Sample


class Pool:
    """What demonstrations are drawn from: the seeds, and what kept rounds accepted."""

    def __init__(self, samples: Sequence[Sample], vectors: Vectors) -> None:
        """Hold samples with the vectors of their questions, shape (samples, dimensions)."""
        if len(samples) != len(vectors):
            raise ValueError(f"{len(samples)} samples but {len(vectors)} vectors")
        self.samples = tuple(samples)
        self.vectors = vectors
        # Vectors come rounded to float16. Their products are then exact in float64, whatever the order in which a
        # machine adds them up, so equal samples are equally near.
        self._exact = vectors.astype(np.float64)

    def __len__(self) -> int:
        return len(self.samples)

    def grown(self, samples: Sequence[Sample], vectors: Vectors) -> Pool:
        """Return a pool that holds these too."""
        return Pool((*self.samples, *samples), np.concatenate([self.vectors, vectors]))

    def nearest(self, query: NDArray[np.float32], count: int) -> list[int]:
        """Return the places of the samples most like a vector, the most similar first."""
        likeness = self._exact @ query.astype(np.float64)
        # A stable sort, so that equal samples come in the order of the pool on every machine.
        return [int(i) for i in np.argsort(-likeness, kind="stable")[:count]]

    def for_answer(self, query: NDArray[np.float32], count: int) -> list[Sample]:
        """Return the samples nearest to a question, the most similar last, next to where the answer is written."""
        return [self.samples[i] for i in reversed(self.nearest(query, count))]

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
        cycle, place = divmod(turn, len(self))
        anchor = int(np.random.default_rng([*key, 0, cycle]).permutation(len(self))[place])
        around = [i for i in self.nearest(self.vectors[anchor], neighbourhood + 1) if i != anchor][:neighbourhood]
        few = min(count - 1, len(around))
        drawn = np.random.default_rng([*key, 1, turn]).choice(len(around), size=few, replace=False) if few else ()
        return [*(self.samples[around[int(i)]] for i in drawn), self.samples[anchor]]


def request_seed(*parts: object) -> int:
    """Return the random seed of one request, from what names it: below 2**63, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
