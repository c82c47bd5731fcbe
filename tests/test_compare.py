"""`isara compare`: equal budgets, nothing judged by what was seen, and sharing that changes no result."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import pytest

from isara import align
from isara.api import Backend
from isara.compare import compare, compare_part, plan
from isara.config import load, load_over
from isara.errors import InputError, RunError, SettingsError
from isara.lock import InUseError, locked
from isara.report import write_comparison
from isara.report.comparison import comparison_html, comparison_markdown
from isara.rundir import Events, records_in
from isara.sharing import share
from isara.stats import crossed
from isara.study import OVERRIDES, load_study
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from studies import contents, made_in, study_in, without_clock

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
rounds = 2
model = {name = "scripted"}
target = {batch = 8}
train = {epochs = 2.0, checks = 2, targets = "sampled"}

[arms]
untouched = {kind = "base", label = "<b>untouched</b> | model"}
retrieved = {kind = "retrieved"}
seeds = {kind = "seeds"}
seeds-last = {kind = "seeds-last"}
loop = {}
soft = {set = ["train.targets='soft'"]}
one-shot = {kind = "one-shot"}
kept = {kind = "kept"}
self-instruct = {kind = "self-instruct", label = "Self-<i>Instruct</i>", beside = "one-shot"}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, complete. Look, and do not touch."""
    folder = tmp_path_factory.mktemp("study")
    return folder / "out", made_in(folder, STUDY)


def runs_of(found, *, generating):
    kinds = {"loop", "one-shot", "self-instruct"} if generating else {"seeds", "seeds-last"}
    return [run for arm in found["arms"] if arm["kind"] in kinds for run in arm["runs"]]


def test_budgets_are_equal_by_the_files_of_the_runs(made):
    """Counted from what was trained on and not from what the tally says."""
    out, found = made
    assert found["unequal"] == []
    steps = set()
    for run in runs_of(found, generating=True):
        folder = out / run["run"] / run["result"]
        trained = [record["id"] for record in records_in(folder / "train.jsonl")]
        assert sum(name.startswith("r") for name in trained) == 12 == run["accepted"]
        assert run["ratio"] == round(12 / 30, 3)
        steps.add(json.loads((folder / "training.json").read_text())["steps"])
        rounds = sorted(out.joinpath(run["run"]).glob("round-*"))
        written = [r["tokens"] for one in rounds for r in records_in(one / "completions.jsonl")]
        assert run["tokens"] == sum(written)
    for run in runs_of(found, generating=False):
        steps.add(json.loads((out / run["run"] / "seeds-only" / "training.json").read_text())["steps"])
    assert len(steps) == 1


def test_each_arm_is_made_once_with_each_random_seed(made):
    _, found = made
    assert [arm["arm"] for arm in found["arms"]] == list(load_study(made[0].parent / "study.toml").chosen.arms)
    for arm in found["arms"]:
        assert [run["seed"] for run in arm["runs"]] == [1, 2]
        assert all(run["run"].startswith(f"seed-{run['seed']}/") for run in arm["runs"])
    results = {arm["arm"]: {run["result"] for run in arm["runs"]} for arm in found["arms"]}
    assert results["loop"] == {"round-2"}
    assert results["one-shot"] == results["self-instruct"] == {"round-1"}


def test_no_sample_that_judges_is_ever_shown_or_trained_on(made):
    out, _ = made
    rows = [line for part in ("heldout", "test") for line in (out / "data" / f"{part}.jsonl").read_text().splitlines()]
    judges = {text for row in rows for text in json.loads(row).values()}
    assert len(judges) == 2 * (8 + 14)
    seen = 0
    for path in [*out.rglob("prompts.jsonl"), *out.rglob("train.jsonl")]:
        for record in records_in(path):
            texts = json.dumps(record, ensure_ascii=False)
            assert not [text for text in judges if json.dumps(text, ensure_ascii=False)[1:-1] in texts], path
            seen += 1
    assert seen > 1000


