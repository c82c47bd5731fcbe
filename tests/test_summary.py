from __future__ import annotations

import json

import pytest

from isara.errors import RunError
from isara.manifest import ARMS
from isara.rundir import Events, write_json, write_jsonl
from isara.settings import Settings
from isara.summary import best_arm, label, summarise, write_summary

pytestmark = pytest.mark.usefixtures("unsynced")

SIXTEEN = [((i * 7) % 16 - 7.5) / 10 for i in range(16)]
"""Difficulties of sixteen samples: their mean is 0."""
MEASURES = ("distinct_1", "distinct_2", "distinct_3", "self_bleu", "spread", "to_seeds", "copy_rate")
MEASURES += ("question_words", "answer_words")
UNMEASURED = dict.fromkeys(MEASURES)


def around(mean, *, noise=0.05, phase=0):
    """Return sixteen scores with that mean: the difficulties, and a little that is each arm's own."""
    return [mean + hard + noise * (-1) ** ((i >> phase) & 1) for i, hard in enumerate(SIXTEEN)]


def noisy(mean):
    """Return sixteen scores with that mean which say next to nothing about the difference to any others."""
    return [mean - hard * 3 for hard in SIXTEEN]


def write_arm(run, arm, scores, file="heldout.jsonl"):
    write_jsonl(run / arm / file, [{"id": f"seed-{i}", "nll": nll} for i, nll in enumerate(scores)])


def make(run, arms, *, kept=(), test=None, settings=(), rounds=None, source=None):
    """Write a run directory in which the arms have these scores, and these rounds were kept; returns its summary."""
    numbers = [int(arm.removeprefix("round-")) for arm in arms if arm.startswith("round-")]
    chosen = Settings.model_validate({"rounds": rounds or max(1, len(numbers)), **dict(settings)})
    files = {"seeds": {"path": "seeds.jsonl"}, "heldout": source and {"path": source}, "test": None}
    if test:
        files["test"] = {"path": "exam.jsonl"}
    write_json(
        run / "manifest.json",
        {
            "name": "demo",
            "isara": "0.1.0",
            "model": {"name": "scripted"},
            "embedder": {"name": "hash"},
            "inputs": files,
            "settings": chosen.model_dump(mode="json"),
        },
    )
    for arm, scores in arms.items():
        write_arm(run, arm, scores)
        if test:
            write_arm(run, arm, test[arm], "test.jsonl")
        if arm.startswith("round-"):
            number = int(arm.removeprefix("round-"))
            entry = {"round": number, "kept": number in kept, "drafted": 40, "accepted": 30}
            write_json(run / arm / "round.json", entry | {"diversity": UNMEASURED | {"seeds": UNMEASURED}})
        write_json(run / arm / "done.json", {"arm": arm})
    return summarise(run)


def baselines(base, retrieved, seeds_only):
    return {
        "base": around(base),
        "retrieved": around(retrieved, phase=1),
        "seeds-only": around(seeds_only, phase=2),
    }


def caveat(n):
    return (
        f"These {n} held-out samples also chose the training steps and the round, so they flatter what was tuned; "
        "give --test FILE with samples that nothing was chosen by for an unbiased figure."
    )


# -- the verdict -------------------------------------------------------------------------------------------------------


def test_a_round_that_is_better_than_every_baseline_wins(tmp_path):
    found = make(tmp_path, baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}, kept=[1])
    first, *others = found["verdict"]
    assert first == (
        "Round 1 wins (1.400 nats per token on 16 samples, lower is better): better than every baseline, the best of "
        "which is tuning on the seeds alone (1.700)."
    )
    sentences = [each["words"] for each in found["heldout"]["differences"] if each["arm"] == "round-1"]
    assert [sentence.split(" by ")[0] for sentence in others[:3]] == [
        "Round 1 is better than the untouched model",
        "Round 1 is better than tuning on the seeds alone",
        "Round 1 is better than the untouched model with retrieved demonstrations",
    ]
    assert sorted(others[:3]) == sorted(sentences)
    assert others[3:] == ["The result is round 1: its weights are in round-1/adapter.", caveat(16)]
    assert (found["best"], found["adapter"]) == ("round-1", "round-1/adapter")


