"""
Which texts stand under which keys: sorted numbers, and beside each a signature of its text.

A posting is one number: 32 bits of key, 6 that say how little of its text follows, 26 of the text's place. What stands
under a key lies side by side, and so do the signatures: to tell that a text lacks too many of a query's tokens, or has
too many others, takes no look at the text itself, and no jump through memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
Places = NDArray[np.int64]

MOST_LEFT = 63
PLACE_MASK = np.uint64((1 << 26) - 1)
_PLACE_BITS = np.uint64(26)
_KEY_MASK = np.uint64(((1 << 32) - 1) << 32)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_GROUP = np.uint64(0xC2B2AE3D27D4EB4F)
_RANGE = 4
"""Postings are found by the first bits of their keys: as many bits as leave about this many to look at."""
_LONG, _SIDE_BY_SIDE = 128, 512
"""Where there are more, the end of those that fit is searched for; still more are looked at where they lie."""


class Probes(NamedTuple):
    """What a text is looked up under, and what a text found there may at most differ by; one value for each."""

    left: Places
    """The rarer token of the pair, by its place in the row of the text's tokens."""
    right: Places
    """The other one."""
    group: Numbers
    """The group of lengths."""
    slack: Numbers
    """What the lower half of a posting may be at most."""
    missing: Places
    """How many bits of the text's signature the other may lack."""
    more: Places
    """How many other bits it may have."""


class Run(NamedTuple):
    """Postings in order."""

    postings: Numbers
    signatures: Numbers
    """Of the text of each."""
    starts: Places
    """Where the postings begin that have the same first bits, in order of these bits."""
    shift: np.uint64
    """How many bits follow."""


def keys(left: Places, right: Places, group: Numbers) -> Numbers:
    """Return the key of each pair of tokens in a group of lengths. Two with the same key only cost a comparison."""
    mixed = (left.astype(np.uint64) << np.uint64(32) | right.astype(np.uint64)) * _MIX
    return (mixed + group.astype(np.uint64) * _MIX_GROUP) & _KEY_MASK


def slack(left: Places) -> Numbers:
    """Return how many tokens follow, from the later one of a pair on, so that the most come first."""
    return (MOST_LEFT - np.clip(left, 0, MOST_LEFT)).astype(np.uint64) << _PLACE_BITS


def made(postings: Numbers, signatures: Numbers) -> Run:
    """Return a run of sorted postings; `signatures` are those of all texts, by place."""
    bits = max(1, (len(postings) // _RANGE).bit_length() - 1)
    shift = np.uint64(64 - bits)
    starts = np.searchsorted(postings, np.arange(1 << bits, dtype=np.uint64) << shift)
    return Run(postings, signatures[postings & PLACE_MASK], np.append(starts, len(postings)), shift)


def under(run: Run, wanted: Numbers, probes: Probes, signature: np.uint64) -> Places:
    """
    Return the places of the texts under some keys that their signatures do not rule out; some more than once.

    A bit that only one of two signatures has is at least one token that the other text lacks.
    """
    first = (wanted >> run.shift).astype(np.int64)
    low = run.starts[first]
    counts = run.starts[first + 1] - low
    several = (counts > _LONG).nonzero()[0]
    found = []
    if len(several):
        ends = run.postings.searchsorted(wanted[several] | probes.slack[several], side="right")
        counts[several] = ends - low[several]
        # Many under one key lie side by side, and are looked at without being gathered.
        for probe in several[counts[several] > _SIDE_BY_SIDE].tolist():
            begin, stop, counts[probe] = low[probe], low[probe] + counts[probe], 0
            near = np.bitwise_count(signature & ~run.signatures[begin:stop]) <= probes.missing[probe]
            where = near.nonzero()[0] + begin
            near = np.bitwise_count(run.signatures[where] & ~signature) <= probes.more[probe]
            found.append(run.postings[where[near]])
    which = np.arange(len(wanted)).repeat(counts)
    where = np.arange(len(which)) + (low - counts.cumsum() + counts)[which]
    postings = run.postings[where]
    fit = (postings - wanted[which] <= probes.slack[which]).nonzero()[0]
    which, theirs = which[fit], run.signatures[where[fit]]
    near = np.bitwise_count(signature & ~theirs) <= probes.missing[which]
    near &= np.bitwise_count(theirs & ~signature) <= probes.more[which]
    found.append(postings[fit[near]])
    return (np.concatenate(found) & PLACE_MASK).astype(np.int64)
