"""Soft targets in the run directory: recorded once, read back the same, and left out where an engine has none."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isara import align
from isara.api import Backend
from isara.distil import mean_of
from isara.errors import RunError
from isara.events import Event
from isara.heldout import bare_prompt
from isara.prompts import from_messages
from isara.protocols import Targets
from isara.rundir import records_in
from isara.targetfiles import ALONE, WRITTEN, targets_in
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from studies import contents

pytestmark = pytest.mark.usefixtures("unsynced")


class Telling(ScriptedModel):
    """Notes what it found likely while it writes, and counts what it is asked for, and can crash at it."""

    asked = 0
    crash_at = -1

    def tuned(self, strength):
        model = type(self)()
        model.strength = strength
        return model

    def distributions(self, pairs, k):
        Telling.asked += len(pairs)
        if Telling.asked == Telling.crash_at:
            raise InterruptedError
        return super().distributions(pairs, k)


class Noting(Telling):
    """Notes nothing while it writes or scores, so that it is asked for everything."""

    def complete(self, prompts, sampling, *, seeds):
        return super().complete(prompts, replace(sampling, top_tokens=0), seeds=seeds)

    def score(self, pairs, *, top_tokens=0):
        return super().score(pairs)


class Mute(Noting):
    """An engine that tells no probabilities of single tokens."""

    def distributions(self, pairs, k):
        return None


@pytest.fixture(autouse=True)
def fresh():
    Telling.asked, Telling.crash_at = 0, -1


def backend(model):
    return lambda settings: Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "x"}, {"name": "hash"})


def soft_run(small, folder, model, *more, watch=lambda event: None):
    settings = [*small.settings, "train.teacher='generator'", "train.top_tokens=4", *more]
    return align(small.records, out=folder, settings=settings, backend=backend(model), watch=watch)


def shown_in(folder):
    """The prompts that a round's answers were written after."""
    records = records_in(folder / "prompts.jsonl")
    return {r["id"]: from_messages(r["prompt"]) for r in records if r["stage"] == "answer"}


def test_every_accepted_sample_has_the_targets_of_its_own_prompt(small, tmp_path):
    soft_run(small, tmp_path / "run", Noting())
    for number in (1, 2):
        folder = tmp_path / "run" / f"round-{number}"
        kept = records_in(folder / "kept.jsonl")
        targets = targets_in(folder / "targets")
        prompts = shown_in(folder)
        assert sorted(targets) == sorted(record["id"] for record in kept)
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


def test_what_was_noted_while_writing_is_not_asked_for_again(small, tmp_path):
    soft_run(small, tmp_path / "asked", Noting())
    asked, Telling.asked = Telling.asked, 0
    soft_run(small, tmp_path / "noted", Telling())
    assert (asked, Telling.asked) == (20, 0), "ten accepted samples in each of two rounds"
    names = [f"round-{number}/targets/{name}" for number in (1, 2) for name in ("index.jsonl", "ids.i32")]
    assert [(tmp_path / "noted" / n).read_bytes() for n in names] == [
        (tmp_path / "asked" / n).read_bytes() for n in names
    ]
    round_1 = tmp_path / "noted" / "round-1"
    answered = {r["id"] for r in records_in(round_1 / "completions.jsonl") if r["stage"] == "answer"}
    assert {r["id"] for r in records_in(round_1 / "kept.jsonl")} <= set(targets_in(round_1, WRITTEN)) <= answered


@pytest.mark.parametrize(
    ("style", "asked"), [("chat", 20), ("text", 40)], ids=["asked as a user asks", "asked in another form"]
)
def test_an_answer_is_read_once_for_its_score_and_for_its_teacher(small, tmp_path, style, asked):
    settings = ("train.teacher='mean'", f"answers.style={style!r}")
    for name, model in (("asked", Noting()), ("noted", Telling())):
        Telling.asked = 0
        soft_run(small, tmp_path / name, model, *settings)
    # Ten samples in each of two rounds: of the untouched model, and of its generator alone where it was not noted.
    assert Telling.asked == asked
    folders = [tmp_path / name / "round-1" for name in ("asked", "noted")]
    assert contents(folders[0] / "targets") == contents(folders[1] / "targets")
    kept = {record["id"] for record in records_in(folders[1] / "kept.jsonl")}
    assert set(targets_in(folders[0], ALONE)) == set()
    assert (kept <= set(targets_in(folders[1], ALONE))) == (style == "chat")