def test_a_round_that_is_ahead_by_too_little_is_not_called_a_winner(tmp_path):
    found = make(tmp_path, baselines(2.0, 1.8, 1.42) | {"round-1": noisy(1.4)}, kept=[1])
    first, *others = found["verdict"]
    assert first == (
        "Round 1 has the best mean (1.400 nats per token on 16 samples, lower is better), but 16 samples cannot tell "
        "it from the best baseline, tuning on the seeds alone (1.420)."
    )
    assert any(sentence.startswith("These 16 items show no clear difference between round 1") for sentence in others)
    assert found["best"] == "round-1"


def test_a_round_does_not_win_while_any_baseline_cannot_be_told_from_it(tmp_path):
    # Far behind in the mean, and so uneven that its being behind is no more than a guess.
    arms = baselines(2.0, 1.9, 1.7) | {"retrieved": noisy(1.9), "round-1": around(1.6, phase=3)}
    first = make(tmp_path, arms, kept=[1])["verdict"][0]
    assert first == (
        "Round 1 has the best mean (1.600 nats per token on 16 samples, lower is better), but 16 samples cannot tell "
        "it from one baseline, the untouched model with retrieved demonstrations (1.900)."
    )


@pytest.mark.parametrize(
    ("means", "round_1", "first", "result", "best"),
    [
        (
            (2.0, 1.8, 1.4),
            1.6,
            "A baseline wins: tuning on the seeds alone (1.400 nats per token on 16 samples, lower is better); no "
            "round of the loop was better.",
            "The result is tuning on the seeds alone: its weights are in seeds-only/adapter.",
            "seeds-only",
        ),
        (
            (2.0, 1.3, 1.5),
            1.4,
            "A baseline wins: the untouched model with retrieved demonstrations (1.300 nats per token on 16 samples, "
            "lower is better); no tuning was better than showing the seeds to the model at every question.",
            "The result is round 1: its weights are in round-1/adapter.",
            "round-1",
        ),
        (
            (1.3, 1.8, 1.5),
            1.4,
            "A baseline wins: the untouched model (1.300 nats per token on 16 samples, lower is better); nothing that "
            "was tried was better.",
            "The result is the untouched model: no tuned weights were better on the held-out samples.",
            "base",
        ),
    ],
)
def test_a_baseline_that_wins_is_said_to_in_the_first_sentence(tmp_path, means, round_1, first, result, best):
    found = make(
        tmp_path, baselines(*means) | {"round-1": around(round_1, phase=3)}, kept=[1] if best == "round-1" else []
    )
    assert found["verdict"][0] == first
    assert found["verdict"][-2:] == [result, caveat(16)]
    assert found["best"] == best
    assert found["adapter"] == (None if best == "base" else f"{best}/adapter")


def test_test_samples_give_the_verdict_where_there_are_any(tmp_path):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}
    test = baselines(2.1, 1.9, 1.5) | {"round-1": around(1.75, phase=3)}
    found = make(tmp_path, arms, kept=[1], test={arm: [*scores, scores[0]] for arm, scores in test.items()})
    first, *others = found["verdict"]
    assert first.startswith("A baseline wins: tuning on the seeds alone (1.")
    assert "on 17 samples" in first
    # What was chosen by the held-out samples stays chosen, and is judged by the test samples.
    assert found["best"] == "round-1"
    words = {each["against"]: each["words"] for each in found["test"]["differences"] if each["arm"] == "round-1"}
    assert others[:3] == [words["base"], words["seeds-only"], words["retrieved"]]
    assert others[1].startswith("Round 1 is worse than tuning on the seeds alone")
    assert others[-1] == (
        "These figures are from the 17 test samples, by which nothing was chosen; the 16 held-out samples chose the "
        "training steps and the round."
    )
    assert (found["test"]["n"], found["test"]["source"], found["heldout"]["n"]) == (17, "exam.jsonl", 16)


