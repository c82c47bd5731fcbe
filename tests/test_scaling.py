"""Quality against the scaling ratio."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isara.report import scaling
from isara.report.scaling import GAP, apart


def study(**arms):
    """Return a comparison of arms, each with the (ratio, NLL) after its rounds, by random seed."""
    return {
        "against": "seeds",
        "arms": [
            {"arm": "seeds", "label": "seeds <alone>", "mean": 2.0},
            *({"arm": name, "label": f"the {name} & more", "mean": 0.0} for name in arms),
        ],
        "curve": [
            {"arm": name, "seed": seed, "round": which, "ratio": ratio, "mean": nll}
            for name, seeds in arms.items()
            for seed, points in enumerate(seeds, 1)
            for which, (ratio, nll) in enumerate(points, 1)
        ],
    }


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted), st.floats(0, 500))
def test_numbers_stand_apart_within_the_chart_and_no_further_from_their_lines_than_need_be(shares, more):
    height = GAP * (len(shares) + 1) + more
    places = apart(shares, height)
    wanted = [height * (100 - share) / 100 for share in shares]
    assert all(0 <= place <= height for place in places)
    assert all(above - below >= GAP - 1e-9 for above, below in pairwise(places))
    if all(above - below >= GAP for above, below in pairwise(wanted)):
        assert places == pytest.approx(wanted)


def test_arms_are_numbered_by_where_they_end_and_are_means_over_random_seeds():
    found = study(late=[[(1.0, 2.4), (2.0, 1.6)], [(1.0, 2.6), (2.0, 1.8)]], early=[[(1.5, 1.9)], [(1.5, 2.1)]])
    page = scaling.section(found)
    assert re.findall(r"<li>(.*?)</li>", page) == [
        "the late &amp; more, <strong>1.700</strong>",
        "the early &amp; more, <strong>2.000</strong>",
    ]
    assert re.findall(r"<title>(.*?)</title>", page) == [
        "the late &amp; more, round 1, ratio 1: 2.500",
        "the late &amp; more, round 2, ratio 2: 1.700",
        "the early &amp; more, round 1, ratio 1.5: 2.000",
    ]
    assert re.findall(r'<text class="tick number".*?>(\d+)<', page) == ["1", "2"]
    assert page.count('class="path"') == 1
    assert "seeds &lt;alone&gt; (2.000)" in page


def test_a_round_that_some_random_seeds_did_not_make_is_the_mean_of_the_others():
    found = study(loop=[[(1.0, 2.0), (2.0, 1.5)], [(1.0, 3.0)]])
    (line,) = scaling.ranked(found)
    assert line.points == ((1.0, 2.5), (2.0, 1.5))


def test_where_no_arm_made_samples_there_is_no_such_section():
    assert scaling.section(study()) == ""