def test_what_was_noted_of_fewer_tokens_is_asked_for(small, tmp_path):
    class Narrow(Telling):
        def complete(self, prompts, sampling, *, seeds):
            return super().complete(prompts, replace(sampling, top_tokens=sampling.top_tokens // 2), seeds=seeds)

    soft_run(small, tmp_path / "run", Narrow())
    assert Telling.asked == 20
    assert all(read().ids.shape[1] == 4 for read in targets_in(tmp_path / "run" / "round-1" / "targets").values())


def test_a_run_that_crashed_while_recording_ends_as_one_that_did_not(small, tmp_path, monkeypatch):
    monkeypatch.setattr("isara.distil._STEP", 4)
    soft_run(small, tmp_path / "whole", Noting())
    asked, Telling.asked, Telling.crash_at = Telling.asked, 0, 8
    with pytest.raises(InterruptedError):
        soft_run(small, tmp_path / "crashed", Noting())
    soft_run(small, tmp_path / "crashed", Noting())
    assert contents(tmp_path / "crashed") == contents(tmp_path / "whole")
    assert Telling.asked == asked + 4, "only the step that was lost is done again"


def test_sampled_answers_ask_for_no_probabilities(small, tmp_path):
    settings = [*small.settings, "train.targets='sampled'"]
    align(small.records, out=tmp_path / "run", settings=settings, backend=backend(Telling()))
    assert Telling.asked == 0
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


def as_shares(one: Targets) -> list[dict[int, float]]:
    """What a target says at each place, by token."""
    places = []
    for ids, shares in zip(one.ids.tolist(), one.probabilities.tolist(), strict=True):
        place: dict[int, float] = {}
        for token, share in zip(ids, shares, strict=True):
            place[token] = place.get(token, 0.0) + share
        places.append({token: share for token, share in place.items() if share})
    return places


rows = st.integers(1, 5).flatmap(
    lambda k: st.tuples(
        st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k, unique=True), min_size=3, max_size=3),
        st.lists(st.lists(st.sampled_from([0.0, 0.125, 0.25]), min_size=k, max_size=k), min_size=3, max_size=3),
    )
)


@given(st.lists(rows, min_size=1, max_size=4))
def test_the_mean_of_teachers_is_the_mean_for_every_token(teachers):
    several = [Targets((1, 2, 3), np.array(ids, np.int32), np.array(shares, np.float16)) for ids, shares in teachers]
    found = as_shares(mean_of(several, 99))
    for place in range(3):
        expected: dict[int, float] = {}
        for one in several:
            for token, share in as_shares(one)[place].items():
                expected[token] = expected.get(token, 0.0) + share / len(several)
        assert found[place] == pytest.approx(expected, rel=2e-3)


def test_the_mean_keeps_the_likeliest_tokens_and_leaves_out_who_reads_other_tokens():
    one = Targets((5,), np.array([[5, 7]], np.int32), np.array([[0.5, 0.25]], np.float16))
    two = Targets((5,), np.array([[8, 7]], np.int32), np.array([[0.75, 0.125]], np.float16))
    other = Targets((6,), np.array([[6, 1]], np.int32), np.array([[0.9, 0.1]], np.float16))
    found = mean_of([one, two, other], 2)
    assert found.ids.tolist() == [[8, 5]]
    assert found.probabilities.tolist() == [[0.375, 0.25]]


def test_the_mean_of_teachers_is_of_the_generator_with_and_without_demonstrations_and_of_the_untouched_model(
    small, tmp_path
):
    soft_run(small, tmp_path / "run", Noting(), "train.teacher='mean'")
    run = tmp_path / "run"
    targets, prompts = targets_in(run / "round-1" / "targets"), shown_in(run / "round-1")
    generator = ScriptedModel().with_adapter(run / "seeds-only" / "adapter")
    for record in records_in(run / "round-1" / "kept.jsonl"):
        alone = bare_prompt(record["question"], chat=True)
        asked = [(generator, prompts[record["id"]]), (generator, alone), (ScriptedModel(), prompts[record["id"]])]
        expected = mean_of([model.distributions([(prompt, record["answer"])], 4)[0] for model, prompt in asked], 4)
        found = targets[record["id"]]()
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
