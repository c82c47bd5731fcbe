"""isara as a library: one call, records in memory, models of one's own."""

from __future__ import annotations

import importlib
import json
import math
import socket
from pathlib import Path
from statistics import fmean

import pytest

import isara
from conftest import NetworkUsedError
from isara import Backend, IsaraError, Settings, align, read_seeds
from isara.errors import BackendError, GenerationError, InputError, RunError, SettingsError
from isara.events import Event
from isara.protocols import Likelihood, Step, Trained
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")
PUBLIC = ["Backend", "IsaraError", "Result", "Sample", "Settings", "align", "read_seeds", "write_report"]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def own(model=None, embedder=None, trainer=None, **facts):
    return Backend(
        model or ScriptedModel(),
        embedder or HashEmbedder(),
        trainer or ScriptedTrainer(),
        {"name": "mine"} | facts,
        {"name": "my embedder"},
    )


class Sick(ScriptedModel):
    """A model that loses a number when it scores, tuned or not as asked."""

    def __init__(self, total, *, when_tuned):
        super().__init__()
        self.total, self.when_tuned = total, when_tuned

    def score(self, pairs, *, top_tokens=0):
        scored = super().score(pairs, top_tokens=top_tokens)
        return [Likelihood(self.total, 3), *scored[1:]] if scored and not self.when_tuned else scored

    def tuned(self, strength):
        return Sick(self.total, when_tuned=False) if self.when_tuned and strength else self


class Diverging(ScriptedTrainer):
    def train(self, *args, steps, out, **options):
        out.mkdir(parents=True)
        return Trained(2, 1, (Step(1, 2, 3.0), Step(2, 2, math.nan)))


def test_the_public_names_are_these_and_no_more():
    assert sorted(isara.__all__) == isara.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_where_it_is_made(name):
    found = vars(importlib.import_module("isara"))[name] if name in vars(isara) else isara.__getattr__(name)
    assert found.__name__ == name
    assert found.__module__.startswith("isara.")
    assert found.__doc__


def test_what_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'isara' has no attribute 'align_all'"):
        isara.align_all  # noqa: B018


def test_records_in_memory_and_their_result(small, tmp_path):
    result = align(small.records, out=tmp_path / "run", model="scripted", settings=small.settings)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert result.run == tmp_path / "run"
    assert list(result.scores) == ["base", "retrieved", "seeds-only", "round-1", "round-2"]
    assert result.scores == {row["arm"]: row["mean"] for row in summary["heldout"]["arms"]}
    assert result.best == min(result.scores, key=result.scores.get)
    assert result.adapter == tmp_path / "run" / result.best / "adapter"
    assert result.adapter.is_dir()
    assert list(result.verdict) == summary["verdict"]
    assert [entry["round"] for entry in result.rounds] == [1, 2]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"]["seeds"] | {"sha256": "", "content": ""} == {
        "path": "(in memory)",
        "samples": 30,
        "sha256": "",
        "content": "",
    }
    assert manifest["inputs"]["heldout"] is None


def test_pairs_records_samples_and_files_come_to_the_same(small, tmp_path):
    sources = {
        "pairs": [(record["question"], record["answer"]) for record in small.records],
        "records": iter(small.records),
        "samples": read_seeds(small.seeds),
        "path": small.seeds,
        "name": str(small.seeds),
    }
    settings = [*small.settings, "rounds=1", "target.accepted=3"]
    scores = [align(s, out=tmp_path / n, model="scripted", settings=settings).scores for n, s in sources.items()]
    assert scores == scores[:1] * 5


