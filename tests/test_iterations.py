"""Rounds of a study: each beside the arm compared against, where the curve turns, and iterations against one shot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isara import stats
from isara.compare import compare
from isara.iterations import turning
from isara.report import write_comparison
from isara.report.comparison import comparison_html, comparison_markdown
from isara.rundir import records_in
from studies import made_in, study_in

pytestmark = pytest.mark.usefixtures("unsynced")

STUDY = """
seeds = "misconceptions"
random_seeds = [1, 2]
accepted = 12

[take]
seeds = 30
heldout = 8
test = 14

[settings]
rounds = 3
model = {name = "scripted"}
target = {batch = 4}
train = {epochs = 2.0, checks = 2, targets = "sampled"}

[arms]
seeds = {kind = "seeds"}
loop = {label = "<b>three</b> | rounds"}
one-shot = {kind = "one-shot"}
kept = {kind = "kept", set = ["gate.patience=2"]}
pool-of-seeds = {set = ["gate.pool='seeds'"]}
from-previous = {set = ["train.start='previous'"]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, complete. Look, and do not touch."""
    folder = tmp_path_factory.mktemp("study")
    return folder / "out", made_in(folder, STUDY)


def arm_in(found, name):
    return next(arm for arm in found["arms"] if arm["arm"] == name)


def rounds_in(found, name):
    return next(each for each in found["rounds"] if each["arm"] == name)


def scores_of(out, found, name, result):
    """Read from the runs' own files, a row for each random seed."""
    runs = arm_in(found, name)["runs"]
    return np.array([[r["nll"] for r in records_in(out / run["run"] / result / "test.jsonl")] for run in runs])


def by_brute_force(difference, confidence):
    """The interval of a bootstrap over random seeds and items, drawn one by one."""
    rng, (repeats, items) = np.random.default_rng(99), difference.shape
    means = []
    for _ in range(8000):
        rows, columns = rng.integers(0, repeats, repeats), rng.integers(0, items, items)
        means.append(difference[np.ix_(rows, columns)].mean())
    return np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))


def agrees(difference, values, confidence):
    low, high = by_brute_force(values, confidence)
    near = 0.08 * (high - low)
    assert difference["mean"] == pytest.approx(values.mean(), abs=1e-9)
    assert difference["low"] == pytest.approx(low, abs=near)
    assert difference["high"] == pytest.approx(high, abs=near)


# -- each round --------------------------------------------------------------------------------------------------------


def test_each_round_is_that_of_its_files_and_its_interval_that_of_a_plain_bootstrap(made):
    out, found = made
    seeds = scores_of(out, found, "seeds", "seeds-only")
    loop = rounds_in(found, "loop")
    assert [one["round"] for one in loop["rounds"]] == [1, 2, 3]
    after = [scores_of(out, found, "loop", f"round-{number}") for number in (1, 2, 3)]
    for one, scores in zip(loop["rounds"], after, strict=True):
        assert one["mean"] == pytest.approx(scores.mean(), abs=1e-6)
        assert one["by_seed"] == pytest.approx(scores.mean(axis=1), abs=1e-6)
        agrees(one["difference"], seeds - scores, 0.95)
    means = [scores.mean() for scores in after]
    assert len({round(mean, 9) for mean in means}) == 3
    assert loop["best"] == 1 + int(np.argmin(means))
    agrees(loop["last_on_first"], after[0] - after[2], 0.95)
    agrees(loop["last_on_best"], after[loop["best"] - 1] - after[2], loop["confidence_on_best"])


def test_every_arm_of_several_rounds_is_shown_and_no_other(made):
    out, found = made
    assert [each["arm"] for each in found["rounds"]] == ["loop", "kept", "pool-of-seeds", "from-previous"]
    last = rounds_in(found, "loop")["rounds"][-1]
    assert last["mean"] == arm_in(found, "loop")["mean"]
    assert last["difference"] == arm_in(found, "loop")["difference"]
    made_by_kept = [
        len(json.loads((out / run["run"] / "summary.json").read_text())["rounds"])
        for run in arm_in(found, "kept")["runs"]
    ]
    kept = rounds_in(found, "kept")
    assert len(kept["rounds"]) == min(made_by_kept) >= 2
    assert kept["whole"] == (min(made_by_kept) == 3)


