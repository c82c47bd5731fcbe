"""Replaying the filter: the run's own settings give the run's own samples, and others say what they would change."""

from __future__ import annotations

import json
import shutil

import pytest

from isara import Backend, align
from isara.config import load_over
from isara.errors import RunError, SettingsError
from isara.replay import Replayed, replay
from isara.settings import FilterSettings
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")
THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(records):
    return tuple(record["id"] for record in records)


@pytest.fixture(scope="module")
def copier(small, tmp_path_factory):
    """A run whose model knows two held-out questions by heart, and says them again."""
    folder = tmp_path_factory.mktemp("runs") / "copier"
    seeds, heldout = small.records[:24], small.records[24:]
    memory = [record["question"] for record in heldout[:2]]

    def backend(settings):
        return Backend(ScriptedModel(memory=memory), HashEmbedder(), ScriptedTrainer(), {"name": "m"}, {"name": "e"})

    settings = [*small.settings, "target.accepted=60", "target.batch=60", "rounds=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        align(seeds, heldout=heldout, out=folder, settings=settings, backend=backend)
    return folder


def test_the_runs_own_settings_keep_what_the_run_kept_and_what_was_surplus(finished):
    replayed = replay(finished, FilterSettings())
    assert [found.round for found in replayed] == [1, 2]
    for found in replayed:
        folder = finished / f"round-{found.round}"
        dropped = lines(folder / "dropped.jsonl")
        assert found.kept_then == ids(lines(folder / "kept.jsonl"))
        assert found.surplus == ids(record for record in dropped if record["rule"] == "surplus")
        assert sorted(found.kept_now) == sorted((*found.kept_then, *found.surplus))
        assert found.gained == found.surplus
        assert (found.lost, found.unknown) == ((), ())
        funnel = {row["rule"]: row["dropped"] for row in json.loads((folder / "round.json").read_text())["funnel"]}
        assert found.dropped == {rule: count for rule, count in funnel.items() if count and rule != "surplus"}
    assert any(found.surplus for found in replayed)
    assert any(found.dropped for found in replayed)


def test_every_candidate_is_accounted_for_whatever_the_thresholds(finished):
    for threshold in THRESHOLDS:
        for found in replay(finished, FilterSettings(rouge=threshold)):
            drafted = json.loads((finished / f"round-{found.round}" / "round.json").read_text())["drafted"]
            assert len(found.kept_now) + len(found.unknown) + sum(found.dropped.values()) == drafted


def test_a_looser_rouge_lets_no_fewer_pass(finished, copier):
    for run in (finished, copier):
        passed = [
            [len(found.kept_now) + len(found.unknown) for found in replay(run, FilterSettings(rouge=threshold))]
            for threshold in THRESHOLDS
        ]
        for number, counts in enumerate(zip(*passed, strict=True), start=1):
            assert list(counts) == sorted(counts), (run.name, number)
        assert passed[0] < passed[-1]


def test_a_looser_rouge_costs_what_is_close_to_one_that_it_lets_in(small, tmp_path):
    """No law, then, that looser means more: the second passes at 0.85, and from then on the third is too close."""
    words = "how many old bakers still take plain flour and warm water for every dark loaf that they sell at noon"
    first = words.split()
    second = [*first[:15], "we", "bring", "home", "by", "night"]
    third = ["did", "some", *second[2:]]
    questions = iter([" ".join(each) + "?" for each in (first, second, third)])

    def respond(prompt, sampling, seed):
        return next(questions) if sampling.temperature else f"It depends on the day, and on number {seed % 99}."

    def backend(settings):
        return Backend(ScriptedModel(respond), HashEmbedder(), ScriptedTrainer(), {"name": "m"}, {"name": "e"})

    loose = ["filter.cosine=1.0", "filter.topic=-1", "filter.gain=-9", "answers.temperature=0"]
    few = ["rounds=1", "target.accepted=3", "target.batch=3", "target.budget=1"]
    align(small.records, out=tmp_path, settings=[*small.settings, *few, *loose], backend=backend)
    changed = {"cosine": 1.0, "topic": -1.0, "gain": -9.0}
    (strict,) = replay(tmp_path, FilterSettings(rouge=0.7, **changed))
    (looser,) = replay(tmp_path, FilterSettings(rouge=0.85, **changed))
    (loosest,) = replay(tmp_path, FilterSettings(rouge=0.95, **changed))
    assert (strict.kept_now, strict.unknown) == (("r1-00001", "r1-00003"), ())
    assert (looser.kept_now, looser.unknown, looser.lost) == (("r1-00001",), ("r1-00002",), ("r1-00003",))
    assert (loosest.kept_now, loosest.unknown, loosest.lost) == (("r1-00001", "r1-00003"), ("r1-00002",), ())


def test_a_stricter_rule_takes_from_what_was_kept_and_says_how_many(finished):
    kept = [record for n in (1, 2) for record in lines(finished / f"round-{n}" / "kept.jsonl")]
    words = sorted(record["scores"]["answer_words"] for record in kept)
    limit = int(words[len(words) // 2])
    for found in replay(finished, FilterSettings(answer_words_max=limit)):
        for record in lines(finished / f"round-{found.round}" / "kept.jsonl"):
            assert (record["id"] in found.lost) == (record["scores"]["answer_words"] > limit)
        assert found.dropped["answer_words"] >= len(found.lost)


def test_what_was_dropped_before_it_was_answered_is_unknown_and_not_kept(copier):
    (found,) = replay(copier, FilterSettings(rouge=1.0, cosine=1.0))
    answered = {r["id"] for r in lines(copier / "round-1" / "completions.jsonl") if r["stage"] == "answer"}
    assert found.unknown
    assert not answered & set(found.unknown)
    assert not set(found.unknown) & set(found.kept_now)


def test_the_rules_for_held_out_questions_hold_at_their_loosest(copier):
    heldout = [record["question"] for record in lines(copier / "heldout.jsonl")]
    dropped = lines(copier / "round-1" / "dropped.jsonl")
    copies = {r["id"] for r in dropped if r["question"] in heldout}
    assert copies
    for settings in (FilterSettings(), FilterSettings(heldout_rouge=1.0, heldout_cosine=1.0, rouge=1.0, cosine=1.0)):
        (found,) = replay(copier, settings)
        assert not copies & {*found.kept_now, *found.unknown}
        assert found.dropped["heldout_rouge"] >= len(copies)


@pytest.mark.parametrize("setting", ["heldout_rouge=1.01", "heldout_cosine=2", "heldout_rouge=inf"])
def test_the_rules_for_held_out_questions_cannot_be_set_to_nothing(finished, setting):
    recorded = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))["settings"]
    with pytest.raises(
        SettingsError, match=rf"filter\.{setting.partition('=')[0]}: expected a number above 0 and at most 1"
    ):
        load_over(recorded, [f"filter.{setting}"])


@pytest.mark.parametrize("name", ["heldout_rouge", "heldout_cosine"])
def test_loosening_a_rule_for_held_out_questions_is_said(isara, finished, name):
    told = isara("replay", finished, "--set", f"filter.{name}=0.95")
    assert told.code == 0
    assert f"warning: filter.{name} 0." in told.out
    assert "→ 0.95 lets in questions closer to those that judge the rounds." in told.out
    assert "warning" not in isara("replay", finished, "--set", f"filter.{name}=0.3").out


def test_a_second_round_is_compared_with_the_pool_it_had(finished):
    (_, second) = replay(finished, FilterSettings())
    dropped = [r for r in lines(finished / "round-2" / "dropped.jsonl") if r["rule"] in ("rouge", "cosine")]
    assert second.dropped.get("rouge", 0) + second.dropped.get("cosine", 0) == len(dropped) > 0
    assert json.loads((finished / "round-1" / "round.json").read_text())["kept"] is True


@pytest.mark.parametrize("gate", [["gate.keep='all'", "gate.min_gain=9", "gate.patience=100"], ["gate.pool='seeds'"]])
def test_a_round_is_compared_with_the_pool_it_had_whatever_the_gate(small, tmp_path, gate):
    """Where all rounds are gone on with the pool grows by what was not kept; where it is the seeds it never grows."""
    align(str(small.seeds), out=tmp_path / "run", model="scripted", settings=[*small.settings, *gate])
    rounds = replay(tmp_path / "run", FilterSettings())
    assert len(rounds) == 2
    assert all(set(each.kept_now) == {*each.kept_then, *each.surplus} for each in rounds)


def test_a_replay_changes_no_file_even_of_a_round_under_way(run):
    folder = run / "round-2"
    for name in ("round.json", "done.json"):
        (folder / name).unlink()
    for name in ("prompts.jsonl", "completions.jsonl", "kept.jsonl", "journal.jsonl"):
        with (folder / name).open("a", encoding="utf-8") as file:
            file.write('{"id": "r2-00099", "stage": "ques')
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}
    found = replay(run, FilterSettings())
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()} == before
    assert [each.round for each in found] == [1, 2]
    assert not found[1].lost


def test_what_was_cut_off_at_the_end_is_named(run):
    path = run / "round-1" / "completions.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RunError, match=r"round-1/completions\.jsonl: \d+ bytes here, \d+ were written\. Restore it"):
        replay(run, FilterSettings())


def test_vectors_that_do_not_fit_their_samples_are_named(run):
    path = run / "samples.f16"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RunError, match=r"samples\.f16: \d+ numbers do not make 30 vectors"):
        replay(run, FilterSettings())


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match="no run here"):
        replay(tmp_path, FilterSettings())


def test_a_run_that_has_drafted_nothing_yet(run):
    for number in (1, 2):
        shutil.rmtree(run / f"round-{number}")
    assert replay(run, FilterSettings()) == []


def test_gained_and_lost_are_in_the_order_of_the_candidates():
    found = Replayed(1, ("a", "b", "c"), ("b", "d", "e"), {}, (), ("e",))
    assert (found.gained, found.lost) == (("d", "e"), ("a", "c"))
