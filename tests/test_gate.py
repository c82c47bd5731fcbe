"""The gate: which gains are enough for a round to be kept, and what is said of those that are not."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isara.gate import decide
from isara.settings import GateSettings

NAMES = ("seeds-only", "round-1")
SCORES = st.lists(st.floats(0, 8), min_size=2, max_size=16)
PAIRS = st.lists(st.tuples(st.floats(0, 8), st.floats(0, 8)), min_size=2, max_size=16)


def test_a_gain_within_its_standard_error_is_enough_unless_more_is_asked():
    before = [1.0 + 0.1 * n for n in range(12)]
    after = [score - (0.2 if n % 2 else -0.18) for n, score in enumerate(before)]
    assert decide(before, after, NAMES, GateSettings()) == (
        True,
        "round-1 lowers the held-out NLL per token of tuning on the seeds alone (1.550) to 1.540: kept.",
    )
    assert decide(before, after, NAMES, GateSettings(standard_errors=1)) == (
        False,
        "round-1 lowers the held-out NLL per token of tuning on the seeds alone (1.550) to 1.540, by 0.010, and not by "
        "more than the standard error of the difference, 0.057: not kept.",
    )
    _, why = decide(before, after, NAMES, GateSettings(standard_errors=2))
    assert why.endswith("by more than 2 standard errors of the difference, 0.115: not kept.")


def test_the_larger_of_the_two_limits_holds():
    before, after = [2.0, 3.0, 4.0], [1.9, 2.8, 3.7]
    assert decide(before, after, NAMES, GateSettings(min_gain=0.19))[0]
    kept, why = decide(before, after, NAMES, GateSettings(min_gain=0.3))
    assert not kept
    assert why.endswith("(3.000) to 2.800, by 0.200, and not by more than gate.min_gain, 0.3: not kept.")


def test_one_sample_has_no_standard_error_and_decides_by_its_gain():
    assert decide([2.0], [1.5], NAMES, GateSettings())[0]
    assert not decide([2.0], [2.5], NAMES, GateSettings())[0]


@pytest.mark.parametrize(("after", "verb"), [([1.0, 2.0], "does not change"), ([1.5, 2.0], "raises")])
def test_what_gains_nothing_is_not_kept_whatever_is_asked(after, verb):
    kept, why = decide([1.0, 2.0], after, ("base", "round-3"), GateSettings())
    assert not kept
    assert why.startswith(f"round-3 {verb} the held-out NLL per token of the untouched model (1.500) to ")
    assert why.endswith(f"{np.mean(after):.3f}: not kept.")


@given(PAIRS, st.floats(0, 3), st.floats(0, 1))
def test_a_round_is_kept_where_its_t_statistic_says_so(pairs, times, least):
    before, after = map(np.array, zip(*pairs, strict=True))
    gains = before - after
    gain, error = gains.mean(), gains.std(ddof=1) / math.sqrt(len(gains))
    chosen = GateSettings(standard_errors=times, min_gain=least)
    if abs(gain - least) > 1e-9 and abs(gain - times * error) > 1e-9:
        assert decide(before, after, NAMES, chosen)[0] == (gain > least and gain > times * error)


@given(PAIRS, st.randoms())
def test_the_order_of_the_samples_decides_nothing(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    chosen = GateSettings(standard_errors=1)
    found = [decide(*map(list, zip(*some, strict=True)), NAMES, chosen)[0] for some in (pairs, mixed)]
    gains = np.array([before - after for before, after in pairs])
    if abs(gains.mean() - gains.std(ddof=1) / math.sqrt(len(gains))) > 1e-9:
        assert found[0] == found[1]


@given(SCORES, st.floats(0.01, 2))
def test_the_same_gain_on_every_sample_is_kept(before, gain):
    after = [score - gain for score in before]
    assert decide(before, after, NAMES, GateSettings())[0]
