import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as peer
from scipy.optimize import brentq

from isara.stats import Difference, Interval, compare, crossed, describe, mcnemar_exact, mean_interval

# Differences on a grid tie, cancel and repeat, which is where counting goes wrong.
GRID = st.integers(-20, 20).map(lambda k: k / 8)
SCORES = st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 3))
ZERO = [0.0] * 64


def of(differences, **options):
    """Compare two arms that differ by just these."""
    return compare(differences, ZERO[: len(differences)], **options)


def record(mean, low, high, *, p=0.01, n=16, effect=0.07):
    return Difference("round 1", "base", n, mean, low, high, p, effect)


# -- intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 10, 30, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_interval_is_the_bca_interval_of_scipy(n, confidence):
    values = np.random.default_rng(n).gamma(1.5, size=n)
    ours = mean_interval(values, confidence=confidence, draws=20_000)
    theirs = peer.bootstrap(
        (values,), np.mean, confidence_level=confidence, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    )
    # Both are Monte Carlo: 20,000 draws place the ends to within a few hundredths of the interval's width.
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    assert ours.mean == pytest.approx(values.mean())
    assert ours.n == n


def test_interval_of_skewed_values_leans_to_the_long_tail():
    values = np.random.default_rng(5).lognormal(0, 1.2, size=25)
    found = mean_interval(values)
    assert found.high - found.mean > 1.3 * (found.mean - found.low)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = sum(i.low <= 2 <= i.high for i in (mean_interval(rng.normal(2, 1, 20), draws=999) for _ in range(300)))
    assert 0.88 <= hits / 300 <= 0.985