def test_scores_are_those_of_the_test_samples(made):
    out, found = made
    loop = next(arm for arm in found["arms"] if arm["arm"] == "loop")
    assert (found["items"], found["judged_by"]) == (14, "test")
    for run in loop["runs"]:
        values = [record["nll"] for record in records_in(out / run["run"] / "round-2" / "test.jsonl")]
        assert run["mean"] == pytest.approx(sum(values) / 14, abs=1e-6)
    seeds = next(arm for arm in found["arms"] if arm["arm"] == "seeds")
    assert loop["difference"]["mean"] == pytest.approx(seeds["mean"] - loop["mean"], abs=1e-5)
    assert seeds["difference"]["mean"] == 0


def test_what_is_shared_is_what_a_run_of_its_own_would_have_made(made, tmp_path):
    out, found = made
    study = load_study(out.parent / "study.toml")
    for name in ("soft", "one-shot", "kept", "self-instruct"):
        arm = next(arm for arm in study.arms if arm.name == name)
        run = next(arm for arm in found["arms"] if arm["arm"] == name)["runs"][1]
        settings = arm.settings.model_copy(update={"seed": 2})
        data = {part: str(out / "data" / f"{part}.jsonl") for part in ("heldout", "test")}
        align(str(out / "data" / "seeds.jsonl"), out=tmp_path / name, settings=settings, **data)
        assert contents(tmp_path / name) == contents(out / run["run"]), name


@pytest.mark.parametrize(
    ("gate", "shared"),
    [
        ("gate.keep='all', gate.patience=2", 3),
        ("gate.keep='better'", 2),
        ("gate.standard_errors=100", 1),
        ("gate.keep='all', gate.standard_errors=100", 1),
        ("gate.keep='all', gate.standard_errors=100, gate.patience=2", 2),
        ("gate.pool='seeds'", 1),
    ],
)
def test_rounds_are_shared_as_long_as_both_gates_go_on(made, tmp_path, gate, shared):
    """A gate that keeps nothing ends a run after as many rounds as it has patience, even where it goes on with all."""
    donor, data = tmp_path / "seed-1" / "donor", made[0] / "data"
    common = ["rounds=3", "model.name='scripted'", "target.batch=8", "target.accepted=6", "train.epochs=2", "seed=1"]
    judging = {"heldout": str(data / "heldout.jsonl"), "test": str(data / "test.jsonl")}
    align(str(data / "seeds.jsonl"), out=donor, settings=[*common, "gate.keep='all'", "gate.patience=100"], **judging)
    settings = load(None, [*common, *gate.split(", ")])
    folder = tmp_path / "seed-1" / "other"
    assert share(folder, settings, [donor]) == donor
    assert sorted(entry.name for entry in folder.glob("round-*")) == [f"round-{n}" for n in range(1, shared + 1)]
    for run in (folder, tmp_path / "alone"):
        align(str(data / "seeds.jsonl"), out=run, settings=settings, **judging)
    assert contents(folder) == contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("sets", "shared"),
    [
        (["filter.gain=-1000", "filter.copied=1.0"], True),
        (["filter.gain=-1000", "train.seed_share=0.25"], "drafted"),
        (["filter.common=1.0", "filter.answer_words_max=250"], True),
        (["filter.confidence=2.0"], False),
        (["filter.confidence=1000"], False),
        (["filter.question_words_max=12"], False),
        (["filter.rouge=1.0"], False),
    ],
)
def test_a_rule_that_drops_nothing_with_either_threshold_has_no_part_in_a_round(made, tmp_path, sets, shared):
    out, found = made
    donor = out / next(arm for arm in found["arms"] if arm["arm"] == "one-shot")["runs"][0]["run"]
    recorded = json.loads((donor / "manifest.json").read_text(encoding="utf-8"))["settings"]
    settings = load_over(recorded, sets)
    folder = tmp_path / "other"
    assert share(folder, settings, [donor]) == donor
    assert (folder / "round-1" / "kept.jsonl").exists() == bool(shared)
    assert (folder / "round-1" / "adapter").exists() == (shared is True)
    judging = {part: str(out / "data" / f"{part}.jsonl") for part in ("heldout", "test")}
    for run in (folder, tmp_path / "alone"):
        align(str(out / "data" / "seeds.jsonl"), out=run, settings=settings, **judging)
    assert contents(folder) == contents(tmp_path / "alone")
    assert (contents(folder)["round-1/kept.jsonl"] == contents(donor)["round-1/kept.jsonl"]) == bool(shared)