def test_settings_as_a_list_or_as_an_object(small, tmp_path, finished):
    chosen = Settings.model_validate(
        {
            "rounds": 2,
            "gate": {"patience": 2},
            "target": {"accepted": 10, "batch": 8},
            "split": {"least": 6},
            "train": {"batch": 16, "epochs": 1.0, "checks": 2, "start": "previous"},
        }
    )
    align(small.seeds, out=tmp_path / "run", model="scripted", settings=chosen)
    for part in ("manifest.json", "summary.json"):
        mine, other = (
            json.loads((folder / part).read_text(encoding="utf-8")) for folder in (tmp_path / "run", finished)
        )
        assert mine.get("settings") == other.get("settings")
        assert mine.get("heldout") == other.get("heldout")


@pytest.mark.parametrize("start", ["base", "seeds", "previous"])
def test_every_round_starts_from_the_weights_that_the_settings_name(start, small, tmp_path):
    settings = [*small.settings, f"train.start='{start}'", "train.epochs=7", "gate.keep='all'"]
    align(small.seeds, out=tmp_path, model="scripted", settings=settings)
    trained = [
        json.loads((tmp_path / arm / "training.json").read_text(encoding="utf-8"))
        for arm in ("seeds-only", "round-1", "round-2")
    ]
    begun = [training["start"] for training in trained]
    first, *others = (training["steps"] for training in trained)
    assert others == [first if start == "base" else math.ceil(first / 2)] * 2
    nll = {
        arm: fmean(row["nll"] for row in lines(tmp_path / arm / "heldout.jsonl")) for arm in ("seeds-only", "round-1")
    }
    before = {"base": [None, None], "seeds": ["seeds-only"] * 2, "previous": ["seeds-only", min(nll, key=nll.get)]}
    assert begun == [None, *(arm and f"{arm}/adapter" for arm in before[start])]
    assert nll["round-1"] < nll["seeds-only"]


def test_the_steps_of_a_round_can_be_said(small, tmp_path):
    align(small.seeds, out=tmp_path, model="scripted", settings=[*small.settings, "rounds=1", "train.round_steps=3"])
    steps = [
        json.loads((tmp_path / arm / "training.json").read_text(encoding="utf-8"))["steps"]
        for arm in ("seeds-only", "round-1")
    ]
    assert steps[1] == 3 * steps[0]


def test_held_out_and_test_samples_of_ones_own(small, tmp_path):
    seeds, heldout, test = small.records[:18], small.records[18:24], small.records[24:]
    result = align(seeds, heldout=heldout, test=test, out=tmp_path, model="scripted", settings=small.settings)
    questions = {
        part: [r["question"] for r in lines(tmp_path / f"{part}.jsonl")] for part in ("seeds", "heldout", "test")
    }
    assert questions == {
        "seeds": [r["question"] for r in seeds],
        "heldout": [r["question"] for r in heldout],
        "test": [r["question"] for r in test],
    }
    assert {r["id"] for r in lines(tmp_path / "round-1" / "test.jsonl")} == {f"test-{n}" for n in range(1, 7)}
    trained = {r["id"] for r in lines(tmp_path / "round-1" / "train.jsonl")}
    assert not {name for name in trained if name.startswith(("heldout", "test"))}
    assert any("test samples, by which nothing was chosen" in sentence for sentence in result.verdict)


def test_a_sample_that_is_both_learned_and_judged_is_refused(small, tmp_path):
    shouted = [{"question": small.records[3]["question"].upper(), "answer": "Yes."}]
    with pytest.raises(InputError, match=r"1 samples are both learned from and judged by.*heldout-1 is seed-4"):
        align(small.records, heldout=shouted, out=tmp_path / "run", model="scripted")


def test_too_few_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="5 samples are too few: 8 are to be held out, and 0 would be left"):
        align([(f"What is {n}?", f"It is {n}.") for n in range(5)], out=tmp_path / "run", model="scripted")