@pytest.mark.parametrize(
    ("kept", "why", "said"),
    [
        ([], None, "tuning on the seeds alone all the same: the held-out samples decide, and round 1 was not kept."),
        (
            [],
            "The gate's own sentence.",
            "tuning on the seeds alone all the same: the held-out samples decide, and The",
        ),
        ([1], None, "tuning on the seeds alone all the same: the held-out samples decide, and by them it is ahead of "),
    ],
)
def test_a_winner_that_is_not_the_result_has_the_reason_beside_it(tmp_path, kept, why, said):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.75, phase=3)}
    test = baselines(2.1, 1.9, 1.8) | {"round-1": around(1.6, phase=3)}
    make(tmp_path, arms, kept=kept, test=test)
    path = tmp_path / "round-1" / "round.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | ({"why": why} if why else {}))
    found = summarise(tmp_path)
    assert found["best"] == "seeds-only"
    assert found["verdict"][0].startswith("Round 1 wins")
    assert found["verdict"][-2].startswith(f"The result is {said}")


def test_signs_of_collapse_are_part_of_the_verdict(tmp_path):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}
    make(tmp_path, arms, kept=[1])
    path = tmp_path / "round-1" / "round.json"
    entry = json.loads(path.read_text(encoding="utf-8"))
    entry["diversity"] = UNMEASURED | {"spread": 0.1, "seeds": UNMEASURED | {"spread": 0.8}}
    write_json(path, entry)
    assert "asks about fewer things" in summarise(tmp_path)["verdict"][-1]


# -- which weights are the result --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "best"),
    [((), "seeds-only"), ((1,), "round-1"), ((1, 2), "round-2"), ((2,), "round-2"), ((1, 2, 3), "round-2")],
)
def test_the_result_is_the_best_of_what_was_kept_and_never_a_round_that_was_not(kept, best):
    # Demonstrations are no weights, so `retrieved` is never the result, however good it is.
    means = {"base": 2.0, "retrieved": 1.2, "seeds-only": 1.7, "round-1": 1.6, "round-2": 1.4, "round-3": 1.5}
    heldout = {"arms": [{"arm": arm, "mean": mean} for arm, mean in means.items()]}
    assert best_arm(heldout, [{"round": number, "kept": number in kept} for number in (1, 2, 3)]) == best


def test_the_untouched_model_is_the_result_when_it_is_best_of_what_was_kept(tmp_path):
    found = make(tmp_path, baselines(1.5, 1.8, 1.7) | {"round-1": around(1.4, phase=3)})
    assert (found["best"], found["adapter"]) == ("base", None)


# -- scores and differences --------------------------------------------------------------------------------------------


def test_every_arm_has_its_scores_in_order_and_their_mean(tmp_path):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}
    rows = make(tmp_path, arms, kept=[1])["heldout"]["arms"]
    assert [row["arm"] for row in rows] == [*ARMS, "round-1"]
    for row in rows:
        assert row["values"] == arms[row["arm"]]
        assert row["mean"] == pytest.approx(sum(arms[row["arm"]]) / 16)
        assert row["low"] < row["mean"] < row["high"]
        assert (row["n"], row["label"]) == (16, label(row["arm"]))


def test_a_difference_is_above_zero_where_the_arm_is_better(tmp_path):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3), "round-2": around(1.5, phase=3)}
    found = make(tmp_path, arms, kept=[1])["heldout"]["differences"]
    mean = {arm: sum(scores) / 16 for arm, scores in arms.items()}
    for each in found:
        assert each["mean"] == pytest.approx(mean[each["against"]] - mean[each["arm"]])
        assert each["low"] <= each["mean"] <= each["high"]
    pairs = [(each["arm"], each["against"]) for each in found]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == {
        *((arm, "base") for arm in ("retrieved", "seeds-only", "round-1", "round-2")),
        *((arm, against) for arm in ("round-1", "round-2") for against in ("seeds-only", "retrieved")),
        ("round-2", "round-1"),
        ("seeds-only", "retrieved"),
    }


def test_a_higher_confidence_makes_wider_intervals(tmp_path):
    arms = baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}
    widths = []
    for confidence in (0.8, 0.99):
        found = make(tmp_path / str(confidence), arms, kept=[1], settings={"gate": {"confidence": confidence}})
        widths.append([row["high"] - row["low"] for row in found["heldout"]["arms"]])
    assert all(narrow < wide for narrow, wide in zip(*widths, strict=True))


def test_where_the_held_out_samples_came_from_is_told(tmp_path):
    arms = baselines(2.0, 1.8, 1.7)
    assert make(tmp_path / "a", arms, source="judges.jsonl")["heldout"]["source"] == "judges.jsonl"
    assert make(tmp_path / "b", arms)["heldout"]["source"] == "split"