def test_a_draft_that_noted_more_or_fewer_tokens_is_not_shared(tmp_path):
    text = STUDY[: STUDY.index("[arms]")].replace("random_seeds = [1, 2]", "random_seeds = [1]")
    text += "[arms]\nwide = {kind = 'one-shot'}\nnarrow = {kind = 'one-shot', set = ['train.top_tokens=3']}\n"
    found = compare(study_in(tmp_path, text + "seeds = {kind = 'seeds'}\n"), tmp_path / "out")
    for arm, width in zip(found["arms"], (32, 3), strict=False):
        run = tmp_path / "out" / arm["runs"][0]["run"] / "round-1"
        assert {record["k"] for record in records_in(run / "written-index.jsonl")} == {width}


class Counting(ScriptedModel):
    """Counts the prompts that it completes, and fails at one of them."""

    completed = 0
    fail_at = -1

    def complete(self, prompts, sampling, *, seeds):
        Counting.completed += len(prompts)
        if 0 <= Counting.fail_at <= Counting.completed:
            raise InterruptedError
        return super().complete(prompts, sampling, seeds=seeds)

    def tuned(self, strength):
        model = Counting()
        model.strength = strength
        return model


def counting(settings):
    return Backend(Counting(), HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})


def test_the_time_of_all_runs_is_told_once_each_has_a_note_of_it(made, tmp_path):
    out = Path(shutil.copytree(made[0], tmp_path / "out"))
    path = study_in(tmp_path, STUDY)
    notes = [event for event in Events(out / "events.jsonl").read() if event["kind"] == "spent"]
    runs = {run["run"] for arm in made[1]["arms"] for run in arm["runs"]}
    assert {note["name"] for note in notes} == runs
    assert made[1]["spent"] == pytest.approx(sum(note["seconds"] for note in notes), abs=0.1)
    Events(out / "events.jsonl").add("spent", name=notes[0]["name"], seconds=7200.0)
    found = compare(path, out)
    assert found["spent"] == pytest.approx(made[1]["spent"] + 7200, abs=0.2)
    assert "All runs and measures took 2 h 0" in (out / "comparison.md").read_text(encoding="utf-8")
    (out / "events.jsonl").unlink()
    assert compare(path, out)["spent"] is None
    assert "of computing" not in (out / "comparison.md").read_text(encoding="utf-8")


def test_a_study_goes_on_where_it_stopped_and_does_nothing_twice(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Counting, "completed", 0)
    monkeypatch.setattr(Counting, "fail_at", 300)
    path = study_in(tmp_path, STUDY)
    with pytest.raises(InterruptedError):
        compare(path, tmp_path / "out", backend=counting)
    monkeypatch.setattr(Counting, "fail_at", -1)
    found = compare(path, tmp_path / "out", backend=counting)
    assert without_clock(found) == without_clock(made[1])
    broken_off = [event["name"] for event in Events(tmp_path / "out" / "events.jsonl").read()]
    assert len(broken_off) == len(set(broken_off)) + 1
    before = Counting.completed
    assert compare(path, tmp_path / "out", backend=counting) == found
    assert Counting.completed == before


SHORT = (
    STUDY[: STUDY.index("[arms]")]
    + "[measures]\nforgetting = {limit = 2}\n[arms]\nseeds = {kind = 'seeds'}\nloop = {}\n"
)


def test_after_each_random_seed_what_there_is_so_far_is_shown(tmp_path):
    out, so_far = tmp_path / "out", []

    def watch(event):
        if event.kind == "say" and str(event.data["text"]).startswith("Random seed "):
            so_far.append((event.data["text"], json.loads((out / "comparison.json").read_text())))
            assert "; 1 random seed (1) so far, 1 to come; " in (out / "comparison.md").read_text()

    found = compare(study_in(tmp_path, SHORT), out, watch=watch)
    ((said, first),) = so_far
    assert said == f"Random seed 1 is done, 1 to come. So far: {out / 'comparison.html'}"
    assert (first["random_seeds"], first["to_come"]) == ([1], [2])
    assert (found["random_seeds"], found["to_come"]) == ([1, 2], [])
    assert "; 2 random seeds (1, 2); " in (out / "comparison.md").read_text()
    (tmp_path / "alone").mkdir()
    alone = made_in(tmp_path / "alone", SHORT.replace("random_seeds = [1, 2]", "random_seeds = [1]"))
    assert len(alone["measures"][0]["arms"]) == 2
    assert without_clock(first) == without_clock(alone | {"to_come": [2]})