def test_models_of_ones_own_are_used_and_named(small, tmp_path):
    model, embedder = ScriptedModel(), HashEmbedder(64)
    asked_for = []

    def backend(settings):
        asked_for.append(settings)
        return own(model, embedder, revision="r7")

    align(small.records, out=tmp_path, settings=small.settings, backend=backend)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["model"], manifest["embedder"]) == (
        {"name": "mine", "revision": "r7"},
        {"name": "my embedder"},
    )
    assert [settings.rounds for settings in asked_for] == [2]
    assert len(model.prompts) == 4 * 6 + len(lines(tmp_path / "heldout.jsonl")) + sum(
        len(lines(tmp_path / f"round-{n}" / "prompts.jsonl")) for n in (1, 2)
    )
    samples = sum(len(lines(tmp_path / f"{part}.jsonl")) for part in ("seeds", "heldout"))
    assert (tmp_path / "samples.f16").stat().st_size == 2 * 64 * samples


def test_a_base_model_without_a_chat_template_is_shown_plain_text(small, tmp_path):
    model = ScriptedModel(chat=False)
    align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: own(model))
    assert {type(prompt) for prompt in model.prompts} == {str}
    assert isinstance(lines(tmp_path / "seeds-only" / "train.jsonl")[0]["prompt"], str)


def test_another_model_makes_everything_stale(small, tmp_path):
    align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: own())
    with pytest.raises(RunError, match=r"the model is another one \(mine, other files: sha256 None → f00d\)"):
        align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: own(sha256="f00d"))


def test_the_watch_is_told_of_trainings_that_ended_early(small, tmp_path):
    told = []
    mine = own(trainer=ScriptedTrainer(checks=8, patience=1))
    settings = [*small.settings, "train.epochs=8"]
    align(small.records, out=tmp_path, settings=settings, backend=lambda _: mine, watch=told.append)
    (planned,) = [
        stage["units"]
        for event in told
        if event.kind == "plan"
        for stage in event.data["stages"]
        if stage["name"] == "train-seeds-only"
    ]
    training = json.loads((tmp_path / "seeds-only" / "training.json").read_text())
    taken = sum(one["steps"] for one in (training, *training["tried"]))
    assert taken < planned
    (revised,) = [e for e in told if e.kind == "revise" and e.data["name"] == "train-seeds-only"]
    assert revised.data["units"] == taken


def test_the_watch_is_told_every_stage_once(small, tmp_path):
    told: list[Event] = []
    align(small.records, out=tmp_path, model="scripted", settings=small.settings, watch=told.append)
    planned = [stage["name"] for event in told if event.kind == "plan" for stage in event.data["stages"]]
    assert [event.data["name"] for event in told if event.kind == "stage"] == ["load", *planned]
    assert [event.data["name"] for event in told if event.kind == "finish"] == ["load", *planned]


@pytest.mark.parametrize("total", [math.nan, -math.inf])
@pytest.mark.parametrize(("when_tuned", "arm"), [(False, "base"), (True, "seeds-only")])
def test_a_model_whose_scores_are_no_numbers_is_named(small, tmp_path, total, when_tuned, arm):
    sick = own(Sick(total, when_tuned=when_tuned))
    with pytest.raises(BackendError, match=r"scripted: the NLL of seed-\d+ is (nan|inf), no number to compare"):
        align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: sick)
    assert not (tmp_path / arm / "done.json").exists()


def test_a_training_that_diverges_is_told_with_its_step(small, tmp_path):
    with pytest.raises(BackendError, match="seeds-only: the training lost its way at step 2 of 2"):
        align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: own(trainer=Diverging()))
    align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: own())
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["status"] == "complete"


def test_a_model_that_writes_nothing_usable_is_told_with_the_rules_that_dropped(small, tmp_path):
    mute = own(ScriptedModel(lambda prompt, sampling, seed: "..."))
    with pytest.raises(GenerationError, match=r"Round 1: none of 40 candidates was accepted \(dropped by: parse 40\)"):
        align(small.records, out=tmp_path, settings=small.settings, backend=lambda _: mute)


