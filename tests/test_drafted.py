from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.drafted import wanted
from isara.settings import TargetSettings

TARGETS = st.builds(
    TargetSettings,
    accepted=st.integers(1, 5000),
    batch=st.integers(1, 600),
    budget=st.floats(1, 20, allow_nan=False),
)


@given(target=TARGETS, share=st.floats(0, 1), rate=st.floats(0, 1))
def test_a_round_asks_for_more_until_it_has_its_samples_or_its_budget_is_spent(target, share, rate):
    budget = int(target.accepted * target.budget)
    drafted = int(budget * share)
    kept = min(target.accepted, int(drafted * rate))
    size = wanted(target, drafted, kept)
    assert 0 <= size <= min(target.batch, budget - drafted)
    assert (size == 0) == (kept == target.accepted or drafted == budget)
    # What is missing could not be had from fewer.
    assert size >= min(target.accepted - kept, target.batch, budget - drafted)


@settings(max_examples=50)
@given(rate=st.floats(0.25, 1), accepted=st.integers(50, 2000))
def test_of_a_steady_share_kept_a_round_takes_few_batches_and_drafts_little_too_much(rate, accepted):
    target = TargetSettings(accepted=accepted, batch=10_000, budget=100)
    spent = []
    for seed in range(40):
        luck = np.random.default_rng(seed)
        drafted = kept = batches = 0
        while size := wanted(target, drafted, kept):
            passed = int(luck.binomial(size, rate))
            drafted, kept, batches = drafted + size, min(accepted, kept + passed), batches + 1
        assert kept == accepted
        assert batches <= 8
        spent.append(drafted)
    # Not each: where 8 of the first 67 are kept and a quarter of all, the next batch is twice too large.
    assert sum(drafted <= 1.5 * accepted / rate + 20 for drafted in spent) >= 38
    assert np.mean(spent) <= 1.4 * accepted / rate


def test_the_first_batch_takes_it_that_three_of_four_are_kept_and_one_that_kept_nothing_tells_nothing():
    target = TargetSettings(accepted=40, batch=32, budget=4)
    assert wanted(TargetSettings(accepted=10, batch=32), 0, 0) == 14
    assert wanted(target, 0, 0) == 32
    assert wanted(target, 32, 0) == 32
    # Half were kept, 24 are missing: 48, seven more for luck, and not more than a batch.
    assert wanted(target, 32, 16) == 32
    assert wanted(target.model_copy(update={"batch": 256}), 32, 16) == 55
    assert wanted(target, 150, 10) == 10
    assert wanted(target, 160, 10) == wanted(target, 60, 40) == 0
