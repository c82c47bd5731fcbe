from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isara.backends.patience import Limits, Patience, TroubleError, asked_to_wait

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PASSING = TroubleError("busy")


def pauses(patience, trouble=PASSING, *, takes=0.0):
    """The waits until there is no patience left, each request taking a while."""
    now, waits = patience.begun, []
    while (wait := patience.pause(trouble, now + takes)) is not None:
        waits.append(wait)
        now += takes + wait
    return waits


def test_waits_double_up_to_half_a_minute():
    waits = pauses(Patience(Limits(1, 9, 1e9), 0.0, draw=lambda: 1.0))
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@given(st.floats(0, 1), st.integers(0, 12))
def test_a_wait_is_between_half_and_the_whole(drawn, retries):
    waits = pauses(Patience(Limits(1, retries, 1e9), 0.0, draw=lambda: drawn))
    longest = pauses(Patience(Limits(1, retries, 1e9), 0.0, draw=lambda: 1.0))
    assert len(waits) == retries
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True))


def test_the_server_may_ask_for_longer_waits_and_not_for_shorter_ones():
    asked = TroubleError("busy", after=7.0)
    assert pauses(Patience(Limits(1, 6, 1e9), 0.0, draw=lambda: 1.0), asked) == [7, 7, 7, 7, 8, 16]


def test_the_deadline_ends_it_whatever_the_tries_left():
    patience = Patience(Limits(1, 100, 20.0), 1000.0, draw=lambda: 1.0)
    waits = pauses(patience, takes=1.0)
    assert waits == [0.5, 1, 2, 4]
    assert pauses(Patience(Limits(1, 100, 20.0), 0.0), TroubleError("busy", after=20.0)) == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("Tue, 24 Nov 2026 12:00:30", 30.0),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("²", None),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert asked_to_wait(header, NOW) == seconds