def test_rounds_that_the_gate_spared_some_random_seed_are_left_out(tmp_path):
    text = STUDY[: STUDY.index("[arms]")].replace("[1, 2]", "[3, 4]") + (
        "[arms]\nseeds = {kind = 'seeds'}\n"
        "kept = {kind = 'kept', set = ['gate.patience=2', 'gate.standard_errors=0']}\n"
    )
    out = tmp_path / "out"
    found = compare(study_in(tmp_path, text), out)
    summaries = [json.loads((out / run["run"] / "summary.json").read_text()) for run in arm_in(found, "kept")["runs"]]
    assert sorted(len(summary["rounds"]) for summary in summaries) == [2, 3]
    kept = rounds_in(found, "kept")
    assert (len(kept["rounds"]), kept["whole"]) == (2, False)
    stopped = "The gate stopped some random seeds before the last round; the rounds that all made are shown."
    for kind in ("md", "html"):
        assert f"{kept['sentence']} {stopped}" in (out / f"comparison.{kind}").read_text(encoding="utf-8")


# -- where it turns ----------------------------------------------------------------------------------------------------


def rows(mean, spread=0.0, seed=0):
    """Scores of three trainings on thirty items: a mean, and noise of which every row and column has none left."""
    noise = np.random.default_rng(seed).normal(size=(3, 30))
    noise -= noise.mean()
    return (mean + spread * noise).tolist()


def test_a_curve_turns_where_the_interval_says_so():
    found = turning([rows(2.0, 0.1, 1), rows(1.0, 0.1, 2), rows(1.5, 0.1, 3)], 0.95)
    assert (found["best"], found["turns"]) == (2, True)
    assert found["sentence"].startswith(
        "The curve turns after round 2: it has the lowest NLL, and the last, 3, is worse than it by 0.500 (97.5 % "
    )
    assert "; the last round, 3, is better than the first by 0.500 (95 % interval +0.4" in found["sentence"]


def test_means_alone_turn_nothing():
    """The same means as above, and so much noise that they could be chance."""
    found = turning([rows(2.0, 9.0, 1), rows(1.0, 9.0, 2), rows(1.5, 9.0, 3)], 0.95)
    assert (found["best"], found["turns"]) == (2, False)
    assert found["sentence"].startswith("No turn can be shown: round 2 has the lowest NLL, but the last, 3, cannot be ")
    assert "; the last round, 3, cannot be told apart from the first (95 % interval \u2212" in found["sentence"]


def test_the_first_round_may_be_the_best_and_then_its_interval_needs_no_care():
    found = turning([rows(1.0, 0.1, 1), rows(1.2, 0.1, 2), rows(1.5, 0.1, 3)], 0.95)
    assert (found["best"], found["turns"], found["confidence_on_best"]) == (1, True, 0.95)
    assert found["sentence"].startswith("The curve turns after round 1: it has the lowest NLL, and the last, 3, is ")
    assert found["last_on_best"] == found["last_on_first"]


@pytest.mark.parametrize(
    ("spread", "said"),
    [(0.1, "the last round, 2, is better than the first by 0.500"), (9.0, "the last round, 2, cannot be told apart")],
)
def test_a_curve_that_still_falls_has_no_turn(spread, said):
    found = turning([rows(1.5, spread, 1), rows(1.0, spread, 2)], 0.95)
    assert (found["best"], found["turns"]) == (2, False)
    assert found["sentence"].startswith(f"No turn within 2 rounds: the last has the lowest NLL, and {said}")


def test_the_best_of_many_rounds_is_not_believed_for_having_been_picked():
    """A lead that one comparison would show, and the best of ten would often have by chance."""
    last = rows(1.0, 1.0, 5)
    lucky = (np.array(last) - 0.036 + 0.1 * np.array(rows(0.0, 1.0, 6))).tolist()
    others = [rows(1.5, 1.0, seed) for seed in range(10, 18)]
    assert stats.crossed(lucky, last, confidence=0.95).high < 0
    found = turning([others[0], lucky, *others[1:], last], 0.95)
    assert (found["best"], found["turns"]) == (2, False)
    assert found["confidence_on_best"] == pytest.approx(1 - 0.05 / 9, abs=1e-6)


