"""
ROUGE-L between two texts, and an exact search for the most similar of many.

ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") is the F-measure of the longest common
subsequence (LCS) of two token lists of lengths m and n: F1 = 2 LCS / (m + n).

The search skips what cannot win, and therefore still returns what scoring every pair would: texts whose prefixes share
too little (`isara.prefixes`), and texts that lack too many of the query's tokens or have too many others, told by a
signature: 128 bits, one set by each token. What is left is compared, those that may reach most first.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from isara.prefixes import Prefixes
from isara.tokenizer import tokens, words

__all__ = ["Index", "Nearest", "f1", "tokens", "words"]

Places = NDArray[np.int64]
Bounds = NDArray[np.float64]

_ROUNDING = 1e-6
_TINY = 1e-9
_LOOK_FIRST = 32
_HALF = (1 << 64) - 1


def f1(a: str, b: str) -> float:
    """Return the ROUGE-L F-measure of two texts, 0 to 1; a text without tokens is like nothing."""
    left, right = tokens(a), tokens(b)
    codes: dict[str, int] = {}
    rows = [[codes.setdefault(token, len(codes)) for token in row] for row in (left, right)]
    return _f_measure(LCSseq.similarity(*rows), len(left), len(right))


def _f_measure(common: int, m: int, n: int) -> float:
    # One division: 7 of 10 and 10 tokens is then exactly the 0.7 that a threshold says.
    return 2 * common / (m + n) if common else 0.0


class Nearest(NamedTuple):
    """The most similar text of an index: its id, and its ROUGE-L with the query."""

    id: str | None
    score: float


class Index:
    """Texts that can be searched by ROUGE-L; it grows, and forgets nothing. Holds up to 1.1 million distinct words."""

    def __init__(self, texts: Iterable[tuple[str, str]] = (), *, floor: float = 0.7, unfiled: int = 1024) -> None:
        """
        Start from pairs of id and text.

        Searches for scores of at least `floor` look at few of many texts; others look at every signature. So
        does each search at the last `unfiled` texts or fewer, which are filed together.
        """
        self._floor = floor
        self._unfiled = unfiled
        self._ids: list[str] = []
        # A text is kept as a string with one character for each token, the form that rapidfuzz compares fastest.
        self._texts: list[str] = []
        self._characters: dict[str, str] = {}
        self._lengths = array("I")
        self._signatures = array("Q")
        self._prefixes = Prefixes(floor)
        for name, text in texts:
            self.add(name, text)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, text: str) -> None:
        """Make a text findable; `name` is the id that `nearest` gives back."""
        found = tokens(text)
        for token in found:
            if token not in self._characters:
                self._characters[token] = chr(len(self._characters) + 1)
        coded = "".join(map(self._characters.__getitem__, found))
        self._ids.append(name)
        self._texts.append(coded)
        self._lengths.append(len(coded))
        numbered = _numbered(coded)
        signature = _signature(numbered)
        self._signatures.extend(signature)
        self._prefixes.add(numbered, signature[0] | signature[1])
        if len(self) - self._prefixes.filed > self._unfiled:
            self._prefixes.file()

    def nearest(self, text: str, threshold: float = 0.0) -> Nearest:
        """
        Return the most similar text and its exact ROUGE-L F-measure; of equals, the one added first.

        Where none reaches `threshold` (or none shares a token), that is `(None, 0.0)`: below the threshold nothing is
        said about how close the closest is. Raises ValueError for a threshold that is not between 0 and 1.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, but ROUGE-L lies between 0 and 1.")
        # Character 0 stands for words that no text here has.
        query = "".join(self._characters.get(word, "\0") for word in tokens(text))
        if not query or not self._ids:
            return Nearest(None, 0.0)
        numbered = _numbered(query)
        signature = _signature(numbered)
        if threshold >= self._floor:
            places = self._prefixes.sharing(numbered, signature[0] | signature[1], threshold)
        else:
            places = np.arange(len(self))
        return self._best(query, signature, places, threshold)

    def _best(self, query: str, signature: tuple[int, int], places: Places, threshold: float) -> Nearest:
        best, score = -1, threshold
        if len(places) > _LOOK_FIRST:
            # The best bound first, then a few of the next: what they reach rules out most others.
            bounds = self._bounds(len(query), signature, places)
            for few in (1, _LOOK_FIRST):
                first = np.argpartition(bounds, -few)[-few:]
                best, score = self._better(query, places[first[bounds[first] >= max(score, _TINY)]], best, score)
                bounds[first] = -1
            places = places[bounds >= max(score, _TINY)]
        best, score = self._better(query, places, best, score)
        return Nearest(self._ids[best], score) if best >= 0 else Nearest(None, 0.0)

    def _better(self, query: str, places: Places, best: int, score: float) -> tuple[int, float]:
        """Return the place and the score of the most similar of some texts, where it is better than the best so far."""
        if not len(places):
            return best, score
        others = [self._texts[place] for place in places.tolist()]
        totals = np.frombuffer(self._lengths, dtype=np.uint32)[places].astype(np.int64) + len(query)
        # Fewer common tokens than even the shortest text needs cannot win, and count as 0; rounded down in doubt.
        need = max(1, math.ceil(score * int(totals.min()) / 2 - _ROUNDING))
        common = cdist([query], others, scorer=LCSseq.similarity, score_cutoff=need, dtype=np.int64)[0]
        # One division: 7 of 10 and 10 tokens is then exactly the 0.7 that a threshold says.
        reached = 2 * common / totals
        top = float(reached.max())
        place = int(places[reached == top].min())
        better = top > score or (top == score and (best < 0 or place < best))
        return (place, top) if top and better else (best, score)

    def _bounds(self, m: int, signature: tuple[int, int], places: Places) -> Bounds:
        """Return the most that the ROUGE-L of a query with each of some texts may be."""
        own = np.array(signature, dtype=np.uint64)
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)[places].astype(np.int64)
        theirs = np.frombuffer(self._signatures, dtype=np.uint64).reshape(-1, 2)[places]
        # A bit that only one of the two has is at least one token of it that the other lacks.
        # Counted in bytes, and a text may have more tokens than a byte can count.
        missing = np.bitwise_count(own & ~theirs).astype(np.int64)
        more = np.bitwise_count(theirs & ~own).astype(np.int64)
        common = np.minimum(m - missing[:, 0] - missing[:, 1], lengths - more[:, 0] - more[:, 1])
        bounds: Bounds = 2 * common / (m + lengths)
        return bounds


def _numbered(coded: str) -> Sequence[str]:
    """Tell repeats of a token apart by a character more, so that a second "the" is as rare as it is."""
    if len(set(coded)) == len(coded):
        return coded
    seen: dict[str, int] = {}
    found = []
    for token in coded:
        seen[token] = times = seen.get(token, 0) + 1
        found.append(token if times == 1 else token + chr(times))
    return found


def _signature(numbered: Sequence[str]) -> tuple[int, int]:
    """Return 128 bits. Words are numbered as they come, the frequent ones first: those have bits of their own."""
    bits = 0
    for token in numbered:
        bits |= 1 << (ord(token[0]) + 37 * ord(token[-1]) * (len(token) - 1)) % 128
    return bits & _HALF, bits >> 64
