"""The bounds by which texts are passed over: what can reach the threshold never is."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from isara import postings, prefixes, rouge
from isara.prefixes import Prefixes, least_common
from isara.rouge import Index, Nearest, f1

# Few words, so that texts share many, repeat some, and tie often; some longer than what is filed under pairs.
WORDS = st.sampled_from(["the", "the", "of", "bee", "honey", "hive", "queen", "drone", "swarm", "wax"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)
LONG = st.lists(st.integers(0, 30).map("w{}".format), min_size=35, max_size=60).map(" ".join)
PILES = st.lists(TEXTS | LONG, max_size=30)
FLOORS = st.sampled_from((0.1, 0.3, 0.5, 0.7, 0.9, 1.0))
FILED = st.sampled_from((0, 1, 3, 8))


def best(pile, query, threshold):
    """What scoring every pair finds."""
    scores = [f1(query, text) for text in pile]
    highest = max(scores, default=0.0)
    return Nearest(f"t{scores.index(highest)}", highest) if highest >= max(threshold, 1e-9) else Nearest(None, 0.0)


def numbered(text, characters):
    """A text as `Prefixes` takes it."""
    coded = "".join(characters.setdefault(word, chr(len(characters) + 1)) for word in rouge.tokens(text))
    found = rouge._numbered(coded)
    high, low = rouge._signature(found)
    return found, high | low


@given(PILES, TEXTS | LONG, FLOORS, FLOORS, FILED)
@settings(max_examples=150, deadline=None)
def test_a_filed_index_finds_what_scoring_every_pair_finds(pile, query, floor, threshold, unfiled):
    index = Index(((f"t{i}", text) for i, text in enumerate(pile)), floor=floor, unfiled=unfiled)
    assert index.nearest(query, threshold) == best(pile, query, threshold)
    for text in pile[:3]:
        assert index.nearest(text, threshold) == best(pile, text, threshold)


@given(PILES, FLOORS, FILED)
@settings(max_examples=60, deadline=None)
def test_an_index_that_is_filed_again_and_again_finds_the_same_at_every_size(pile, floor, unfiled):
    index = Index(floor=floor, unfiled=unfiled)
    for number, text in enumerate(pile):
        assert index.nearest(text, floor) == best(pile[:number], text, floor)
        index.add(f"t{number}", text)


@given(PILES, TEXTS | LONG, FLOORS)
@settings(max_examples=100, deadline=None)
def test_no_filed_text_that_reaches_the_threshold_is_passed_over(pile, query, floor):
    files, characters = Prefixes(floor), {}

    for text in pile:
        files.add(*numbered(text, characters))
    files.file()
    found = files.sharing(*numbered(query, characters), floor).tolist()
    assert {i for i, text in enumerate(pile) if f1(query, text) >= floor} <= set(found)


@pytest.mark.parametrize("floor", [0.5, 0.7, 1.0])
def test_texts_that_share_just_enough_of_the_most_frequent_tokens_are_found(floor):
    # The hardest pairs of every two lengths: what they do not share is rare, and comes first in their prefixes.
    needs = {(m, n): max(1, math.ceil(floor * (m + n) / 2 - 1e-9)) for m in range(1, 46) for n in range(1, 46)}
    cases = [(m, n, need) for (m, n), need in needs.items() if need <= min(m, n)]
    files, characters = Prefixes(floor), {}
    for m, n, need in cases:
        rare = [f"r{m}x{n}x{i}" for i in range(n - need)]
        files.add(*numbered(" ".join([*rare, *(f"w{i}" for i in range(need))]), characters))
    files.file()
    for place, (m, _, need) in enumerate(cases):
        query = " ".join([*(f"u{i}" for i in range(m - need)), *(f"w{i}" for i in range(need))])
        assert place in files.sharing(*numbered(query, characters), floor)


@given(st.integers(1, 80), st.floats(0.01, 1))
@example(10, 0.7)
def test_the_fewest_tokens_to_share_are_those_of_the_shortest_text_that_may_reach_the_threshold(n, threshold):
    least = least_common(n, threshold)
    # A text of m tokens shares at most min(m, n), and reaches 2 min(m, n) / (m + n).
    reaching = [m for m in range(1, n + 1) if 2 * m / (m + n) >= threshold]
    assert least <= min(reaching)
    assert least >= min(reaching) - 1 or math.isclose(threshold * n / (2 - threshold), least, abs_tol=1e-5)


@given(TEXTS | LONG, TEXTS | LONG)
def test_no_pair_reaches_more_than_its_signatures_allow(a, b):
    index = Index([("a", a)])
    query = "".join(index._characters.get(word, "\0") for word in rouge.tokens(b))
    if query and rouge.tokens(a):
        signature = rouge._signature(rouge._numbered(query))
        assert index._bounds(len(query), signature, np.arange(1))[0] >= f1(a, b)


def test_most_texts_are_passed_over():
    texts = [f"what about w{i % 97} and x{i % 89} near y{i % 83} with z{i}" for i in range(3000)]
    files, characters = Prefixes(0.7), {}
    for text in texts:
        files.add(*numbered(text, characters))
    files.file()
    found = files.sharing(*numbered(texts[1234], characters), 0.7)
    assert 1234 in found
    assert len(found) < 30


def test_there_are_never_many_runs_to_search():
    index = Index(unfiled=0)
    for i in range(400):
        index.add(str(i), f"one {i} two {i * 7} three")
        assert len(index._prefixes._runs) <= 10
    assert index._prefixes.filed == 400
    assert index.nearest("one 399 two 2793 three", 0.7) == Nearest("399", 1.0)


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        (prefixes, {"_PAIRED_GROUP": 1, "_APART": 0}),
        (prefixes, {"_PAIRED_GROUP": 5, "_APART": 0}),
        (prefixes, {"_APART": 39}),
        (prefixes, {"_SINGLE_GROUP": 1, "_LONGEST_PAIRED": 3}),
        (prefixes, {"_AT_ONCE": 2}),
        (prefixes, {"_JOIN": 0}),
        (postings, {"_LONG": 0}),
        (postings, {"_LONG": 0, "_SIDE_BY_SIDE": 0}),
        (postings, {"_LONG": 1, "_SIDE_BY_SIDE": 4, "_RANGE": 50}),
        (rouge, {"_LOOK_FIRST": 1}),
    ],
)
@given(pile=PILES, queries=st.lists(TEXTS | LONG, max_size=4), floor=FLOORS, unfiled=FILED)
@settings(max_examples=25, deadline=None)
def test_whatever_is_looked_at_together_the_same_is_found(module, sizes, pile, queries, floor, unfiled):
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(module, name, size)
        prefixes._probes.cache_clear()
        index = Index(((f"t{i}", text) for i, text in enumerate(pile)), floor=floor, unfiled=unfiled)
        for query in [*queries, *pile[:3]]:
            assert index.nearest(query, floor) == best(pile, query, floor)
    prefixes._probes.cache_clear()


def test_many_texts_under_one_key_are_told_apart():
    # Each shares two tokens with every other, and 600 of them share three.
    pile = [f"hive wax a{i} b{i} {'bee' if i < 600 else f'c{i}'}" for i in range(1500)]
    index = Index(((f"t{i}", text) for i, text in enumerate(pile)), unfiled=100)
    queries = ["hive wax a7 b7 bee", "wax hive a1400 b1400 x", "hive wax x y bee", "hive wax bee", "hive wax x y z"]
    assert [index.nearest(query, 0.7) for query in queries] == [best(pile, query, 0.7) for query in queries]


def test_a_token_that_a_text_repeats_is_another_in_its_signature():
    once, often = ("".join(rouge._numbered(text)) for text in ("ab", "aab"))
    assert len(set(often)) > len(set(once))
    bits = [sum(half.bit_count() for half in rouge._signature(rouge._numbered(text))) for text in ("ab", "aab", "aaaa")]
    assert bits == [2, 3, 4]
