from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.beginnings import common_starts, further
from isara.retrieve import Pool, request_seed
from isara.samples import Sample


def unit(rows):
    """Return vectors of length 1, rounded as a run rounds them."""
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f2").astype(np.float32)


def pool(vectors):
    return Pool([Sample(f"s{i}", f"q{i}", f"a{i}") for i in range(len(vectors))], vectors)


def random_pool(count, seed=0, dimensions=24):
    return pool(unit(np.random.default_rng([seed, count]).normal(size=(count, dimensions))))


def ids(samples):
    return [sample.id for sample in samples]


# A fan of directions: the further from the first, the less alike.
FAN = pool(unit([[np.cos(angle), np.sin(angle)] for angle in (0.0, 0.2, 0.4, 0.6, 0.8)]))


def test_the_most_similar_sample_comes_last():
    assert ids(FAN.for_answer(unit([[1, 0.01]])[0], 3)) == ["s2", "s1", "s0"]
    assert ids(FAN.for_answer(unit([[0.01, 1]])[0], 2)) == ["s3", "s4"]


def test_no_more_than_there_are_and_none_when_none_are_asked_for():
    assert len(FAN.for_answer(FAN.vectors[0], 9)) == 5
    assert FAN.for_answer(FAN.vectors[0], 0) == []


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 12), st.integers(0, 12), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_questions_begin_with_seeds_near_to_them_that_others_begin_with_too(seeds, more, count, shared, seed):
    whole = random_pool(size := seeds + more, seed)
    held = Pool(whole.samples[:seeds], whole.vectors[:seeds]).grown(whole.samples[seeds:], whole.vectors[seeds:])
    queries = list(unit(np.random.default_rng(seed).normal(size=(25, 24))))
    plain, found = held.for_answers(queries, count), held.for_answers(queries, count, shared)
    starts = common_starts([held.first.nearest(query, 2 * count) for query in queries], min(shared, count))
    nearest = [
        [place for place in held.nearest(query, size) if place not in start][: count - len(start)]
        for query, start in zip(queries, starts, strict=True)
    ]
    ends = further(starts, nearest)
    for start, end, rest, before, after in zip(starts, ends, nearest, plain, found, strict=True):
        assert len(set(ids(after))) == len(after) == min(count, size)
        if not shared:
            assert ids(after) == ids(before)
            continue
        others = [place for place in rest[::-1] if place not in end]
        assert ids(after) == [f"s{place}" for place in (*start, *end, *others)]


def test_what_like_questions_have_in_common_comes_first():
    queries = list(unit([[1, 0.45], [1, 0.5], [0.01, 1]]))
    assert [ids(few) for few in FAN.for_answers(queries, 2)] == [["s3", "s2"], ["s3", "s2"], ["s3", "s4"]]
    assert [ids(few) for few in FAN.for_answers(queries, 2, 1)] == [["s1", "s2"], ["s1", "s2"], ["s1", "s4"]]


def test_a_question_alone_has_nothing_in_common_and_is_shown_the_nearest():
    query = unit([[1, 0.45]])
    assert ids(FAN.for_answers(list(query), 4, 3)[0]) == ids(FAN.for_answer(query[0], 4)) == ["s4", "s1", "s3", "s2"]


@pytest.mark.parametrize("dimensions", [24, 384])
def test_equally_similar_samples_come_in_the_order_of_the_pool(dimensions):
    # How a machine adds up products depends on the row's place; of equal rows none may be nearer for that.
    for count in (2, 3, 5, 7, 11, 18, 37):
        rows = unit(np.random.default_rng(count).normal(size=(3, dimensions)))
        twins = pool(rows[[0] * count + [1] + [0] * count])
        assert twins.nearest(rows[0], 2 * count) == [*range(count), *range(count + 1, 2 * count + 1)]
        order = twins.nearest(rows[2], 2 * count + 1)
        order.remove(count)
        assert order == [*range(count), *range(count + 1, 2 * count + 1)]


@given(st.integers(1, 40), st.integers(0, 99), st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_nearest_is_what_sorting_by_the_cosine_gives(count, seed, wanted):
    many = random_pool(count, seed)
    query = unit(np.random.default_rng([seed, 1]).normal(size=(1, 24)))[0]
    cosines = many.vectors.astype(np.float64) @ query.astype(np.float64)
    assert many.nearest(query, wanted) == sorted(range(count), key=lambda i: (-cosines[i], i))[:wanted]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 40), st.integers(0, 99), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_sample_is_the_anchor_once_in_each_cycle(size, count, neighbourhood, seed, cycle):
    many = random_pool(size)
    turns = range(cycle * size, (cycle + 1) * size)
    anchors = Counter(many.for_question(turn, count, neighbourhood, seed, 1)[-1].id for turn in turns)
    assert anchors == {sample.id: 1 for sample in many.samples}