def test_what_shows_more_random_seeds_is_not_written_over_by_fewer(tmp_path):
    compare(study_in(tmp_path, SHORT), tmp_path / "out")
    told = []
    more = study_in(tmp_path, SHORT.replace("random_seeds = [1, 2]", "random_seeds = [1, 2, 3]"))
    found = compare(more, tmp_path / "out", watch=lambda event: told.append(event.data.get("text")))
    assert found["random_seeds"] == [1, 2, 3]
    assert not [text for text in told if text and text.startswith("Random seed ")]


def test_no_model_stays_in_memory_while_the_next_random_seed_begins(tmp_path):
    made, alive = [], []

    def backend(settings):
        model = ScriptedModel()
        made.append(weakref.ref(model))
        return Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})

    def watch(event):
        if event.kind == "say" and str(event.data["text"]).startswith("Random seed "):
            gc.collect()
            alive.extend(ref() for ref in made if ref() is not None)

    compare(study_in(tmp_path, SHORT), tmp_path / "out", backend=backend, watch=watch)
    assert len(made) > 2
    assert alive == []


def test_a_study_that_another_process_is_beginning_is_awaited(tmp_path):
    path, out = study_in(tmp_path, SHORT), tmp_path / "out"
    compare_part(path, tmp_path / "whole", [1])
    shutil.copytree(tmp_path / "whole" / "data", out / "data")
    (out / "data" / "hash.json").unlink()
    with ThreadPoolExecutor(1) as beside:
        with locked(out):
            made = beside.submit(compare_part, path, out, [1])
            assert wait([made], timeout=0.5).not_done
            shutil.copy(tmp_path / "whole" / "data" / "hash.json", out / "data")
        made.result(timeout=60)
    assert list((out / "seed-1").glob("*/summary.json"))


def test_samples_that_no_process_is_writing_are_no_study(tmp_path):
    (tmp_path / "out" / "data").mkdir(parents=True)
    for make in (lambda path, out: compare_part(path, out, [1]), compare):
        with pytest.raises(RunError, match=r"out: not empty, and no study of isara \(found data\)"):
            make(study_in(tmp_path, SHORT), tmp_path / "out")


def test_processes_that_share_the_random_seeds_make_what_one_makes(tmp_path):
    path, out = study_in(tmp_path, SHORT), tmp_path / "out"
    words = [sys.executable, "-m", "isara", "compare", str(path), "--out", str(out), "--random-seed"]
    both = [subprocess.Popen([*words, seed], stdout=subprocess.PIPE, text=True) for seed in ("1", "2")]
    for process, seed in zip(both, ("1", "2"), strict=True):
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert said.startswith(f"Made: random seed {seed}. Without --random-seed the same command")
    assert not list(out.glob("comparison.*"))
    assert {summary.parts[-3] for summary in out.glob("seed-*/*/summary.json")} == {"seed-1", "seed-2"}
    # Those of each of the four weights, and of the benchmark's one item set: nothing is left to measure.
    assert len(list(out.glob("measures/*/*/summary.json"))) == 4
    told = []
    found = compare(path, out, watch=lambda event: told.append(str(event.data.get("text"))))
    assert not [text for text in told if text.startswith("Run ")]
    assert [text for text in told if text.startswith("Random seed 1 is done, 1 to come.")]
    (tmp_path / "alone").mkdir()
    assert without_clock(found) == without_clock(made_in(tmp_path / "alone", SHORT))


