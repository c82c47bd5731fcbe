"""What a new question is compared with: the samples there are, and those that come, by words and by meaning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isara import rouge
from isara.protocols import Vectors
from isara.samples import Sample
from isara.vectors import Store

Found = tuple[str | None, float]
"""The id of the most similar question and how similar it is; None and 0 where nothing is."""

SCORED = 20_000
"""While fewer questions than this are there, the likeness by words of one below the threshold is noted as well."""


class Neighbours:
    """What a new question is compared with, by words and by meaning."""

    def __init__(
        self, samples: Sequence[Sample], vectors: Vectors | Store, *, floor: float = 0.7, scored: int = SCORED
    ) -> None:
        """Compare with samples and the vectors of their questions; `floor` is the threshold searched for by words."""
        self._samples, self._floor, self._scored = samples, floor, scored
        self._ids = [sample.id for sample in samples]
        self._first = len(samples)
        # What is there from the start is searched where the pool holds it; what comes is held apart.
        self._there = vectors if isinstance(vectors, Store) else Store(vectors)
        self._added = Store(self._there.held[:0])
        self._ahead: dict[bytes, tuple[Found, Found, int]] = {}

    @cached_property
    def _index(self) -> rouge.Index:
        """Made when it is first asked for: a round that was finished before asks for nothing."""
        return rouge.Index(((sample.id, sample.question) for sample in self._samples), floor=self._floor)

    def add(self, name: str, question: str, vector: NDArray[np.float32]) -> None:
        """Compare later questions with this one too."""
        self._added.add(vector[None])
        self._ids.append(name)
        self._index.add(name, question)

    def by_words(self, question: str, threshold: float = 0.0) -> tuple[str | None, float | None]:
        """
        Return the id and the exact ROUGE-L of the most similar question.

        With many questions there, that is (None, None) where none reaches the threshold: only such are found fast.
        """
        few = len(self._ids) < self._scored
        found = self._index.nearest(question, 0.0 if few else threshold)
        return found.id, found.score if found.id is not None or few else None

    def look_ahead(self, vectors: Sequence[NDArray[np.float32]]) -> None:
        """Search for several vectors at once, which `by_meaning` will be asked about: the same result, much sooner."""
        rows = np.stack(vectors) if vectors else np.zeros((0, self._there.held.shape[1]), dtype=np.float32)
        there, added = self._there.nearest(rows, 1), self._added.nearest(rows, 1)
        count = len(self._added)
        self._ahead = {
            row.tobytes(): (self._named(a), self._named(b, self._first), count)
            for row, a, b in zip(rows, there, added, strict=True)
        }

    def by_meaning(self, vector: NDArray[np.float32], *, added: bool = True) -> tuple[str | None, float]:
        """Return the id and the cosine of the most similar question, of those added later too unless told not to."""
        if vector.tobytes() not in self._ahead:
            self.look_ahead([vector])
        there, since, upto = self._ahead[vector.tobytes()]
        if not added:
            return there
        newest = self._named(self._added.nearest(vector[None], 1, upto)[0], self._first)
        # Of equals the first, which is the one that was there first.
        return max(there, since, newest, key=lambda found: found[1] if found[0] else -np.inf)

    def _named(self, found: tuple[list[int], list[float]], offset: int = 0) -> Found:
        places, products = found
        return (self._ids[offset + places[0]], products[0]) if places else (None, 0.0)
