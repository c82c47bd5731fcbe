"""Soft targets in the run directory: recorded once, read back the same, and left out where an engine has none."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from isara import align
from isara.api import Backend
from isara.distil import prompts_of, targets_in
from isara.errors import RunError
from isara.events import Event
from isara.rundir import records_in
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")


class Noting(ScriptedModel):
    """Counts what it is asked for, and can crash at it."""

    asked = 0
    crash_at = -1

    def tuned(self, strength):
        model = Noting()
        model.strength = strength
        return model

    def distributions(self, pairs, k):
        Noting.asked += len(pairs)
        if Noting.asked == Noting.crash_at:
            raise InterruptedError
        return super().distributions(pairs, k)


class Mute(ScriptedModel):
    """An engine that tells no probabilities of single tokens."""

    def tuned(self, strength):
        model = Mute()
        model.strength = strength
        return model

    def distributions(self, pairs, k):
        return None


@pytest.fixture(autouse=True)
def fresh():
    Noting.asked, Noting.crash_at = 0, -1


def backend(model):
    return lambda settings: Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "x"}, {"name": "hash"})


def soft_run(small, folder, model, *more, watch=lambda event: None):
    settings = [*small.settings, "train.targets='soft'", "train.top_tokens=4", *more]
    return align(small.records, out=folder, settings=settings, backend=backend(model), watch=watch)


def contents(folder: Path):
    timed = {"events.jsonl", "manifest.json", "summary.json", "report.html", "report.md", ".lock", "seal.json"}
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in timed
    }


def test_every_accepted_sample_has_the_targets_of_its_own_prompt(small, tmp_path):
    soft_run(small, tmp_path / "run", Noting())
    for number in (1, 2):
        folder = tmp_path / "run" / f"round-{number}"
        kept = records_in(folder / "kept.jsonl")
        targets, prompts = targets_in(folder / "targets"), prompts_of(folder)
        assert list(targets) == [record["id"] for record in kept]
        generator = json.loads((folder / "round.json").read_text())["generator"]
        model = ScriptedModel().with_adapter(tmp_path / "run" / generator / "adapter")
        for record in kept:
            (expected,) = model.distributions([(prompts[record["id"]], record["answer"])], 4)
            found = targets[record["id"]]()
            assert found.tokens == expected.tokens
            np.testing.assert_array_equal(found.ids, expected.ids)
            np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    training = json.loads((tmp_path / "run" / "round-1" / "training.json").read_text())
    assert training["soft"] == training["generated"] == 10
    assert json.loads((tmp_path / "run" / "round-1" / "adapter" / "scripted.json").read_text())["soft"] == 10


def test_a_run_that_crashed_while_recording_ends_as_one_that_did_not(small, tmp_path, monkeypatch):
    monkeypatch.setattr("isara.distil._STEP", 4)
    soft_run(small, tmp_path / "whole", Noting())
    asked, Noting.asked, Noting.crash_at = Noting.asked, 0, 8
    with pytest.raises(InterruptedError):
        soft_run(small, tmp_path / "crashed", Noting())
    soft_run(small, tmp_path / "crashed", Noting())
    assert contents(tmp_path / "crashed") == contents(tmp_path / "whole")
    assert Noting.asked == asked + 4, "only the step that was lost is done again"


def test_sampled_answers_ask_for_no_probabilities(small, tmp_path):
    settings = [*small.settings, "train.targets='sampled'"]
    align(small.records, out=tmp_path / "run", settings=settings, backend=backend(Noting()))
    assert Noting.asked == 0
    assert not (tmp_path / "run" / "round-1" / "targets").exists()


def test_an_engine_without_probabilities_trains_on_the_samples_and_says_so(small, tmp_path):
    told: list[Event] = []
    soft_run(small, tmp_path / "run", Mute(), watch=told.append)
    said = [event.data["text"] for event in told if event.kind == "say"]
    assert [text for text in said if "tells no probabilities of single tokens" in text]
    assert json.loads((tmp_path / "run" / "round-1" / "training.json").read_text())["soft"] == 0


def test_other_targets_make_the_rounds_stale_and_not_the_baselines(small, tmp_path):
    soft_run(small, tmp_path / "run", Noting())
    with pytest.raises(RunError, match=r"train.targets: 'soft' → 'sampled'\n.*round-1, round-2\. Kept: .*seeds-only"):
        soft_run(small, tmp_path / "run", Noting(), "train.targets='sampled'")


def test_a_run_whose_trainings_are_done_reads_no_targets(small, tmp_path, monkeypatch):
    soft_run(small, tmp_path / "run", Noting())
    before = contents(tmp_path / "run")
    monkeypatch.setattr("isara.tuning.targets_in", lambda folder: pytest.fail(f"{folder} is read"))
    soft_run(small, tmp_path / "run", Noting())
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["ids.i32", "probabilities.f16", "index.jsonl"])
def test_targets_that_are_cut_short_are_named(small, tmp_path, name):
    soft_run(small, tmp_path / "run", Noting())
    damaged = tmp_path / "run" / "round-1" / "targets" / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(RunError, match=re.escape(name)):
        targets_in(damaged.parent)


def test_an_index_that_asks_for_more_than_there_is_is_named(small, tmp_path):
    soft_run(small, tmp_path / "run", Noting())
    index = tmp_path / "run" / "round-1" / "targets" / "index.jsonl"
    index.write_text(index.read_text().replace('"k": 4', '"k": 9'))
    with pytest.raises(RunError, match=r"index\.jsonl: says more than is recorded"):
        targets_in(index.parent)