def test_runs_of_another_process_are_left_to_it(tmp_path):
    path, out = study_in(tmp_path, SHORT), tmp_path / "out"
    compare_part(path, out, [1])
    # As if that one had been killed: nothing is taken over from what is not complete.
    (summary,) = out.glob("seed-*/*/summary.json")
    summary.unlink()
    told = []
    compare_part(path, out, [2], watch=lambda event: told.append(str(event.data.get("text"))))
    (begun,) = [text for text in told if text.startswith("Run ")]
    assert begun.startswith("Run 2 of 2, seed-2/")
    assert "has in common" not in begun
    with locked(out / "seed-1"), pytest.raises(InUseError, match=r"seed-1: in use by process \d+"):
        compare(path, out)
    assert compare(path, out)["random_seeds"] == [1, 2]


def test_a_random_seed_that_the_study_has_not_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"random_seeds: 7 is not among them \(found: 1, 2\)"):
        compare_part(study_in(tmp_path, SHORT), tmp_path / "out", [1, 7])
    assert not (tmp_path / "out").exists()


def test_arms_with_the_same_settings_are_one_run_and_baselines_have_none_of_their_own(tmp_path):
    text = STUDY.replace("loop = {}", "loop = {}\nagain = {set = ['rounds=2']}")
    jobs, places = plan(load_study(study_in(tmp_path, text)), "data")
    runs = {(place.arm, place.seed): place.run for place in places}
    assert runs["loop", 1] == runs["again", 1] == runs["untouched", 1] == runs["seeds", 1] != runs["seeds-last", 1]
    assert len(jobs) == 2 * 6


def test_other_settings_are_other_folders(tmp_path):
    path = study_in(tmp_path, STUDY)
    one, _ = plan(load_study(path), "data")
    other, _ = plan(load_study(path, ["train.rank=4"]), "data")
    third, _ = plan(load_study(path), "other data")
    names = [job.name for jobs in (one, other, third) for job in jobs]
    assert len(set(names)) == len(names)


def test_a_budget_that_ended_early_is_said_to_be_unequal(tmp_path):
    text = STUDY.replace("random_seeds = [1, 2]", "random_seeds = [1]")
    text = text[: text.index("[arms]")] + (
        "[arms]\nseeds = {kind = 'seeds'}\n"
        "starved = {kind = 'one-shot', set = ['target.budget=1']}\n"
        "longer = {kind = 'one-shot', set = ['train.epochs=3']}\n"
    )
    found = compare(study_in(tmp_path, text), tmp_path / "out")
    short, steps = found["unequal"]
    assert short.startswith("starved, random seed 1: ")
    assert "the budget of 12 candidates had ended." in short
    assert steps == "The trainings differ in their optimiser steps: seeds 8; starved 8; longer 12."


def test_trainings_that_ended_early_have_the_same_budget_and_say_how_much_of_it_they_took(tmp_path):
    def impatient(settings):
        trainer = ScriptedTrainer(checks=8, patience=1)
        return Backend(ScriptedModel(), HashEmbedder(), trainer, {"name": "scripted"}, {"name": "hash"})

    text = STUDY.replace("epochs = 2.0", "epochs = 8.0")
    text = text[: text.index("[arms]")] + "[arms]\nseeds = {kind = 'seeds'}\nshot = {kind = 'one-shot'}\n"
    found = compare(study_in(tmp_path, text), tmp_path / "out", backend=impatient)
    runs = [run for arm in found["arms"] for run in arm["runs"]]
    assert found["unequal"] == []
    assert {run["steps"] for run in runs} == {30}
    assert all(run["best_step"] <= run["taken"] <= 30 for run in runs)
    assert any(run["taken"] < 30 for run in runs)
    for run in runs:
        training = json.loads((tmp_path / "out" / run["run"] / run["result"] / "training.json").read_text())
        assert (training["planned"], training["steps"]) == (30, run["taken"])
    assert "30, ended after " in comparison_markdown(found)


