"""
Which of many texts can share enough tokens with a query, told without looking at most of them.

To reach a ROUGE-L of t, texts of m and n tokens must share at least `need = t (m + n) / 2` of them, repeats told apart.
Put the tokens of both texts into one order, the rarest first. If they share `need` tokens, then two of these are among
the first `m - need + 2` of the one and the first `n - need + 2` of the other. So texts are filed under the *pairs* of
tokens in these prefixes, of which most are far rarer than any one token: the cost of a search then grows far
more slowly than the number of texts. What many texts stand under is read in one go, with a signature of each
(`isara.postings`).

This is the prefix filter of set-similarity joins (Bayardo, Ma and Srikant 2007, "Scaling Up All Pairs Similarity
Search"), with the positions of PPJoin (Xiao, Wang, Lin and Yu 2008, "Efficient Similarity Joins for Near Duplicate
Detection") and prefixes long enough for two common tokens (Wang, Li and Feng 2012, "Can We Beat the Prefix
Filtering?").
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from isara.postings import PLACE_MASK, Probes, Run, keys, made, slack, under

Places = NDArray[np.int64]
Postings = NDArray[np.uint64]

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
_APART = 12
"""Texts of fewer tokens are filed by their exact length: they have the most frequent pairs, and few of them."""
_PAIRED_GROUP, _SINGLE_GROUP = 3, 8
"""Longer texts of about the same length are filed together: three lengths, or eight of those not paired."""
_JOIN = 16
_AT_ONCE = 1 << 16
"""How many texts are filed at once, so that this takes little memory."""


class Prefixes:
    """Texts filed under pairs of tokens; new ones wait until they are filed together."""

    def __init__(self, floor: float) -> None:
        """File for searches with a threshold of at least `floor`."""
        self.filed = 0
        """How many texts are filed, from the first one on."""
        self._floor = floor
        self._numbers: dict[str, int] = {}
        # The tokens of all texts one after the other, by number, and where each text begins.
        self._tokens = array("I")
        self._starts = array("Q", [0])
        self._signatures = array("Q")
        self._ranks = array("q", [_LAST, _LAST])
        self._ordered = 0
        self._longest = 0
        self._runs: list[Run] = []

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, tokens: Sequence[str], signature: int) -> None:
        """Take in a text, repeats of a token told apart, and 64 bits that its tokens set."""
        for key in tokens:
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self._ranks)
                # Not seen when tokens were ordered, so rarer than all that were.
                self._ranks.append(-number)
            self._tokens.append(number)
        self._starts.append(len(self._tokens))
        self._signatures.append(signature)
        self._longest = max(self._longest, len(tokens))

    def file(self) -> None:
        """File the texts that wait."""
        if len(self) >= _REORDER * self._ordered:
            self._order()
        while self.filed < len(self):
            self._file(min(len(self), self.filed + _AT_ONCE))

    def _file(self, end: int) -> None:
        postings = np.concatenate(self._entries(self.filed, end))
        postings.sort()
        # Runs are joined so that each is many times as long as the next: there are never more than a few to search.
        while self._runs and len(self._runs[-1].postings) < _JOIN * len(postings):
            postings = np.concatenate([self._runs.pop().postings, postings])
            postings.sort(kind="stable")  # finds the two sorted parts, and merges them
        self._runs.append(made(postings, np.frombuffer(self._signatures, dtype=np.uint64)))
        self.filed = end

    def sharing(self, tokens: Sequence[str], signature: int, threshold: float) -> Places:
        """
        Return the places of the texts that may reach a threshold of at least the floor, some more than once.

        Those that wait are among them, as far as signatures do not rule them out.
        """
        m, own = len(tokens), np.uint64(signature)
        found = [self._waiting(m, own, threshold)]
        if not self._runs:
            return found[0]
        known = [number for number in map(self._numbers.get, tokens) if number is not None]
        known.sort(key=self._ranks.__getitem__)
        row = np.array([*known, _ALL, _ALONE], dtype=np.int64)
        for paired in (True, False) if self._longest > _LONGEST_PAIRED else (True,):
            # What no text has is rarer than all that some have, and takes the first positions.
            probes = _probes(m, m - len(known), threshold, self._longest, paired=paired)
            wanted = keys(row[probes.left], row[probes.right], probes.group)
            found += [under(run, wanted, probes, own) for run in self._runs if len(wanted)]
        return np.concatenate(found)

    def _waiting(self, m: int, own: np.uint64, threshold: float) -> Places:
        """Return the places of the texts not yet filed that signatures do not rule out."""
        theirs = np.frombuffer(self._signatures, dtype=np.uint64)[self.filed :]
        starts = np.frombuffer(self._starts, dtype=np.uint64)[self.filed :]
        lengths = starts[1:] - starts[:-1]
        missing = np.bitwise_count(own & ~theirs).astype(np.int64)
        places: Places = (m - missing >= threshold / 2 * (m + lengths) - _ROUNDING).nonzero()[0] + self.filed
        return places

    def _order(self) -> None:
        """Order the tokens by how many texts have them, and file everything anew."""
        counts = np.bincount(np.frombuffer(self._tokens, dtype=np.uint32), minlength=len(self._ranks))
        ranks = np.empty(len(counts), dtype=np.int64)
        ranks[np.argsort(counts, kind="stable")] = np.arange(len(counts))
        ranks[[_ALL, _ALONE]] = _LAST
        self._ranks = array("q", ranks.tobytes())
        self._ordered, self.filed, self._runs = len(self), 0, []

    def _entries(self, first: int, end: int) -> list[Postings]:
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
            group = np.full(len(left), _group(n, paired=paired), dtype=np.uint64)
            places = (first + chosen).astype(np.uint64)[:, None]
            found.append((keys(rows[:, left], rows[:, right], group) | slack(n - last) | places).ravel())
        return found


def least_common(n: int, threshold: float) -> int:
    """Return the fewest tokens that a text of n must share with any other to reach a threshold."""
    return max(1, math.ceil(threshold * n / (2 - threshold) - _ROUNDING))


def _need(m: int, n: int, threshold: float) -> int:
    """Return how many tokens texts of m and n must share to reach a threshold."""
    return max(1, math.ceil(threshold * (m + n) / 2 - _ROUNDING))


@lru_cache(maxsize=1024)
def _places(n: int, last: int, *, paired: bool) -> tuple[Places, Places, Places]:
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
def _probes(m: int, unknown: int, threshold: float, longest: int, *, paired: bool) -> Probes:
    """
    Return what a text of m tokens is looked up under.

    Of the tokens, `unknown` are in no text; they come first in the order, and are not in the row.
    """
    shortest = least_common(m, threshold)
    end = min(longest, math.floor(m * (2 - threshold) / threshold + _ROUNDING) if threshold else longest)
    shortest, end = (shortest, min(end, _LONGEST_PAIRED)) if paired else (max(shortest, _LONGEST_PAIRED + 1), end)
    found, group = [(np.zeros(0, dtype=np.int64),) * 6], _group(shortest, paired=paired)
    while group <= end >= shortest:
        # The least that must be shared with the shortest texts of the group, and with the longest.
        following = group + _lengths(group, paired=paired)
        least, most = max(shortest, group), min(end, following - 1)
        need, needed = (_need(m, n, threshold) for n in (least, most))
        left, right, _ = _places(m - unknown, m - need + paired - unknown, paired=paired)
        values = (group, int(slack(np.array([need - paired]))[0] | PLACE_MASK), m - need, most - needed)
        columns = [np.full(len(left), value, dtype=np.int64) for value in values]
        found.append((left, right, columns[0], columns[1], columns[2], columns[3]))
        group = following
    left, right, groups, slacks, missing, more = (np.concatenate(part) for part in zip(*found, strict=True))
    return Probes(left, right, groups.astype(np.uint64), slacks.astype(np.uint64), missing, more)


def _group(n: int, *, paired: bool) -> int:
    """Return the shortest length that is filed together with texts of n tokens."""
    return n - n % _lengths(n, paired=paired)


def _lengths(n: int, *, paired: bool) -> int:
    """Return how many lengths are filed together with n."""
    return (1 if n < _APART else _PAIRED_GROUP) if paired else _SINGLE_GROUP
