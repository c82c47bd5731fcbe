"""Rounding at random: to a neighbour, right on average, and the same each time for the same dice."""

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from isara.backends.rounding import rounded_at_random  # noqa: E402

NUMBERS = st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32)


def dice(seed=1):
    return torch.Generator().manual_seed(seed)


@given(st.lists(NUMBERS, min_size=1, max_size=50), st.integers(0, 2**40))
def test_a_number_goes_to_one_of_its_two_neighbours_and_the_same_dice_give_the_same(numbers, seed):
    x = torch.tensor(numbers)
    found = rounded_at_random(x, dice(seed))
    assert found.dtype == torch.bfloat16
    toward_zero = (x.view(torch.int32) & -65536).view(torch.float32)
    away = (toward_zero.view(torch.int32) + 65536).view(torch.float32)
    wide = found.float()
    assert bool(((wide == toward_zero) | ((wide == away) & (x != toward_zero))).all())
    assert torch.equal(found, rounded_at_random(x, dice(seed)))


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_what_bfloat16_has_stays_as_it_is(numbers):
    x = torch.tensor(numbers).bfloat16()
    assert torch.equal(rounded_at_random(x.float(), dice()), x)


@pytest.mark.parametrize("share", [0.03, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("size", [1.0, -3e-5, 700.0])
def test_it_is_right_on_average(share, size):
    low = torch.tensor(size).bfloat16().float()
    high = (low.view(torch.int32) + 65536).view(torch.float32)
    x = low + (high - low) * share
    found = rounded_at_random(x.expand(40_000), dice()).float()
    up = float((found == high).float().mean())
    # Five standard errors of a share of 40,000.
    assert abs(up - share) < 5 * (share * (1 - share) / 40_000) ** 0.5
    assert bool(((found == low) | (found == high)).all())


@pytest.mark.parametrize("size", [7, 8, 9, 20])
def test_numbers_are_rounded_in_parts_that_each_draw_anew(size, monkeypatch):
    monkeypatch.setattr("isara.backends.rounding._AT_ONCE", 8)
    x = torch.full((400, size), 1 + 2**-8)
    found = rounded_at_random(x, dice()).float()
    assert set(found.unique().tolist()) == {1.0, 1 + 2**-7}
    # Five standard errors of half of 400, in each column: none is left out, and none is all of one kind.
    assert bool(((found > 1).float().mean(0) - 0.5).abs().lt(5 * 0.5 / 20).all())
    assert found.shape == x.shape