def test_every_error_is_an_isara_error_with_its_own_exit_code():
    codes = {InputError: 2, SettingsError: 2, RunError: 3, GenerationError: 4, BackendError: 5}
    assert {kind: kind.exit_code for kind in codes} == codes
    assert all(issubclass(kind, IsaraError) for kind in codes)


def test_a_setting_that_does_not_exist(small, tmp_path):
    with pytest.raises(SettingsError, match=r"filter\.rogue: no such setting\. Did you mean filter.rouge"):
        align(small.records, out=tmp_path / "run", settings=["filter.rogue=0.5"])
    assert not (tmp_path / "run").exists()


def test_the_shipped_seeds_are_read_by_name():
    samples = read_seeds("misconceptions")
    assert len(samples) == len({sample.question for sample in samples}) >= 30
    assert all(sample.id == f"seed-{n}" for n, sample in enumerate(samples, start=1))


def test_no_test_leaves_this_machine():
    with pytest.raises(NetworkUsedError):
        socket.create_connection(("192.0.2.1", 80))
    with pytest.raises(NetworkUsedError):
        socket.getaddrinfo("huggingface.co", 443)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(NetworkUsedError):
        datagrams.sendto(b"x", ("192.0.2.1", 53))


def test_this_machine_may_talk_to_itself(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        with server.accept()[0] as other:
            other.sendall(b"here")
        assert client.recv(4) == b"here"


def test_the_home_is_a_scratch_one(home):
    assert Path.home() == home


def test_without_rounds_the_baselines_are_the_result_and_rounds_can_follow(small, tmp_path):
    none = align(small.records, out=tmp_path / "run", model="scripted", settings=[*small.settings, "rounds=0"])
    assert list(none.scores) == ["base", "retrieved", "seeds-only"]
    assert none.rounds == ()
    assert none.verdict[0].endswith("no round was run.")
    some = align(small.records, out=tmp_path / "run", model="scripted", settings=small.settings)
    assert list(some.scores)[3:] == ["round-1", "round-2"]
    assert {arm: some.scores[arm] for arm in none.scores} == none.scores


def test_every_round_is_gone_on_with_where_a_study_asks_for_that(small, tmp_path):
    settings = [*small.settings, "gate.keep='all'", "gate.min_gain=9", "gate.patience=100"]
    align(small.records, out=tmp_path / "run", model="scripted", settings=settings)
    rounds = [json.loads((tmp_path / "run" / f"round-{n}" / "round.json").read_text()) for n in (1, 2)]
    trained = [json.loads((tmp_path / "run" / f"round-{n}" / "training.json").read_text())["generated"] for n in (1, 2)]
    assert [entry["kept"] for entry in rounds] == [False, False]
    assert trained == [10, 20]
    assert [entry["pool"] for entry in rounds] == [24 + 10, 24 + 20]
    align(small.records, out=tmp_path / "seeds", model="scripted", settings=[*settings, "gate.pool='seeds'"])
    later = json.loads((tmp_path / "seeds" / "round-2" / "round.json").read_text())
    assert later["pool"] == 24


def test_what_searches_very_many_vectors_is_said_and_named_among_what_identifies_a_run(monkeypatch):
    from isara import vectors
    from isara.api import choose_backend, opened
    from isara.config import load

    def facts_and_words(*settings):
        told = []
        _, facts = opened(load(None, ["model.name=scripted", *settings]), choose_backend, 64, told.append)
        return facts, " ".join(event.data["text"] for event in told if event.kind == "say")

    monkeypatch.setattr(vectors, "version", lambda: "9.9")
    assert facts_and_words() == ({"name": "hash"}, "")
    facts, words = facts_and_words("target.accepted=50000")
    assert facts == {"name": "hash", "search": "usearch 9.9"}
    assert "up to 400,064 questions" in words
    monkeypatch.setattr(vectors, "version", lambda: None)
    facts, words = facts_and_words("target.accepted=50000")
    assert facts == {"name": "hash"}
    assert 'pip install "isara[scale]"' in words