def test_the_anchors_come_in_another_order_in_each_cycle_and_round():
    many = random_pool(12)
    orders = [
        tuple(many.for_question(turn, 3, 6, 17, number)[-1].id for turn in range(start, start + 12))
        for number in (1, 2)
        for start in (0, 12)
    ]
    assert len(set(orders)) == 4


@given(st.integers(2, 30), st.integers(1, 9), st.integers(1, 40), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_the_others_are_different_samples_from_the_neighbourhood_of_the_anchor(size, count, neighbourhood, turn):
    many = random_pool(size)
    *others, anchor = many.for_question(turn, count, neighbourhood, 17, 1)
    assert len(others) == min(count - 1, neighbourhood, size - 1)
    assert len({*ids(others), anchor.id}) == len(others) + 1
    place = int(anchor.id[1:])
    near = [i for i in many.nearest(many.vectors[place], size) if i != place][:neighbourhood]
    assert {int(name[1:]) for name in ids(others)} <= set(near)


def test_a_sample_that_is_twice_in_the_pool_does_not_push_the_anchor_into_its_own_neighbourhood():
    twins = pool(np.repeat(random_pool(4).vectors, 5, axis=0))
    for turn in range(20):
        shown = ids(twins.for_question(turn, 4, 3, 17, 1))
        assert len(set(shown)) == 4


def test_all_of_the_neighbourhood_is_drawn_from_in_time():
    many = random_pool(10)
    seen = {}
    for turn in range(400):
        *others, anchor = many.for_question(turn, 3, 4, 17, 1)
        seen.setdefault(anchor.id, set()).update(ids(others))
    for name, others in seen.items():
        place = int(name[1:])
        assert others == {f"s{i}" for i in many.nearest(many.vectors[place], 5) if i != place}


def test_the_same_key_gives_the_same_demonstrations_and_another_key_gives_others():
    many, again = random_pool(30), random_pool(30)

    def drawn(source, *key):
        return [ids(source.for_question(turn, 5, 12, *key)) for turn in range(40)]

    assert drawn(many, 17, 1) == drawn(again, 17, 1)
    assert drawn(many, 17, 1) != drawn(many, 18, 1)
    assert drawn(many, 17, 1) != drawn(many, 17, 2)


def test_demonstrations_of_a_turn_do_not_depend_on_the_turns_before():
    many = random_pool(30)
    in_order = [ids(many.for_question(turn, 5, 12, 17, 1)) for turn in range(20)]
    backwards = [ids(many.for_question(turn, 5, 12, 17, 1)) for turn in reversed(range(20))]
    assert backwards[::-1] == in_order


def test_a_pool_that_grew_finds_the_new_samples_and_leaves_the_old_one_as_it_was():
    grown = FAN.grown([Sample("r1-1", "q", "a")], unit([[0, 1]]))
    assert (len(FAN), len(grown)) == (5, 6)
    assert ids(grown.for_answer(unit([[0, 1]])[0], 2)) == ["s4", "r1-1"]
    assert ids(FAN.for_answer(unit([[0, 1]])[0], 1)) == ["s4"]


def test_samples_without_vectors_are_refused():
    with pytest.raises(ValueError, match="2 samples but 1 vectors"):
        Pool([Sample("a", "q", "a"), Sample("b", "q", "a")], unit([[1, 0]]))


def test_a_request_has_the_same_seed_in_every_process_and_each_its_own():
    code = "from isara.retrieve import request_seed; print(request_seed(17, 'question', 'r1-00001'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(printed) == request_seed(17, "question", "r1-00001")
    names = [(seed, stage, i) for seed in (17, 18) for stage in ("question", "answer") for i in range(500)]
    seeds = {request_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_samples_at_random_depend_on_the_key_alone_and_are_each_there_once():
    samples = [Sample(f"seed-{i}", f"question {i}", "answer") for i in range(9)]
    pool = Pool(samples, np.eye(9, dtype=np.float32))
    drawn = [[sample.id for sample in pool.at_random(4, 17, turn)] for turn in range(40)]
    assert drawn[3] == [sample.id for sample in pool.at_random(4, 17, 3)]
    assert all(len(set(few)) == 4 for few in drawn)
    assert len({tuple(few) for few in drawn}) > 30
    assert len(pool.at_random(20, 1)) == 9
