from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isara.backends.pacing import Pace, gather


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def flow(pace, answers, rate, clock):
    """Let a server answer so many requests, `rate(limit)` of them a second."""
    limits = []
    for _ in range(answers):
        clock.now += 1 / rate(pace.limit)
        pace.answered(clock.now, full=True)
        limits.append(pace.limit)
    return limits


def test_it_doubles_while_that_helps_and_stays_below_the_ceiling():
    pace, clock = Pace(32), Clock()
    pace.begin(0.0)
    limits = flow(pace, 200, lambda limit: limit, clock)
    assert sorted(set(limits)) == [4, 8, 16, 32]
    assert limits == sorted(limits)


def test_it_stays_where_more_brings_nothing():
    pace, clock = Pace(256), Clock()
    pace.begin(0.0)
    limits = flow(pace, 4000, lambda limit: min(limit, 16), clock)
    assert max(limits) == 32
    assert all(16 <= limit <= 18 for limit in limits[200:])


def test_it_goes_back_when_more_makes_it_slower():
    pace, clock = Pace(256), Clock()
    pace.begin(0.0)
    limits = flow(pace, 2000, lambda limit: limit if limit <= 8 else 64 / limit, clock)
    assert all(limit <= 9 for limit in limits[200:])


def test_push_back_halves_it_once_for_each_burst():
    pace, clock = Pace(64), Clock()
    pace.begin(0.0)
    flow(pace, 400, lambda limit: limit, clock)
    assert pace.limit == 64
    for _ in range(10):
        pace.pressed(clock.now)
    assert pace.limit == 32
    flow(pace, 32, lambda limit: limit, clock)
    pace.pressed(clock.now)
    assert pace.limit < 32


def test_after_push_back_it_grows_in_small_steps():
    pace, clock = Pace(64), Clock()
    pace.begin(0.0)
    flow(pace, 400, lambda limit: limit, clock)
    pace.pressed(clock.now)
    limits = flow(pace, 300, lambda limit: limit, clock)
    assert limits[0] == 32
    assert all(before <= after <= before * 9 / 8 for before, after in pairwise(limits))
    assert limits[-1] > 56


def test_a_server_that_always_pushes_back_is_asked_one_by_one():
    pace = Pace(64)
    for _ in range(50):
        pace.pressed(0.0)
        for _ in range(64):
            pace.answered(0.0, full=False)
    assert pace.limit == 1


@given(st.lists(st.sampled_from(["answered", "idle", "pressed"])), st.integers(1, 40))
def test_whatever_happens_it_stays_between_one_and_the_ceiling(events, most):
    pace = Pace(most)
    for now, event in enumerate(events):
        if event == "pressed":
            pace.pressed(now)
        else:
            pace.answered(now, full=event == "answered")
        assert 1 <= pace.limit <= most


def test_results_come_in_the_order_of_the_requests():
    gates = [threading.Event() for _ in range(6)]

    def work(i, call):
        # the later ones end first
        if i < 5:
            gates[i + 1].wait()
        gates[i].set()
        return i * i

    assert gather(6, work, Pace(6, start=6), Clock()) == [0, 1, 4, 9, 16, 25]


def test_no_more_are_under_way_than_the_limit_allows():
    going, most, lock = 0, 0, threading.Lock()

    def work(i, call):
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        call.halt.wait(0.002)
        with lock:
            going -= 1

    gather(40, work, Pace(3), Clock())
    assert most == 3


def test_an_error_ends_all_and_wakes_those_that_wait():
    woken = threading.Semaphore(0)

    def work(i, call):
        if i == 2:
            raise KeyError("the third")
        call.halt.wait(60)
        woken.release()

    with pytest.raises(KeyError, match="the third"):
        gather(9, work, Pace(4), Clock())
    assert all(woken.acquire(timeout=30) for _ in range(2))


def test_push_back_told_from_within_is_heard():
    pace = Pace(8, start=8)

    def work(i, call):
        if i == 0:
            call.pressed()

    gather(8, work, pace, Clock())
    assert pace.limit == 4


def test_nothing_to_do_is_done_at_once():
    assert gather(0, lambda i, call: i, Pace(4), Clock()) == []