@given(st.lists(SCORES, min_size=2, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_interval_does_not_depend_on_the_order(values, random):
    assert mean_interval(random.sample(values, len(values)), draws=499) == mean_interval(values, draws=499)


@given(st.lists(GRID, min_size=2, max_size=12), st.sampled_from([0.5, 2.0, 8.0]), GRID)
@settings(max_examples=50)
def test_interval_moves_and_stretches_with_the_values(values, factor, shift):
    before, after = mean_interval(values, draws=499), mean_interval([factor * v + shift for v in values], draws=499)
    for end in ("mean", "low", "high"):
        assert getattr(after, end) == pytest.approx(factor * getattr(before, end) + shift, abs=1e-9)


def test_interval_is_not_moved_by_rounding():
    # Resamples of tenths often equal the sample mean but for the last bit; those of whole numbers equal it exactly.
    whole, tenths = mean_interval([1, 1, 5, 5, 5]), mean_interval([0.1, 0.1, 0.5, 0.5, 0.5])
    assert tenths.low == pytest.approx(whole.low / 10, abs=1e-12)
    assert tenths.high == pytest.approx(whole.high / 10, abs=1e-12)


@given(st.lists(GRID, min_size=2, max_size=12))
@settings(max_examples=50)
def test_wider_confidence_gives_a_wider_interval(values):
    narrow, wide = mean_interval(values, confidence=0.8, draws=499), mean_interval(values, confidence=0.99, draws=499)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    assert min(values) <= wide.low
    assert wide.high <= max(values)


def test_interval_of_equal_values_has_no_width():
    assert mean_interval([0.1] * 3) == Interval(0.1, 0.1, 0.1, 3)
    assert mean_interval([0.3 - 0.2, 0.1, 0.4 - 0.3]).low == mean_interval([0.3 - 0.2, 0.1, 0.4 - 0.3]).high


@pytest.mark.parametrize("seed", range(6))
def test_interval_falls_back_to_percentiles_where_bca_is_undefined(seed):
    # A single draw lies wholly on one side of the sample mean (or on it), so the bias is infinite.
    found = mean_interval([0.0, 0.0, 0.0, 9.0], draws=1, seed=seed)
    assert found.low == found.high
    assert 0 <= found.low <= 9


def test_interval_of_one_value_is_none():
    assert mean_interval([1.5]) == Interval(1.5, None, None, 1)


def test_interval_reads_well():
    assert str(Interval(0.75, 0.5, 0.95, 4)) == "0.750 [0.500, 0.950] (n=4)"
    assert str(Interval(2.5, 1.25, 14.0, 9)) == "2.500 [1.250, 14.000] (n=9)"
    assert str(Interval(0.00123, 0.0011, 0.0014, 400)) == "0.00123 [0.00110, 0.00140] (n=400)"
    assert str(Interval(1.0, 1.0, 1.0, 3)) == "1.000 [1.000, 1.000] (n=3)"
    assert str(Interval(1.5, None, None, 1)) == "1.500 (n=1, no interval)"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf"), 1.0], [[1.0, 2.0]]])
def test_values_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match=r"^values: "):
        mean_interval(values)


# -- differences -------------------------------------------------------------------------------------------------------


def test_above_zero_means_that_the_arm_is_lower_and_so_better():
    found = compare([2.0, 2.2, 1.9], [1.5, 1.6, 1.5], names=("base", "round-1"))
    assert (found.against, found.arm, found.n) == ("base", "round-1", 3)
    assert found.mean == pytest.approx(0.5)
    assert 0 < found.low < found.mean < found.high


@given(st.lists(GRID, min_size=2, max_size=9))
@settings(max_examples=60)
def test_p_is_that_of_every_sign_pattern(differences):
    assume(any(differences))
    theirs = peer.permutation_test(
        (np.array(differences), np.zeros(len(differences))),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert of(differences).p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_p_of_sixteen_items_is_exact():
    assert of([0.1 * k for k in range(1, 17)]).p == 2 / 2**16


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_p_of_many_items_is_close_to_scipys(shift):
    differences = np.random.default_rng(11).normal(shift, 1, 40)
    theirs = peer.permutation_test(
        (differences, np.zeros(40)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        rng=np.random.default_rng(2),
    )
    # Four standard errors of the difference of two Monte Carlo shares.
    error = 4 * math.sqrt(2 * theirs.pvalue * (1 - theirs.pvalue) / 9999) + 1e-3
    assert of(differences.tolist()).p == pytest.approx(theirs.pvalue, abs=error)


def test_monte_carlo_p_is_never_zero():
    assert of([1.0 + k / 100 for k in range(40)]).p == 1 / 10_000


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=20))
@settings(max_examples=50)
def test_swapping_the_arms_negates_the_difference(pairs):
    against, arm = zip(*pairs, strict=True)
    there, back = compare(against, arm, names=("a", "b")), compare(arm, against, names=("b", "a"))
    assert (back.mean, back.p, back.smallest_effect) == (-there.mean, there.p, pytest.approx(there.smallest_effect))
    if there.n > 1:
        assert (back.low, back.high) == (-there.high, -there.low)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_order_of_the_items_does_not_matter(pairs, random):
    against, arm = zip(*pairs, strict=True)
    shuffled_against, shuffled_arm = zip(*random.sample(pairs, len(pairs)), strict=True)
    assert compare(shuffled_against, shuffled_arm) == compare(against, arm)


@given(st.lists(GRID, min_size=2, max_size=20), st.sampled_from([0.25, 2.0, 16.0]), st.integers(-8, 8))
@settings(max_examples=50)
def test_scale_and_common_shift(differences, factor, shift):
    before = of(differences)
    after = compare([factor * d + shift for d in differences], [float(shift)] * len(differences))
    assert after.p == before.p
    for field in ("mean", "low", "high", "smallest_effect"):
        assert getattr(after, field) == pytest.approx(factor * getattr(before, field), abs=1e-9)


def test_same_seed_same_difference_and_another_seed_a_close_one():
    differences = np.random.default_rng(0).normal(0.2, 1, 40).tolist()
    assert of(differences, seed=1) == of(differences, seed=1)
    assert of(differences, seed=1) != of(differences, seed=2)
    assert of(differences, seed=1).low == pytest.approx(of(differences, seed=2).low, abs=0.03)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 16, 60])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_smallest_effect_is_that_of_the_noncentral_t(n, confidence):
    differences = np.random.default_rng(n).normal(0, 1, n)
    critical = peer.t.ppf((1 + confidence) / 2, n - 1)
    noncentrality = brentq(lambda d: peer.nct.sf(critical, n - 1, d) - 0.8, 0.01, 2 * critical + 10)
    expected = noncentrality * differences.std(ddof=1) / math.sqrt(n)
    assert of(differences.tolist(), confidence=confidence).smallest_effect == pytest.approx(expected, rel=1e-5)


def test_smallest_effect_is_found_four_times_in_five():
    rng = np.random.default_rng(8)
    n, noncentrality = 12, of([-1.0, 1.0] * 6).smallest_effect / np.std([-1, 1] * 6, ddof=1)
    draws = rng.normal(noncentrality, 1, size=(4000, n))
    found = np.mean(peer.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 30, 999, 5000])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.975, 0.995, 0.99995])
def test_t_quantile_is_that_of_scipy(df, share):
    from isara.stats import _t_quantile

    assert _t_quantile(share, df) == pytest.approx(peer.t.ppf(share, df), rel=1e-6)


def test_constant_differences():
    found = of([0.25] * 8)
    assert (found.mean, found.low, found.high, found.smallest_effect) == (0.25, 0.25, 0.25, 0.0)
    assert found.p == 2 / 2**8


def test_equal_arms():
    found = of([0.0] * 5)
    assert (found.mean, found.low, found.high, found.p, found.smallest_effect) == (0, 0, 0, 1, 0)


def test_one_item_has_neither_interval_nor_smallest_effect():
    found = of([0.3])
    assert (found.n, found.mean, found.low, found.high, found.p, found.smallest_effect) == (1, 0.3, None, None, 1, None)


