from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.eta import Plan, Stage

KINDS = ("question", "answer", "score", "train")


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def walk(plan, clock, stages, true, *, batch=1):
    """Live through a run whose stage kinds take `true` seconds a unit; yield after each batch and halfway to it."""
    for stage in stages:
        plan.begin(stage.name)
        done = 0
        while done < stage.units:
            step = min(batch, stage.units - done)
            clock.now += step * true[stage.kind] / 2
            yield
            clock.now += step * true[stage.kind] / 2
            done += step
            plan.progress(stage.name, done)
            yield
        plan.finish(stage.name)
        yield


def total_of(stages, true):
    return sum(stage.units * true[stage.kind] for stage in stages)


rates = st.floats(0.01, 100)
runs = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(20, 120)), min_size=1, max_size=8)


@given(runs, st.fixed_dictionaries(dict.fromkeys(KINDS, rates)), st.floats(0.2, 5), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_common_factor_in_the_priors_is_found_out_in_the_first_quarter(run, true, factor, batch):
    stages = [Stage(f"{kind} {at}", kind, units, true[kind] / factor) for at, (kind, units) in enumerate(run)]
    clock = Clock()
    plan, total, start = Plan(stages, clock), total_of(stages, true), clock.now
    for _ in walk(plan, clock, stages, true, batch=batch):
        elapsed = clock.now - start
        # before anything is measured there is nothing but the prior
        if elapsed >= 0.25 * total and elapsed > 8 * max(true[stage.kind] for stage in stages):
            left = total - elapsed
            assert plan.remaining() == pytest.approx(left, rel=0.3, abs=0.02 * total)
            assert plan.fraction() == pytest.approx(elapsed / total, abs=0.15)


@given(runs, st.fixed_dictionaries(dict.fromkeys(KINDS, rates)), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_with_right_priors_the_estimate_is_right_all_along(run, true, batch):
    stages = [Stage(f"{kind} {at}", kind, units, true[kind]) for at, (kind, units) in enumerate(run)]
    clock = Clock()
    plan, total, start = Plan(stages, clock), total_of(stages, true), clock.now
    for _ in walk(plan, clock, stages, true, batch=batch):
        assert clock.now - start + plan.remaining() == pytest.approx(total, rel=1e-6)
        assert plan.fraction() == pytest.approx((clock.now - start) / total, abs=1e-6)


actions = st.lists(
    st.tuples(
        st.sampled_from(["begin", "progress", "finish", "revise", "look"]),
        st.integers(0, 4),
        st.floats(0, 500),
        st.floats(-1e6, 1e6),
    ),
    max_size=60,
)
numbers = st.one_of(st.just(0.0), st.floats(1e-9, 1e6))


@given(st.lists(st.tuples(st.sampled_from(KINDS), numbers, numbers), min_size=5, max_size=5), actions)
@settings(max_examples=150, deadline=None)
def test_whatever_happens_the_estimate_is_a_number_and_the_fraction_never_falls(run, events):
    clock = Clock()
    plan = Plan([Stage(str(at), kind, units, prior) for at, (kind, units, prior) in enumerate(run)], clock)
    before = 0.0
    for action, at, amount, seconds in events:
        clock.now += seconds  # the clock also goes backwards
        if action == "finish":
            plan.finish(str(at))
        elif action == "begin":
            plan.begin(str(at), amount)
        elif action != "look":
            {"progress": plan.progress, "revise": plan.revise}[action](str(at), amount)
        remaining, fraction = plan.remaining(), plan.fraction()
        assert remaining is None or (math.isfinite(remaining) and remaining >= 0)
        assert before <= fraction <= 1
        before = fraction


def test_a_finished_stage_prices_the_later_ones_of_its_kind():
    clock = Clock()
    plan = Plan([Stage("a", "train", 10, 1), Stage("b", "train", 20, 1), Stage("c", "score", 10, 0)], clock)
    plan.begin("a")
    clock.now += 70
    plan.finish("a")
    assert plan.remaining() == pytest.approx(20 * 7)


def test_a_kind_not_met_yet_is_priced_by_the_speed_of_the_machine():
    clock = Clock()
    plan = Plan([Stage("a", "train", 100, 1), Stage("b", "score", 100, 1)], clock)
    plan.begin("a")
    clock.now += 300
    plan.finish("a")
    assert plan.remaining() == pytest.approx(300, rel=0.1)


def test_little_evidence_hardly_moves_the_priors():
    clock = Clock()
    plan = Plan([Stage("a", "load", 1, 1), Stage("b", "train", 1000, 1)], clock)
    plan.begin("a")
    clock.now += 10
    plan.finish("a")
    assert 1000 < plan.remaining() < 1200


def test_a_stage_comes_to_be_priced_by_its_own_rate():
    clock = Clock()
    plan = Plan([Stage("a", "train", 100, 1), Stage("b", "train", 100, 1)], clock)
    plan.begin("a")
    clock.now += 100
    plan.finish("a")
    plan.begin("b")
    assert plan.remaining() == pytest.approx(100)
    for done in range(1, 91):
        clock.now += 3
        plan.progress("b", done)
    assert plan.remaining() == pytest.approx(30, rel=0.06)


def test_between_two_words_of_progress_the_estimate_counts_down_and_the_fraction_up():
    clock = Clock()
    plan = Plan([Stage("a", "train", 10, 10)], clock)
    plan.begin("a")
    seen = []
    for _ in range(50):
        clock.now += 1
        seen.append((plan.remaining(), plan.fraction()))
    assert [left for left, _ in seen] == pytest.approx([99 - second for second in range(50)])
    assert [share for _, share in seen] == pytest.approx([(second + 1) / 100 for second in range(50)])


def test_a_stage_over_its_time_is_not_said_to_be_over():
    clock = Clock()
    plan = Plan([Stage("a", "load", 1, 10), Stage("b", "train", 10, 10)], clock)
    plan.begin("a")
    before = plan.remaining()
    clock.now += 100
    assert plan.remaining() > before
    assert plan.fraction() < 0.5


def test_stages_may_take_turns_and_each_pays_for_its_own_time():
    clock = Clock()
    plan = Plan([Stage("q", "question", 40, 9), Stage("a", "answer", 40, 9)], clock)
    for batch in (10, 20):
        plan.begin("q")
        clock.now += 10
        plan.progress("q", batch)
        plan.begin("a")
        clock.now += 50
        plan.progress("a", batch)
    plan.finish("q")
    plan.finish("a")
    plan.add(Stage("q2", "question", 40, 9))
    plan.add(Stage("a2", "answer", 40, 9))
    assert plan.remaining() == pytest.approx(20 + 100)


def test_a_skipped_stage_takes_no_time_and_a_longer_one_more():
    clock = Clock()
    plan = Plan([Stage("a", "train", 10, 1), Stage("b", "train", 10, 1)], clock)
    plan.revise("a", 0)
    assert plan.remaining() == pytest.approx(10)
    plan.revise("b", 30)
    assert plan.remaining() == pytest.approx(30)


def test_more_progress_than_units_makes_the_stage_longer():
    plan = Plan([Stage("a", "train", 10, 1)], Clock())
    plan.begin("a")
    plan.progress("a", 12)
    assert plan.remaining() == 0


def test_after_resuming_what_was_done_before_counts_as_done_but_is_not_measured():
    clock = Clock()
    stages = [Stage("a", "train", 50, 1), Stage("b", "train", 100, 1), Stage("c", "train", 50, 1)]
    plan = Plan(stages, clock)
    plan.finish("a")
    plan.begin("b", done=50)
    assert plan.fraction() == pytest.approx(0.5)
    assert plan.remaining() == pytest.approx(100)
    for done in range(51, 101):
        clock.now += 2
        plan.progress("b", done)
    plan.finish("b")
    assert plan.remaining() == pytest.approx(100)


def test_time_that_runs_backwards_is_no_time():
    clock = Clock()
    plan = Plan([Stage("a", "train", 10, 1)], clock)
    plan.begin("a")
    for done in range(1, 6):
        clock.now += 1
        plan.progress("a", done)
        clock.now -= 3600
        assert plan.remaining() >= 10 - done - 1e-9
        plan.begin("a")
    assert plan.remaining() == pytest.approx(5)


def test_a_finished_plan_is_whole():
    plan = Plan([Stage("a", "train", 10, 1)], Clock())
    plan.begin("a")
    plan.finish("a")
    assert (plan.fraction(), plan.remaining()) == (1.0, 0.0)


def test_without_stages_or_priors_nothing_is_known():
    assert Plan(()).remaining() is None
    assert Plan(()).fraction() == 0.0
    assert Plan([Stage("a", "train", 10, 0)]).remaining() is None


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_numbers_that_make_no_sense_are_refused(value):
    with pytest.raises(ValueError, match="stage a: expected a number of at least 0"):
        Stage("a", "train", value, 1)
    plan = Plan([Stage("a", "train", 1, 1)])
    with pytest.raises(ValueError, match="stage a"):
        plan.progress("a", value)