def test_one_item_tells_nothing():
    found = turning([[[1.0]], [[2.0]]], 0.95)
    assert not found["turns"]
    assert found["sentence"] == "Round 1 of 2 has the lowest NLL; too few items to tell where the curve turns."


# -- iterations against one shot ---------------------------------------------------------------------------------------


def test_iterations_are_held_against_the_one_shot_of_the_same_settings_only(made):
    """What the gate does later has no part in a single round; where a training starts has one."""
    out, found = made
    assert [(each["arm"], each["one_shot"]) for each in found["one_shot"]] == [
        ("loop", "one-shot"),
        ("pool-of-seeds", "one-shot"),
    ]
    pair = found["one_shot"][0]
    values = scores_of(out, found, "one-shot", "round-1") - scores_of(out, found, "loop", "round-3")
    agrees(pair["difference"], values, 0.95)
    begins = "Iterations against one shot: <b>three</b> | rounds (3 rounds of 4) "
    verdicts = {"better": "is better than", "worse": "is worse than", "cannot be told apart": "cannot be told apart"}
    assert pair["sentence"].startswith(begins + verdicts[pair["words"]])
    assert "one-shot (12 samples at once)" in pair["sentence"]
    assert "Not at equal budgets" not in pair["sentence"]


def test_who_accepted_less_is_said(tmp_path):
    text = STUDY.replace("[1, 2]", "[1]").replace("batch = 4", "batch = 4, budget = 1")
    text = text[: text.index("kept = ")]
    found = compare(study_in(tmp_path, text), tmp_path / "out")
    several, at_once = (arm_in(found, name)["runs"][0]["accepted"] for name in ("loop", "one-shot"))
    assert min(several, at_once) < 12
    said = f"Not at equal budgets: {several} samples were accepted, and {at_once} at once."
    assert found["one_shot"][0]["sentence"].endswith(said)
    table = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "With one random seed, an interval says nothing of how another training would turn out." in table


# -- the table and the page --------------------------------------------------------------------------------------------


def test_the_table_and_the_page_show_every_round_with_its_sentence(made):
    out, found = made
    page, table = ((out / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    after = table[table.index("### Round by round") :]
    assert sum(line.startswith("| ") for line in after.splitlines()) == 2 + sum(
        len(each["rounds"]) for each in found["rounds"]
    )
    for each in found["rounds"]:
        assert each["sentence"] in table
        assert f"<p>{each['sentence']}" in page
    assert r"- &lt;b>three&lt;/b> \| rounds: " in after
    assert "<b>three" not in page + table
    assert f"<p>{found['one_shot'][1]['sentence']}</p>" in page
    assert page.count('<polygon class="band"') == len(found["rounds"])
    assert "<script" not in page
    assert " style=" not in page
    assert "script-src 'none'" in page
    assert write_comparison(out).html.read_text(encoding="utf-8") == page


def test_the_band_of_a_chart_is_the_interval(made):
    _, found = made
    page = comparison_html(found)
    band = page[page.index('<polygon class="band" points="') :].split('"')[3].split()
    heights = [float(point.split(",")[1]) for point in band]
    rounds = found["rounds"][0]["rounds"]
    wanted = [one["difference"]["low"] for one in rounds] + [one["difference"]["high"] for one in reversed(rounds)]
    assert len(band) == 6
    # Heights count from the top in percent: an exact straight line of the ends, whatever the scale.
    assert np.corrcoef(heights, wanted)[0, 1] == pytest.approx(-1, abs=1e-4)
    assert band[0].split(",")[0] == band[-1].split(",")[0]


def test_a_study_of_single_rounds_and_one_of_an_older_version_have_no_such_section(made):
    _, found = made
    older = {name: value for name, value in found.items() if name not in ("rounds", "one_shot")}
    for one in (older, {**found, "rounds": [], "one_shot": []}):
        assert "Round by round" not in comparison_markdown(one) + comparison_html(one)
