"""`isara judge audit`: a bad judge is turned away, a good one let through, and both say why."""

from __future__ import annotations

import json

import pytest

from isara.errors import SeedError
from isara.evals.audit import audit, judged_score, read_labels

GOOD = [True, False, True, True, False, False, True, False] * 5
BAD = [True, True, True, True, True, False, True, True] * 5


def labels(path, values, field="label", **more):
    rows = [
        {"id": f"i{n}", field: value, **{key: each[n] for key, each in more.items()}} for n, value in enumerate(values)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "good": labels(tmp_path / "good.jsonl", GOOD),
        "same": labels(tmp_path / "same.jsonl", GOOD, field="refused"),
        "bad": labels(tmp_path / "bad.jsonl", BAD),
    }


def test_two_copies_of_a_good_judge_pass_and_the_score_is_printed(files, isara, tmp_path):
    ended = isara("judge", "audit", files["good"], files["same"], "--out", tmp_path / "audit.json")
    assert ended.code == 0
    assert ended.out.startswith("The judge can be used: it agrees with the second judge at an alpha of 0.5 or more.")
    assert "alpha 1.000" in ended.out
    assert "Two judges of one family" in ended.out
    assert "share of true: 0.500 (0.352 to 0.648, n=40)" in ended.out
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["trusted"] is True


def test_a_bad_judge_is_turned_away_and_its_score_kept_back(files, isara):
    ended = isara("judge", "audit", files["bad"], files["good"])
    assert ended.code == 1
    assert ended.out.startswith("Do not use the judge: its agreement with the second judge is below an alpha of 0.5")
    assert "share of" not in ended.out
    assert "--anyway" in ended.out


def test_anyway_prints_the_score_with_a_warning(files, isara):
    ended = isara("judge", "audit", files["bad"], files["good"], "--anyway")
    assert ended.code == 0
    assert "share of true: 0.875" in ended.out
    assert "not to be trusted" in ended.out


def test_a_threshold_of_ones_own(files, isara):
    assert isara("judge", "audit", files["bad"], files["good"], "--min-alpha", "-1").code == 0


def test_people_decide_as_well(files, isara):
    ended = isara("judge", "audit", files["bad"], files["bad"], "--human", files["good"])
    assert ended.code == 1
    assert "its agreement with the people is below" in ended.out
    assert "The second judge and the people" in ended.out


def test_a_judge_alone_is_not_trusted(files, isara):
    ended = isara("judge", "audit", files["good"])
    assert ended.code == 1
    assert "no second judge and no human label" in ended.out


def test_labels_with_other_names_can_be_equated(files, isara, tmp_path):
    named = labels(tmp_path / "named.jsonl", ["full" if value else "NONE" for value in GOOD], field="said")
    words = ["judge", "audit", files["good"], "--human", named, "--human-field", "said"]
    assert isara(*words).code == 1
    assert isara(*words, "--equate", "full=true", "--equate", "none=false").code == 0
    ended = isara(*words, "--equate", "full")
    assert (ended.code, ended.err) == (
        2,
        "isara: --equate full: write it as LABEL=LABEL, such as 2_full_refusal=true.\n",
    )


def test_where_a_judge_says_how_sure_it_is_the_unsure_items_are_listed(isara, tmp_path):
    flipped = [value if n % 5 else not value for n, value in enumerate(GOOD)]
    sure = [0.95 if n % 5 else 0.55 for n in range(len(GOOD))]
    judge = labels(tmp_path / "judge.jsonl", flipped, confidence=sure)
    human = labels(tmp_path / "human.jsonl", GOOD)
    ended = isara("judge", "audit", judge, "--human", human, "--tau", "0.6")
    assert "where it is sure to 0.6 or more: 80% of the items, alpha 1.000" in ended.out
    assert "8 items to be labelled by a person: i0 i5 i10" in ended.out


def test_the_more_sure_a_judge_must_be_the_fewer_items_it_labels(tmp_path):
    sure = [0.5 + n / 80 for n in range(40)]
    judge = read_labels(labels(tmp_path / "judge.jsonl", GOOD, confidence=sure), "judge")
    human = read_labels(labels(tmp_path / "human.jsonl", GOOD), "people")
    shares = [gate.delegated for gate in audit([judge], human).gates]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1


def test_the_confidence_of_a_probability_is_its_distance_from_a_coin(tmp_path):
    path = labels(tmp_path / "judge.jsonl", [True, False], field="refused", probability=[0.9, 0.1])
    assert list(read_labels(path, "judge").confidences.values()) == [0.9, 0.9]


def test_numbers_are_labels_with_a_mean(tmp_path, isara):
    first = labels(tmp_path / "first.jsonl", [1, 2, 3, 4, 5, 5], field="score")
    second = labels(tmp_path / "second.jsonl", [1, 2, 3, 5, 5, 4], field="score")
    ended = isara("judge", "audit", first, second, "--level", "ordinal")
    assert ended.code == 0
    assert "mean label: 3.333" in ended.out
    assert isara("judge", "audit", first, second, "--level", "ratio").code == 2


def test_labels_of_a_table_are_those_of_the_same_json(tmp_path):
    (tmp_path / "a.csv").write_text("id,label\ni0,True\ni1,2\ni2,Yes\n", encoding="utf-8")
    read = read_labels(str(tmp_path / "a.csv"), "judge")
    assert read.labels == {"i0": True, "i1": 2, "i2": "yes"}
    assert str(judged_score(read, "nominal")[0]).startswith("share of 2.0: 0.333")


def test_every_row_without_a_label_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"label": 1}\n{"id": 3, "label": 1}\n{"id": 3, "label": 2}\n')
    with pytest.raises(SeedError) as caught:
        read_labels(str(tmp_path / "a.jsonl"), "judge", field="label")
    assert len(caught.value.mistakes) == 3
    assert "a second label for '3'" in caught.value.mistakes[2]


def test_judges_of_different_items_are_refused(files, isara, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"id": "x", "label": true}\n', encoding="utf-8")
    ended = isara("judge", "audit", files["good"], tmp_path / "other.jsonl")
    assert ended.code == 2
    assert "share no item" in ended.err