# -- how far a run is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "asked", "patience", "status", "stopped"),
    [
        ((1, 2), 2, 1, "complete", "All 2 rounds asked for were run."),
        ((1,), 2, 1, "complete", "Stopped after round 2: it was not kept."),
        ((), 4, 2, "complete", "Stopped after round 2: the last 2 rounds were not kept."),
        ((1,), 4, 2, "running", "The run has not ended."),
        ((1, 2), 4, 1, "running", "The run has not ended."),
        ((2,), 4, 1, "running", "The run has not ended."),
    ],
)
def test_a_run_is_complete_when_its_rounds_are_done_or_stopped_helping(
    tmp_path, kept, asked, patience, status, stopped
):
    rounds = {"round-1": around(1.6, phase=3), "round-2": around(1.5, phase=3)}
    found = make(
        tmp_path, baselines(2.0, 1.8, 1.7) | rounds, kept=kept, rounds=asked, settings={"gate": {"patience": patience}}
    )
    assert (found["status"], found["stopped"]) == (status, stopped)
    assert (found["verdict"] == ["The run is not complete yet."]) == (status == "running")
    assert found["generated"] == {"candidates": 80, "accepted": 60}
    assert [entry["round"] for entry in found["rounds"]] == [1, 2]


def test_an_arm_or_a_round_that_is_not_complete_is_left_out(tmp_path):
    rounds = {"round-1": around(1.6, phase=3), "round-2": around(1.5, phase=3)}
    make(tmp_path, baselines(2.0, 1.8, 1.7) | rounds, kept=[1, 2])
    (tmp_path / "round-1" / "done.json").unlink()
    found = summarise(tmp_path)
    # Without round 1, nothing can be said of what came after it.
    assert [row["arm"] for row in found["heldout"]["arms"]] == [*ARMS]
    assert (found["status"], found["rounds"], found["best"]) == ("running", [], "seeds-only")


def test_rounds_beyond_those_asked_for_are_left_out(tmp_path):
    rounds = {"round-1": around(1.6, phase=3), "round-2": around(1.5, phase=3)}
    found = make(tmp_path, baselines(2.0, 1.8, 1.7) | rounds, kept=[1, 2], rounds=1)
    assert (found["best"], found["status"], len(found["rounds"])) == ("round-1", "complete", 1)
    assert found["stopped"] == "The 1 round asked for was run."


def test_a_run_that_has_just_begun_has_a_summary(tmp_path):
    found = make(tmp_path, {})
    assert (found["status"], found["best"], found["adapter"], found["test"]) == ("running", None, None, None)
    assert found["heldout"]["arms"] == found["heldout"]["differences"] == []


def test_the_summary_is_written_down_as_it_is_returned(tmp_path):
    found = make(tmp_path, baselines(2.0, 1.8, 1.7) | {"round-1": around(1.4, phase=3)}, kept=[1])
    assert not (tmp_path / "summary.json").exists(), "asking for a summary writes nothing"
    assert write_summary(tmp_path) == found
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == json.loads(json.dumps(found))


def test_seconds_of_a_stage_add_up_over_every_start_of_the_run(tmp_path):
    log = Events(tmp_path / "events.jsonl")
    for name, seconds in (("score-base", 1.5), ("draft-1", 10.0), ("draft-1", 2.25)):
        log.add("stage", name=name, seconds=seconds)
    log.add("say", text="base → round-1", level="info")
    with log.path.open("ab") as file:
        file.write('{"kind": "stage", "name": "base →'.encode()[:-1])
    assert make(tmp_path, baselines(2.0, 1.8, 1.7))["seconds"] == {
        "total": 13.75,
        "by_stage": {"score-base": 1.5, "draft-1": 12.25},
    }


def test_a_folder_that_is_no_run_or_a_damaged_one_is_named(tmp_path):
    with pytest.raises(RunError, match=r"manifest\.json: not here"):
        summarise(tmp_path)
    make(tmp_path, baselines(2.0, 1.8, 1.7))
    (tmp_path / "base" / "heldout.jsonl").write_text('{"id": "a", "nll"')
    with pytest.raises(RunError, match=r"base/heldout\.jsonl:1: a damaged line"):
        summarise(tmp_path)
