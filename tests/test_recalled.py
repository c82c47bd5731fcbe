"""What one run of a study wrote, another recalls: asked once, the same on the disk, and paid for in the table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from isara import align
from isara.api import Backend
from isara.compare import compare
from isara.config import load_over
from isara.prompts import as_messages
from isara.protocols import Sampling
from isara.recalled import recalling, written_in
from isara.rundir import Events, records_in
from isara.sharing import same_writers
from isara.spent import costs
from isara.study import load_study
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from studies import contents, made_in, study_in

pytestmark = pytest.mark.usefixtures("unsynced")

STUDY = """
seeds = "misconceptions"
random_seeds = [1]
accepted = 12

[take]
seeds = 30
heldout = 8

[settings]
rounds = 1
model = {name = "scripted"}
target = {batch = 12}
train = {epochs = 2.0, checks = 2}

[arms]
seeds = {kind = "seeds"}
one-shot = {kind = "one-shot"}
random = {kind = "one-shot", set = ["answers.choice='random'", "questions.neighbourhood=100000"]}
topic = {kind = "one-shot", set = ["filter.topic=-1.0", "filter.echo=1.0", "filter.copied=0.3"]}
loop = {set = ["rounds=2"]}
warmer = {kind = "one-shot", set = ["questions.temperature=0.4"]}
"""


class Asked(ScriptedModel):
    """Tells a list of each prompt that it completes, with its random seed."""

    def __init__(self, asked):
        super().__init__(remember=False)
        self.asked = asked

    def complete(self, prompts, sampling, *, seeds):
        self.asked += [(seed, json.dumps(as_messages(prompt))) for prompt, seed in zip(prompts, seeds, strict=True)]
        return super().complete(prompts, sampling, seeds=seeds)

    def tuned(self, strength):
        model = Asked(self.asked)
        model.strength = strength
        return model


def backend(asked):
    return lambda settings: Backend(
        Asked(asked), HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, complete, with what its model was asked. Look, and do not touch."""
    folder = tmp_path_factory.mktemp("recalled")
    asked = []
    found = made_in(folder, STUDY, backend=backend(asked))
    return folder / "out", {arm["arm"]: folder / "out" / arm["runs"][0]["run"] for arm in found["arms"]}, asked, found


def drafted(run):
    """The prompts of a run's first round, with their random seeds."""
    return {(record["seed"], json.dumps(record["prompt"])) for record in records_in(run / "round-1" / "prompts.jsonl")}


def test_nothing_is_asked_twice_that_a_run_before_has_from_the_same_model(made):
    _, runs, asked, _ = made
    times = Counter(asked)
    common = drafted(runs["one-shot"]) & drafted(runs["topic"])
    assert len(common) > 20
    again = drafted(runs["warmer"])  # whose sampling is its own, so that it asks for everything
    assert {times[each] - (each in again) for each in common} == {1}
    assert drafted(runs["topic"]) - drafted(runs["one-shot"])
    assert drafted(runs["one-shot"]) & drafted(runs["loop"])


@pytest.mark.parametrize("arm", ["topic", "loop", "warmer"])
def test_what_is_recalled_leaves_what_a_run_of_its_own_leaves(made, tmp_path, arm):
    """Probabilities that were noted while answers were written too."""
    out, runs, _, _ = made
    settings = next(one for one in load_study(out.parent / "study.toml").arms if one.name == arm).settings
    settings = settings.model_copy(update={"seed": 1})
    data = out / "data"
    align(str(data / "seeds.jsonl"), out=tmp_path / "alone", settings=settings, heldout=str(data / "heldout.jsonl"))
    assert contents(tmp_path / "alone") == contents(runs[arm])
    assert (runs[arm] / "round-1" / "written-index.jsonl").stat().st_size > 0


