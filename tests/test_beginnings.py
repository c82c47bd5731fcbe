"""What the prompts of a batch begin with, against the same rule written out without any care for speed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from isara.beginnings import common_starts, further

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), max_size=14)


def slowly(near, lists, start, most, found):
    """Fill in the starts of some lists, counting anew for each of them."""
    left = list(lists)
    while left and len(start) < most:
        counts = Counter(member for i in left for member in near[i] if member not in start)
        count, member = max(((n, -m) for m, n in counts.items()), default=(0, 0))
        if count < 2:
            return
        having = [i for i in left if -member in near[i]]
        for i in having:
            found[i] = (*start, -member)
        slowly(near, having, (*start, -member), most, found)
        left = [i for i in left if i not in having]


@given(LISTS, st.integers(0, 5))
@settings(deadline=None, max_examples=300)
def test_starts_are_those_of_the_greedy_tree(near, most):
    expected = [()] * len(near)
    slowly(near, range(len(near)), (), most, expected)
    assert common_starts(near, most) == expected


@given(LISTS, st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_a_start_is_of_the_lists_own_members_and_never_of_one_list_alone(near, most):
    starts = common_starts(near, most)
    at = Counter(start[:depth] for start in starts for depth in range(1, len(start) + 1))
    for own, start in zip(near, starts, strict=True):
        assert len(set(start)) == len(start) <= most
        assert set(start) <= set(own)
        assert all(at[start[:depth]] > 1 for depth in range(1, len(start) + 1))


def test_the_most_frequent_member_comes_first_and_of_equals_the_smallest():
    assert common_starts([[3, 1], [1, 2], [2, 1], [7, 2]], 2) == [(1,), (1, 2), (1, 2), ()]
    assert common_starts([[5, 4], [4, 5]], 2) == [(4, 5), (4, 5)]
    assert common_starts([[5, 4], [4, 5]], 1) == [(4,), (4,)]


def test_lists_with_one_start_go_on_alike_and_others_do_not_count():
    assert further([(1,), (1,), (2,)], [[5, 6], [6, 7], [6, 8]]) == [(6,), (6,), ()]
    assert further([], []) == []


def test_thousands_of_lists_are_parted():
    near = [[i % 7, 10 + i % 11, 30 + i % 13, 100 + i] for i in range(10_010)]
    starts = common_starts(near, 4)
    # Ten lists each have the first three in common; the last is of one list alone.
    assert starts == [tuple(own[:3]) for own in near]
