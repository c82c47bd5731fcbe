"""Searching vectors: exactly, in blocks, and with an index beyond what is searched one by one."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara import vectors
from isara.vectors import Store, how


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f2").astype(np.float32)


def drawn(count, seed=0, dimensions=24):
    return unit(np.random.default_rng([seed, count]).normal(size=(count, dimensions)))


def sorted_by_product(rows, query, count, start=0):
    products = rows.astype(np.float64) @ query.astype(np.float64)
    return sorted(range(start, len(rows)), key=lambda i: (-products[i], i))[:count]


@given(st.integers(1, 60), st.integers(0, 9), st.integers(1, 20), st.integers(0, 30), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_the_nearest_are_those_of_a_sort_whatever_the_blocks(count, seed, wanted, start, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "_FEW", few)
        patch.setattr(vectors, "_BLOCK", 7)
        rows, queries = drawn(count, seed), drawn(5, seed + 1)
        rows[count // 2] = rows[0]
        store = Store(rows)
        for query, (places, products) in zip(queries, store.nearest(queries, wanted, start), strict=True):
            assert places == sorted_by_product(rows, query, wanted, start)
            assert products == [float(rows[i].astype(np.float64) @ query.astype(np.float64)) for i in places]


@pytest.mark.parametrize("few", [0, 512])
def test_products_too_close_for_float32_are_told_apart(monkeypatch, few):
    monkeypatch.setattr(vectors, "_FEW", few)
    # The second is better by 2^-24 of the product, which float32 cannot see next to 1.
    rows = np.array([[1, 0, 0], [1, 2**-12, 0], [1, 0, 2**-13]], np.float32)
    query = np.array([[1, 2**-12, 0]], np.float32)
    assert Store(rows).nearest(query, 3)[0][0] == [1, 0, 2]


def test_what_is_added_is_found_and_nothing_is_lost():
    rows = drawn(900)
    store = Store(rows[:1])
    for start in range(1, 900, 31):
        store.add(rows[start : start + 31])
        assert len(store) == min(900, start + 31)
        assert store.nearest(rows[[start]], 1)[0] == ([start], [pytest.approx(1, abs=2e-3)])
    assert np.array_equal(store.held, rows.astype(np.float16))
    assert np.array_equal(store.rows_at([5, 3]), rows[[5, 3]])


def test_nothing_is_found_where_nothing_is():
    assert Store(np.zeros((0, 3))).nearest(drawn(2), 4) == [([], []), ([], [])]
    assert Store(drawn(5)).nearest(drawn(2), 0) == [([], []), ([], [])]
    assert Store(drawn(5)).nearest(drawn(1), 3, 5) == [([], [])]


def clustered(count, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 32))
    return unit(centres[rng.integers(40, size=count)] + 0.5 * rng.normal(size=(count, 32)))


def test_beyond_the_limit_full_segments_have_an_index_and_most_of_the_nearest_are_found():
    pytest.importorskip("usearch")
    rows, queries = clustered(2100), clustered(60, seed=1)
    near, all_of_them = Store(rows, exact=500, segment=400), Store(rows)
    assert len(near._segments) == 5
    found, right = near.nearest(queries, 10), all_of_them.nearest(queries, 10)
    shared = [len(set(a) & set(b)) / 10 for (a, _), (b, _) in zip(found, right, strict=True)]
    assert np.mean(shared) >= 0.95
    # What is found has its exact product, and is in order.
    for query, (places, products) in zip(queries, found, strict=True):
        assert products == [float(rows[i].astype(np.float64) @ query.astype(np.float64)) for i in places]
        assert products == sorted(products, reverse=True)


def test_an_index_is_the_same_however_the_vectors_came():
    pytest.importorskip("usearch")
    rows, queries = clustered(1500), clustered(40, seed=2)
    at_once, in_parts = Store(rows, exact=300, segment=200), Store(rows[:10], exact=300, segment=200)
    for start in range(10, 1500, 37):
        in_parts.add(rows[start : start + 37])
        in_parts.nearest(queries[:3], 5)
    assert at_once.nearest(queries, 7) == in_parts.nearest(queries, 7)
    assert at_once.nearest(queries, 7, 150, 1333) == in_parts.nearest(queries, 7, 150, 1333)


def test_an_index_is_the_same_in_another_process():
    pytest.importorskip("usearch")
    script = """
import numpy as np
from isara.vectors import Store
rows = np.random.default_rng(5).normal(size=(1200, 16)).astype(np.float32)
print(Store(rows, exact=100, segment=300).nearest(rows[:50] + 0.25, 6))
"""
    said = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(said) == 1


def test_without_the_library_every_vector_is_looked_at_and_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(vectors, "version", lambda: None)
    rows = drawn(700)
    store = Store(rows, exact=100, segment=50)
    assert store.nearest(rows[:3], 4) == Store(rows).nearest(rows[:3], 4)
    assert not store._segments
    search, said = how(300, exact=200)
    assert search is None
    assert "up to 300 questions. Beyond 200, each is still compared with all" in said
    assert 'pip install "isara[scale]"' in said


def test_with_the_library_it_is_named(monkeypatch):
    monkeypatch.setattr(vectors, "version", lambda: "9.9")
    assert how(200, exact=200) == (None, None)
    search, said = how(201, exact=200)
    assert search == "usearch 9.9"
    assert "proposed by an index (usearch 9.9), which can miss one" in said
