from hypothesis import given
from hypothesis import strategies as st

from isara.protocols import Step
from isara.turning import best_of, has_turned

MEANS = st.lists(st.none() | st.floats(0, 9), max_size=12)


def curve(means):
    """Return steps with two held-out scores around each mean; None for a step without a check."""
    return [Step(i, len(means), 1.0, None if m is None else (m, m)) for i, m in enumerate(means, 1)]


def test_it_has_turned_after_so_many_checks_without_a_better_one():
    falling = curve([3.0, None, 2.0, None])
    assert not has_turned(falling, 1)
    risen = curve([3.0, None, 2.0, 2.1, None])
    assert has_turned(risen, 1)
    assert not has_turned(risen, 2)
    assert has_turned(curve([3.0, 2.0, 2.1, 2.05]), 2)
    assert not has_turned(curve([3.0, 2.0, 2.1, 1.9]), 2)


def test_an_equal_check_is_no_better_one():
    assert best_of(curve([2.0, 2.0])).number == 1
    assert has_turned(curve([2.0, 2.0]), 1)


def test_what_was_never_checked_never_turns():
    assert best_of(curve([None, None])) is None
    assert not has_turned(curve([None] * 9), 1)


@given(MEANS, st.integers(1, 5))
def test_the_best_step_is_among_the_steps_before_the_turn(means, patience):
    steps = curve(means)
    ended = next((n for n in range(1, len(steps) + 1) if has_turned(steps[:n], patience)), len(steps))
    best = best_of(steps[:ended])
    checked = [s for s in steps[:ended] if s.heldout]
    assert (best is None) == (not checked)
    if best is not None:
        assert all(sum(best.heldout) <= sum(s.heldout) for s in checked)
        after = len([s for s in checked if s.number > best.number])
        assert after == patience if ended < len(steps) else after <= patience


@given(MEANS, st.integers(1, 5))
def test_more_patience_never_ends_sooner(means, patience):
    if has_turned(curve(means), patience + 1):
        assert has_turned(curve(means), patience)