def test_what_was_recalled_costs_what_it_took_to_write(tmp_path):
    """By its tokens, from the run that wrote it; and once, however often a kill made a run recall it."""
    folder = tmp_path / "out"
    compare(study_in(tmp_path, STUDY[: STUDY.index("random =")]), folder)
    donor = next((folder / "seed-1").glob("one-shot-*"))
    events = Events(donor / "events.jsonl")
    events.add("stage", name="draft-1", seconds=1000.0)
    compare(study_in(tmp_path, STUDY[: STUDY.index("loop =")]), folder)
    run = next((folder / "seed-1").glob("topic-*"))
    recalled = [event for event in Events(run / "events.jsonl").read() if event["kind"] == "recalled"]
    tokens = {(r["id"], r["stage"]): r["tokens"] for r in records_in(donor / "round-1" / "completions.jsonl")}
    common = [
        tokens[record["id"], record["stage"]]
        for record in records_in(donor / "round-1" / "prompts.jsonl")
        if (record["seed"], json.dumps(record["prompt"])) in drafted(run)
    ]
    share = 1000 * sum(common) / sum(tokens.values())
    assert sum(event["completions"] for event in recalled) == len(common)
    assert sum(event["seconds"] for event in recalled) == pytest.approx(share, rel=0.02)
    before = costs(run)["draft-1"]
    assert before == pytest.approx(share, rel=0.05)
    Events(run / "events.jsonl").add("recalled", **{key: recalled[0][key] for key in ("name", "of", "seconds")})
    assert costs(run)["draft-1"] == before
    found = compare(study_in(tmp_path, STUDY[: STUDY.index("loop =")]), folder)
    took = {arm["arm"]: arm["runs"][0]["seconds"] for arm in found["arms"]}
    assert took["topic"] >= round(before, 1)


def test_a_run_that_takes_over_what_another_recalled_costs_as_much(tmp_path):
    text = STUDY[: STUDY.index("random =")]
    compare(study_in(tmp_path, text), tmp_path / "out")
    donor = next((tmp_path / "out" / "seed-1").glob("one-shot-*"))
    Events(donor / "events.jsonl").add("stage", name="draft-1", seconds=1000.0)
    text += "loop = {set = ['rounds=2']}\nseeds-pool = {set = ['rounds=2', \"gate.pool='seeds'\"]}\n"
    found = compare(study_in(tmp_path, text), tmp_path / "out")
    took = {arm["arm"]: arm["runs"][0]["seconds"] for arm in found["arms"]}
    assert took["loop"] > 100
    assert took["seeds-pool"] == pytest.approx(took["loop"], abs=5)


@pytest.mark.parametrize(
    ("sets", "same"),
    [
        (["filter.rouge=0.9", "target.accepted=6", "train.targets='sampled'"], True),
        (["questions.neighbourhood=4", "answers.choice='random'"], True),
        (["gate.pool='seeds'", "rounds=3"], True),
        (["answers.max_tokens=20"], False),
        (["questions.writer='generator'"], False),
        (["train.learning_rate=0.01"], False),
        (["train.top_tokens=8"], False),
        (["seed=2"], False),
    ],
)
def test_only_models_that_answer_alike_are_recalled(made, tmp_path, sets, same):
    _, runs, _, _ = made
    recorded = json.loads((runs["one-shot"] / "manifest.json").read_text(encoding="utf-8"))["settings"]
    wanted = load_over(recorded, sets)
    assert same_writers(runs["one-shot"], wanted) == same
    usual = backend([])
    assert (recalling(usual, tmp_path, wanted, [runs["one-shot"]]) is usual) == (not same)


def test_a_run_without_rounds_has_nothing_to_recall(made, tmp_path):
    out, _, _, _ = made
    align(
        str(out / "data" / "seeds.jsonl"),
        out=tmp_path / "none",
        settings=["rounds=0", "model.name='scripted'"],
        heldout=str(out / "data" / "heldout.jsonl"),
    )
    recorded = json.loads((tmp_path / "none" / "manifest.json").read_text(encoding="utf-8"))["settings"]
    assert not same_writers(tmp_path / "none", load_over(recorded, ["rounds=1"]))


def test_a_prompt_that_is_another_is_asked_though_its_seed_is_known(made, tmp_path):
    _, runs, _, _ = made
    known = written_in(runs["one-shot"])
    recorded = json.loads((runs["one-shot"] / "manifest.json").read_text(encoding="utf-8"))["settings"]
    asked = []
    model = recalling(backend(asked), Path(tmp_path), load_over(recorded, []), [runs["one-shot"]])
    made_model = model(load_over(recorded, [])).model
    _, seed = next(iter(known))
    done = made_model.complete(["Something else"], Sampling(8), seeds=[seed])
    assert [each for each, _ in asked] == [seed]
    assert len(done) == 1
    assert not (tmp_path / "events.jsonl").exists()
