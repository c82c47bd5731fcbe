"""
Which of many texts can share enough tokens with a query, told without looking at most of them.

To reach a ROUGE-L of t, texts of m and n tokens must share at least `need = t (m + n) / 2` of them, repeats told apart.
Put the tokens of both texts into one order, the rarest first. If they share `need` tokens, then two of these are among
the first `m - need + 2` of the one and the first `n - need + 2` of the other. So texts are filed under the *pairs* of
tokens in these prefixes, of which most are far rarer than any one token: the cost of a search then grows far
more slowly than the number of texts.

This is the prefix filter of set-similarity joins (Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity
Search"), with the positions of PPJoin (Xiao, Wang, Lin and Yu 2008, "Efficient Similarity Joins for Near Duplicate
Detection") and prefixes long enough for two common tokens (Wang, Li and Feng 2012, "Can We Beat the Prefix
Filtering?").
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]
Keys = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_ROUNDING = 1e-6
_LONGEST_PAIRED = 40
"""Texts of more tokens have too many pairs in their prefix. They are filed under single tokens, and few to search."""
_REORDER = 4
"""Once this many times as many texts are there, tokens are ordered anew by how frequent they now are."""
_ALL = 0
"""A token that every text has, the most frequent one, so that texts of one token have a pair."""
_ALONE = 1
"""Stands for the second token where texts are filed under one."""
_LAST = 1 << 40
"""The rank of both: after all others."""
_PAIRED_GROUP, _SINGLE_GROUP = 3, 8
"""Texts of about the same length are filed together: three lengths, or eight of long texts."""
_MOST_LEFT = 63
_JOIN = 16
_PLACE_BITS = np.uint64(26)
_PLACE_MASK = np.uint64((1 << 26) - 1)
_KEY_MASK = np.uint64(((1 << 32) - 1) << 32)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_GROUP = np.uint64(0xC2B2AE3D27D4EB4F)


class Prefixes:
    """Texts filed under pairs of tokens; new ones wait until they are filed together."""

    def __init__(self, floor: float) -> None:
        """File for searches with a threshold of at least `floor`."""
        self.filed = 0
        """How many texts can be found, from the first one on."""
        self._floor = floor
        self._numbers: dict[tuple[str, int], int] = {}
        # The tokens of all texts one after the other, by number, and where each text begins.
        self._tokens = array("I")
        self._starts = array("Q", [0])
        self._ranks = array("q", [_LAST, _LAST])
        self._ordered = 0
        self._longest = 0
        # Sorted entries: 32 bits of key, 6 that say how much of the text follows, 26 of the text's place.
        self._runs: list[Keys] = []

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, coded: str) -> None:
        """Take in a text, one character for each token; it is found once it is filed."""
        for key in _numbered(coded):
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self._ranks)
                # Not seen when tokens were ordered, so rarer than all that were.
                self._ranks.append(-number)
            self._tokens.append(number)
        self._starts.append(len(self._tokens))
        self._longest = max(self._longest, len(coded))

    def file(self) -> None:
        """File the texts that wait."""
        if len(self) >= _REORDER * self._ordered:
            self._order()
        run = np.sort(np.concatenate(self._entries(self.filed, len(self))))
        # Runs are joined so that each is many times as long as the next: there are never more than a few to search.
        while self._runs and len(self._runs[-1]) < _JOIN * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)
        self.filed = len(self)

    def sharing(self, coded: str, threshold: float) -> Places:
        """Return the places of filed texts that may reach a threshold of at least the floor, in order, each once."""
        m = len(coded)
        numbers = [self._numbers[key] for key in _numbered(coded) if key in self._numbers]
        numbers.sort(key=self._ranks.__getitem__)
        # What no text has is rarer than all that some have, and takes the first positions.
        unknown = m - len(numbers)
        row = np.array([*numbers, _ALL, _ALONE], dtype=np.int64)
        found = [np.zeros(0, dtype=np.uint64)]
        for paired in (True, False) if self._longest > _LONGEST_PAIRED else (True,):
            left, right, group, slack = _probes(m, unknown, threshold, self._longest, paired=paired)
            keys = _keys(row[left], row[right], group)
            # In order, so that neighbouring searches look at the same part of a run.
            order = np.argsort(keys)
            first, last = keys[order], (keys | slack)[order]
            for run in self._runs if len(keys) else ():
                low = run.searchsorted(first)
                counts = run.searchsorted(last, side="right") - low
                met = np.flatnonzero(counts)
                if len(met):
                    low, counts = low[met], counts[met]
                    where = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
                    found.append(run[where] & _PLACE_MASK)
        return np.unique(np.concatenate(found)).astype(np.int64)

    def _order(self) -> None:
        """Order the tokens by how many texts have them, and file everything anew."""
        counts = np.bincount(np.frombuffer(self._tokens, dtype=np.uint32), minlength=len(self._ranks))
        ranks = np.empty(len(counts), dtype=np.int64)
        ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        ranks[[_ALL, _ALONE]] = _LAST
        self._ranks = array("q", ranks.tobytes())
        self._ordered, self.filed, self._runs = len(self), 0, []

    def _entries(self, first: int, end: int) -> list[Keys]:
        """Return the entries of texts, those of each length together."""
        starts = np.frombuffer(self._starts, dtype=np.uint64)[first : end + 1].astype(np.int64)
        flat, ranks = np.frombuffer(self._tokens, dtype=np.uint32), np.frombuffer(self._ranks, dtype=np.int64)
        lengths = np.diff(starts)
        found = [np.zeros(0, dtype=np.uint64)]
        for n in np.unique(lengths[lengths > 0]).tolist():
            chosen = np.flatnonzero(lengths == n)
            rows = flat[starts[chosen][:, None] + np.arange(n)].astype(np.int64)
            rows = np.take_along_axis(rows, np.argsort(ranks[rows], axis=1, kind="stable"), axis=1)
            rows = np.concatenate([rows, np.tile([_ALL, _ALONE], (len(rows), 1))], axis=1)
            paired = n <= _LONGEST_PAIRED
            left, right, last = _places(n, n - least_common(n, self._floor) + paired, paired=paired)
            keys = _keys(rows[:, left], rows[:, right], np.full(len(left), _group(n, paired=paired)))
            places = (first + chosen).astype(np.uint64)[:, None]
            found.append((keys | _slack(n - last) | places).ravel())
        return found


def least_common(n: int, threshold: float) -> int:
    """Return the fewest tokens that a text of n must share with any other to reach a threshold."""
    return max(1, math.ceil(threshold * n / (2 - threshold) - _ROUNDING))


@lru_cache(maxsize=1024)
def _places(n: int, last: int, *, paired: bool) -> tuple[Numbers, Numbers, Numbers]:
    """
    Return where in a row the tokens stand that a text of n is filed under, and where the later one of each pair.

    The row has the n tokens, the rarest first, then the one that every text has, then the stand-in for none.
    """
    if not paired:
        left = np.arange(max(0, min(n, last + 1)))
        return left, np.full(len(left), n + 1), left
    left, right = np.triu_indices(max(0, min(n, last) + 1), k=1)
    return left, right, right


@lru_cache(maxsize=1024)
def _probes(m: int, unknown: int, threshold: float, longest: int, *, paired: bool) -> tuple[Numbers, ...]:
    """
    Return what a text of m tokens is looked up under: places in its row, groups of lengths, and the slack it takes.

    Of the tokens, `unknown` are in no text; they come first in the order, and are not in the row.
    """
    shortest = least_common(m, threshold)
    end = min(longest, math.floor(m * (2 - threshold) / threshold + _ROUNDING) if threshold else longest)
    shortest, end = (shortest, min(end, _LONGEST_PAIRED)) if paired else (max(shortest, _LONGEST_PAIRED + 1), end)
    found = [(np.zeros(0, dtype=np.int64),) * 3 + (np.zeros(0, dtype=np.uint64),)]
    for group in range(_group(shortest, paired=paired), _group(end, paired=paired) + 1) if end >= shortest else ():
        # The least that must be shared with the shortest texts of the group.
        least = max(shortest, group * (_PAIRED_GROUP if paired else _SINGLE_GROUP))
        need = max(1, math.ceil(threshold * (m + least) / 2 - _ROUNDING))
        left, right, _ = _places(m - unknown, m - need + paired - unknown, paired=paired)
        slack = np.repeat(_slack(np.array([need - paired])), len(left)) | _PLACE_MASK
        found.append((left, right, np.full(len(left), group), slack))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _group(n: int, *, paired: bool) -> int:
    return n // (_PAIRED_GROUP if paired else _SINGLE_GROUP)


def _slack(left: Numbers) -> Keys:
    """Return how many tokens follow, from the later one of a pair on, so that the most come first."""
    return (_MOST_LEFT - np.clip(left, 0, _MOST_LEFT)).astype(np.uint64) << _PLACE_BITS


def _keys(left: Numbers, right: Numbers, group: Numbers) -> Keys:
    """Return the key of each pair of tokens in a group of lengths. Two with the same key only cost a comparison."""
    mixed = (left.astype(np.uint64) << np.uint64(32) | right.astype(np.uint64)) * _MIX
    return (mixed + group.astype(np.uint64) * _MIX_GROUP) & _KEY_MASK


def _numbered(coded: str) -> list[tuple[str, int]]:
    """Tell repeats of a token apart, so that a second "the" is as rare as it is."""
    if len(set(coded)) == len(coded):
        return [(token, 0) for token in coded]
    seen: Counter[str] = Counter()
    keys = []
    for token in coded:
        keys.append((token, seen[token]))
        seen[token] += 1
    return keys