def test_scores_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="2 scores against 1"):
        compare([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match=r"^base: item 1 is nan"):
        compare([1.0, float("nan")], [1.0, 2.0], names=("base", "round-1"))
    with pytest.raises(ValueError, match="at least one number"):
        compare([], [])


# -- binary items ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(b, c):
    expected = peer.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(b, c) == mcnemar_exact(c, b)


def test_mcnemar_of_many_items():
    assert mcnemar_exact(2600, 2400) == pytest.approx(peer.binomtest(2600, 5000).pvalue, rel=1e-9)


def test_mcnemar_refuses_a_negative_count():
    with pytest.raises(ValueError, match="counts are -1 and 3"):
        mcnemar_exact(-1, 3)


# -- words -------------------------------------------------------------------------------------------------------------


def test_words_for_better():
    assert describe(record(0.131, 0.052, 0.21, p=0.003)) == (
        "Round 1 is better than base by 0.131 nats per token on average over 16 items "
        "(95 % interval 0.052 to 0.210; p = 0.003)."
    )


def test_words_for_worse():
    assert describe(record(-0.131, -0.21, -0.052, p=0.0001), arm_label="the tuned model", unit="points") == (
        "The tuned model is worse than base by 0.131 points on average over 16 items "
        "(95 % interval 0.052 to 0.210; p < 0.001)."
    )


def test_words_for_cannot_tell():
    assert describe(record(0.012, -0.034, 0.058, p=0.61, effect=0.066)) == (
        "These 16 items show no clear difference between round 1 and base: round 1 is ahead by 0.012 nats per token "
        "on average, but the 95 % interval from -0.034 to 0.058 includes zero (p = 0.610); with 16 items, only a true "
        "difference of about 0.066 or more would show four times in five."
    )
    assert "round 1 is behind by 0.012" in describe(record(-0.012, -0.058, 0.034, p=0.61))


def test_words_for_no_difference():
    assert (
        describe(of([0.0] * 5, names=("base", "round 1")))
        == "Round 1 and base score the same on every one of the 5 items."
    )


def test_words_for_the_same_difference_everywhere():
    assert describe(of([0.25] * 8, names=("base", "round 1"))) == (
        "Round 1 is better than base by the same 0.250 nats per token on every one of the 8 items (p = 0.008)."
    )


def test_words_for_too_few():
    assert describe(of([0.4], names=("base", "round 1"))) == (
        "1 item is too few to tell round 1 and base apart: a confidence interval needs at least 2."
    )


def test_words_say_when_the_test_disagrees_with_the_interval():
    assert "p = 0.062, so the permutation test is less sure)" in describe(record(0.2, 0.1, 0.3, p=0.0625, n=5))
    assert "p = 0.040, though the permutation test alone would call it one)" in describe(
        record(0.2, -0.01, 0.3, p=0.04)
    )


def test_words_for_an_interval_that_ends_at_zero_claim_nothing():
    assert "no clear difference" in describe(record(0.1, 0.0, 0.2))


@given(st.lists(GRID, min_size=1, max_size=10), st.sampled_from([0.8, 0.95]))
@settings(max_examples=80)
def test_words_never_claim_more_than_the_interval(differences, confidence):
    found = of(differences, confidence=confidence, names=("base", "round 1"))
    words = describe(found)
    assert words.count(".") >= 1
    assert words.endswith(".")
    assert (" is better than " in words) == (found.low is not None and found.low > 0)
    assert (" is worse than " in words) == (found.high is not None and found.high < 0)
    if " interval " in words and "%" in words:
        assert f"{confidence:.0%}"[:-1] in words


# -- items and random seeds --------------------------------------------------------------------------------------------


def test_with_one_random_seed_the_crossed_interval_is_the_percentile_interval_of_scipy():
    values = np.random.default_rng(2).gamma(1.5, size=40)
    ours = crossed([values], [np.zeros(40)], draws=20_000)
    theirs = peer.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)
    assert (ours.mean, ours.items, ours.repeats) == (pytest.approx(values.mean()), 40, 1)


def test_the_crossed_interval_is_that_of_a_plain_pigeonhole_bootstrap():
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(4, 1)) + rng.normal(size=(1, 25)) + rng.normal(size=(4, 25)) / 2
    ours = crossed(scores, np.zeros((4, 25)), draws=20_000)
    means = [scores[rng.integers(0, 4, 4)][:, rng.integers(0, 25, 25)].mean() for _ in range(20_000)]
    low, high = np.quantile(means, (0.025, 0.975))
    assert ours.low == pytest.approx(low, abs=0.03 * (high - low))
    assert ours.high == pytest.approx(high, abs=0.03 * (high - low))
    # What is the same in every training, and differs between trainings, both widen it.
    flat = crossed([scores.mean(axis=0)] * 4, np.zeros((4, 25)))
    assert flat.high - flat.low < 0.8 * (ours.high - ours.low)


def test_crossed_scores_are_refused_that_do_not_pair():
    with pytest.raises(ValueError, match=r"shape \(1, 2\) against \(1, 3\)"):
        crossed([[1.0, 2.0]], [[1.0, 2.0, 3.0]])
    assert crossed([[1.0]], [[0.5]]).low is None


def test_crossed_differences_of_zero_leave_no_width():
    found = crossed([[1.0, 2.0]] * 3, [[1.0, 2.0]] * 3)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
