"""Krippendorff's alpha: published examples, another implementation, and what is undefined."""

from __future__ import annotations

import math
import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.evals.agreement import agreement, krippendorff_alpha

FIRST = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
SECOND = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def units(judges):
    return list(zip(*judges, strict=True))


def test_two_judges_of_the_published_binary_example():
    """Krippendorff (2011), section A: two observers, ten units."""
    assert round(krippendorff_alpha(units([FIRST, SECOND])), 3) == 0.095


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_four_judges_of_the_published_example_with_missing_labels(level, alpha):
    """Krippendorff (2011), section C: four observers, twelve units, labels missing."""
    assert round(krippendorff_alpha(units(FOUR), level), 3) == alpha


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([None, 1, 2, 3, 5]), min_size=3, max_size=3), min_size=2, max_size=25),
    st.sampled_from(["nominal", "ordinal", "interval"]),
)
def test_alpha_is_that_of_the_krippendorff_package(rows, level):
    ours = krippendorff_alpha(rows, level)
    table = np.array([[np.nan if v is None else v for v in row] for row in rows], dtype=float).T
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
    except ValueError:  # it refuses data with fewer than two labels
        theirs = math.nan
    paired = {v for row in rows if sum(v is not None for v in row) > 1 for v in row if v is not None}
    if len(paired) > 1:
        assert ours == pytest.approx(theirs, abs=1e-12)
    else:
        assert ours is None


def test_judges_who_always_agree_have_alpha_one_and_their_order_plays_no_part():
    assert krippendorff_alpha(units([FIRST, FIRST])) == 1
    assert krippendorff_alpha(units([SECOND, FIRST])) == krippendorff_alpha(units([FIRST, SECOND]))


def test_one_label_alone_says_nothing():
    assert krippendorff_alpha([(1, 1), (1, 1)]) is None
    assert krippendorff_alpha([(1, None), (2, None)]) is None
    found = agreement([(True, True)] * 5)
    assert (found.alpha, found.low, found.agreeing, found.n) == (None, None, 1.0, 5)


def test_words_are_labels_too_but_have_no_order():
    assert krippendorff_alpha([("yes", "yes"), ("no", "yes"), ("no", "no")]) == pytest.approx(4 / 9)
    with pytest.raises(ValueError, match="'no' is no number, and ordinal labels are"):
        krippendorff_alpha([("no", "yes")], "ordinal")


def test_the_interval_holds_alpha_and_narrows_with_more_units():
    few, many = agreement(units([FIRST, SECOND])), agreement(units([FIRST * 20, SECOND * 20]))
    assert few.low < few.alpha < few.high
    assert many.high - many.low < (few.high - few.low) / 3
    assert agreement(units([FIRST, SECOND])) == few


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_the_interval_covers_the_alpha_of_the_population(level):
    """Judges who each copy a label three times in four, else draw one: alpha is 0.75 squared whatever the level."""
    rng = np.random.default_rng(5)
    hits = 0
    truth = 0.75**2
    for _ in range(60):
        label = rng.integers(3, size=120)
        judged = [np.where(rng.random(120) < 0.75, label, rng.integers(3, size=120)) for _ in range(2)]
        found = agreement([(int(a), int(b)) for a, b in zip(*judged, strict=True)], level, draws=500)
        hits += found.low <= truth <= found.high
    assert hits >= 52
