"""Text from outside the domain mixed into training: so large a share of every draw, and never what judges."""

from __future__ import annotations

import json

import pytest

from isara import align
from isara.errors import InputError, RunError

pytestmark = pytest.mark.usefixtures("unsynced")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text("\n\n".join(f"Passage {n} is about weather. " * 30 for n in range(6)), encoding="utf-8")
    return path


def made(small, tmp_path, *more, out="run"):
    return align(small.records, out=tmp_path / out, model="scripted", settings=[*small.settings, "rounds=1", *more])


def test_every_training_draws_its_share_from_the_text(small, tmp_path, prose):
    made(small, tmp_path, "train.replay=0.25", f"train.replay_text='{prose}'")
    for arm in ("seeds-only", "round-1"):
        rows = lines(tmp_path / "run" / arm / "train.jsonl")
        replayed = [row for row in rows if row["id"].startswith("replay-")]
        assert len(replayed) == 6
        assert all(row["prompt"] == "" and row["completion"].startswith("Passage") for row in replayed)
        share = sum(row["weight"] for row in replayed) / sum(row["weight"] for row in rows)
        assert share == pytest.approx(0.25)
        training = json.loads((tmp_path / "run" / arm / "training.json").read_text(encoding="utf-8"))
        assert (training["replayed"], training["seeds"]) == (6, len(lines(tmp_path / "run" / "seeds.jsonl")))
        assert training["generated"] == (10 if arm == "round-1" else 0)


def test_without_it_nothing_changes(small, tmp_path):
    made(small, tmp_path)
    rows = lines(tmp_path / "run" / "seeds-only" / "train.jsonl")
    assert {row["weight"] for row in rows} == {1.0}


def test_the_steps_stay_the_same(small, tmp_path, prose):
    made(small, tmp_path, out="without")
    made(small, tmp_path, "train.replay=0.5", f"train.replay_text='{prose}'", out="with")
    steps = [json.loads((tmp_path / o / "round-1" / "training.json").read_text())["steps"] for o in ("without", "with")]
    assert steps[0] == steps[1]


def test_a_text_that_changed_is_noticed(small, tmp_path, prose):
    settings = ("train.replay=0.25", f"train.replay_text='{prose}'")
    made(small, tmp_path, *settings)
    prose.write_text("Another text with enough words in it.", encoding="utf-8")
    with pytest.raises(RunError, match=r"trained with another text than train\.replay_text has now"):
        made(small, tmp_path, *settings)


def test_an_unusable_text_is_told_before_anything_is_computed(small, tmp_path, prose):
    with pytest.raises(InputError, match=r"train\.replay_text is missing"):
        made(small, tmp_path, "train.replay=0.25")
    with pytest.raises(InputError, match="cannot be read"):
        made(small, tmp_path, "train.replay=0.25", "train.replay_text='nowhere.txt'", out="two")
    prose.write_text("\n\n".join(record["question"] + " And so on." for record in small.records), encoding="utf-8")
    with pytest.raises(InputError, match="has the question of seed-"):
        made(small, tmp_path, "train.replay=0.25", f"train.replay_text='{prose}'", out="three")
    assert not (tmp_path / "three" / "base" / "done.json").exists()