def test_rounds_from_tuned_weights_are_said_to_take_fewer_steps(tmp_path):
    text = STUDY.replace("random_seeds = [1, 2]", "random_seeds = [1]")
    text = text[: text.index("[arms]")] + (
        "[arms]\nseeds = {kind = 'seeds'}\nshot = {kind = 'one-shot', set = ['train.start=\"seeds\"']}\n"
        "bare = {kind = 'one-shot'}\n"
    )
    (said,) = compare(study_in(tmp_path, text), tmp_path / "out")["unequal"]
    assert said == "The trainings differ in their optimiser steps: seeds 8; shot 4 from tuned weights; bare 8."


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"out: not empty, and no study of isara \(found thesis.txt\)"):
        compare(study_in(tmp_path, STUDY), tmp_path / "out")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_arm_that_shares_costs_what_it_would_alone(made):
    _, found = made
    cost = {arm["arm"]: arm["runs"][0]["seconds"] for arm in found["arms"]}
    stages = [
        records_in(made[0] / arm["runs"][0]["run"] / "events.jsonl") for arm in found["arms"] if arm["arm"] == "soft"
    ]
    named = [event["name"] for event in stages[0] if event["kind"] == "stage"]
    assert {"train-seeds-only", "draft-1", "targets-1", "train-round-1", "draft-2", "targets-2"} <= set(named)
    assert len(named) == len(set(named))
    assert cost["untouched"] == cost["retrieved"] == 0


def test_the_self_instruct_arm_shows_what_it_says(made):
    """Six seeds and two samples of its own at random, once there are any; and no other demonstrations."""
    out, found = made
    run = next(arm for arm in found["arms"] if arm["arm"] == "self-instruct")["runs"][0]
    asked = records_in(out / run["run"] / "round-1" / "prompts.jsonl")
    first = [r["demonstrations"] for r in asked if r["stage"] == "question" and r["batch"] == 0]
    later = [r["demonstrations"] for r in asked if r["stage"] == "question" and r["batch"] > 0]
    assert {len(shown) for shown in first} == {8}
    assert all(name.startswith("seed") for shown in first for name in shown)
    assert {sum(name.startswith("r1-") for name in shown) for shown in later} == {2}
    assert len({tuple(shown) for shown in later}) == len(later)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("accepted = 12", "accepted = 13"), "arms.loop: rounds: 13 accepted samples do not fall into 2 equal rounds"),
        (("accepted = 12", 'against = "x"'), "against: no arm is called 'x' (found: untouched, "),
        (("loop = {}", 'loop = {beside = "x"}'), "arms.loop.beside: no other arm is called 'x' (found: untouched, "),
        (
            ("loop = {}", 'loop = {beside = "loop"}'),
            "arms.loop.beside: no other arm is called 'loop' (found: untouched, ",
        ),
        (("accepted = 12", "acepted = 12"), "acepted: Extra inputs are not permitted."),
        (("loop = {}", 'loop = {set = ["train.rnk=4"]}'), "arms.loop: "),
        (("rounds = 2", "rounds = 'two'"), "study.toml: arms.untouched: rounds: expected a whole number"),
        (('kind = "base"', 'kind = "bass"'), "arms.untouched.kind: Input should be 'base', "),
        (("accepted = 12", 'test = "x.jsonl"'), "take: rows of the seed file and files of their own"),
        (("[take]", "[taken]"), "taken: Extra inputs"),
        (("[arms]", "arms"), "not valid TOML"),
    ],
)
def test_a_mistake_in_a_study_is_explained(change, said, tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_study(study_in(tmp_path, STUDY.replace(*change)))
    assert said in str(caught.value)
    assert "study.toml" in str(caught.value)


def test_more_rows_than_there_are_cannot_be_taken(tmp_path):
    with pytest.raises(InputError, match="misconceptions: 80 samples, and take asks for 122"):
        compare(study_in(tmp_path, STUDY.replace("seeds = 30", "seeds = 100")), tmp_path / "out")


def test_principles_are_in_every_answers_prompt_and_in_no_training_set(tmp_path):
    (tmp_path / "rules.txt").write_text("1. Be brief.\n2. Say where you are unsure.\n", encoding="utf-8")
    text = STUDY[: STUDY.index("[arms]")] + (
        "[arms]\nseeds = {kind = 'seeds'}\nruled = {kind = 'self-align', principles = 'rules.txt'}\n"
    )
    found = compare(study_in(tmp_path, text.replace("[1, 2]", "[1]")), tmp_path / "out")
    run = tmp_path / "out" / found["arms"][1]["runs"][0]["run"]
    asked = records_in(run / "round-1" / "prompts.jsonl")
    for record in asked:
        begins = record["prompt"].startswith("1. Be brief.\n2. Say where you are unsure.\n\nQuestion: ")
        assert begins == (record["stage"] == "answer")
    assert {record["stage"] for record in asked} == {"question", "answer"}
    assert "Be brief" not in (run / "round-1" / "train.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("arm", ["kind = 'self-align'", "principles = 'x'", "kind = 'self-align', principles = 'none'"])
def test_principles_belong_to_self_align_and_have_to_be_there(arm, tmp_path):
    with pytest.raises(SettingsError, match=r"arms.loop: principles: "):
        load_study(study_in(tmp_path, STUDY.replace("loop = {}", f"loop = {{{arm}}}")))


def test_every_kind_has_settings_that_are_accepted(tmp_path):
    (tmp_path / "rules.txt").write_text("Be brief.", encoding="utf-8")
    for kind in OVERRIDES:
        more = ", principles = 'rules.txt'" if kind == "self-align" else ""
        text = STUDY.replace("loop = {}", f"loop = {{kind = '{kind}'{more}}}")
        assert load_study(study_in(tmp_path, text)).arms[4].kind == kind


def test_the_page_and_the_table_hold_every_arm_and_no_markup_of_a_label(made):
    out, found = made
    page, table = ((out / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    assert "<script" not in page
    assert "script-src 'none'" in page
    assert "<b>untouched" not in page + table
    assert r"&lt;b>untouched&lt;/b> \| model" in table
    rows = [line for line in table[: table.index("### ")].splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(found["arms"])
    assert "Budgets are equal" in table
    for arm in found["arms"][1:]:
        if arm["arm"] == "self-instruct":
            continue
        assert f'<th scope="row">{arm["label"]}</th>' in page
        assert f"| {arm['label']} | {arm['mean']:.3f} |" in table
    before = page
    assert write_comparison(out).html.read_text(encoding="utf-8") == before


def test_an_arm_that_changes_one_choice_stands_beside_the_other(made):
    """The difference is that of the two arms, item by item, whichever arm all are compared with."""
    out, found = made
    runs = {arm["arm"]: [each["run"] for each in arm["runs"]] for arm in found["arms"]}
    shot, other = (
        [[row["nll"] for row in records_in(out / run / "round-1" / "test.jsonl")] for run in runs[arm]]
        for arm in ("one-shot", "self-instruct")
    )
    assert [(pair["arm"], pair["beside"]) for pair in found["pairs"]] == [("self-instruct", "one-shot")]
    assert found["pairs"][0]["difference"] == asdict(crossed(shot, other, confidence=found["confidence"]))
    gains = [a - b for one, two in zip(shot, other, strict=True) for a, b in zip(one, two, strict=True)]
    assert any(gains)
    assert found["pairs"][0]["difference"]["mean"] == pytest.approx(sum(gains) / len(gains))
    assert found["against"] == "seeds"


def test_pairs_are_in_the_table_and_on_the_page_without_markup(made):
    page, table = ((made[0] / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    told = table[table.index("Choice by choice") :]
    difference = made[1]["pairs"][0]["difference"]
    gain = f"{difference['mean']:+.3f}".replace("-", "\u2212")
    assert f"| Self-&lt;i>Instruct&lt;/i> | one-shot | {gain} | " in told
    assert '<th scope="row">Self-&lt;i&gt;Instruct&lt;/i&gt; (beside one-shot)</th>' in page
    assert "Self-<i>" not in page + table


def test_without_pairs_nothing_tells_of_them(made):
    found = {**made[1], "pairs": []}
    assert "Choice by choice" not in comparison_markdown(found) + comparison_html(found)


def test_the_command_prints_the_table_and_where_the_page_is(isara, tmp_path):
    text = STUDY[: STUDY.index("[arms]")] + "[arms]\nseeds = {kind = 'seeds'}\nbase = {kind = 'base'}\n"
    done = isara("compare", study_in(tmp_path, text), "--out", tmp_path / "out")
    assert done.code == 0
    assert "14 test samples, random seeds 1, 2" in done.out
    assert "comparison.html" in done.out
    again = isara("compare", study_in(tmp_path, text), "--out", tmp_path / "out", "--quiet")
    assert (again.code, again.out) == (0, "")
    assert isara("compare", tmp_path / "none.toml").code == 2
