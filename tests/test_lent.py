"""What studies of the same samples in one folder lend each other: made once, and the same as made alone."""

from __future__ import annotations

import json
import shutil

import pytest

from isara.api import Backend
from isara.compare import compare
from isara.rundir import Events
from isara.sharing import lent
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from studies import contents, study_in, without_clock

pytestmark = pytest.mark.usefixtures("unsynced")

SAMPLES = """
seeds = "misconceptions"
random_seeds = [1]
accepted = ACCEPTED

[take]
seeds = 30
heldout = 8
test = 14

[settings]
rounds = 1
model = {name = "scripted"}
target = {batch = 8}
train = {epochs = 2.0, checks = 2}
"""
LENDER = (
    SAMPLES.replace("ACCEPTED", "12")
    + """
[arms]
seeds = {kind = "seeds"}
pool-of-seeds = {set = ["rounds=2", "gate.pool='seeds'"]}
loop = {set = ["rounds=2"]}
"""
)
BORROWER = (
    SAMPLES.replace("ACCEPTED", "24")
    + """
[arms]
seeds = {kind = "seeds"}
at-once = {kind = "one-shot"}
rounds = {set = ["rounds=4"]}
"""
)
FACTS = ({"name": "scripted"}, {"name": "hash"})


class Counted(ScriptedTrainer):
    """Tells a list of each folder that it trains into."""

    def __init__(self, trained):
        super().__init__()
        self.trained = trained

    def train(self, examples, heldout, **how):
        self.trained.append("/".join(how["out"].parts[-3:-1]))
        return super().train(examples, heldout, **how)


def made(folder, text, trained, facts=FACTS, told=()):
    """Make a study into a folder, and return what it shows."""
    folder.parent.mkdir(exist_ok=True)

    def backend(settings):
        return Backend(ScriptedModel(remember=False), HashEmbedder(), Counted(trained), *facts)

    note = told.append if isinstance(told, list) else lambda event: None
    return compare(study_in(folder.parent, text), folder, backend=backend, watch=note)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A folder with the study that lends, complete. Copy it, and do not touch."""
    home = tmp_path_factory.mktemp("lent") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        made(home / "lender", LENDER, [])
    return home


def runs_in(out):
    return {arm: next((out / "seed-1").glob(f"{arm}-*")) for arm in ("at-once", "rounds")}


def test_a_study_beside_another_of_the_same_samples_makes_only_what_that_has_not(studies, tmp_path):
    shutil.copytree(studies, tmp_path / "runs")
    beside, alone, told = [], [], []
    found = made(tmp_path / "runs" / "borrower", BORROWER, beside, told=told)
    assert without_clock(found) == without_clock(made(tmp_path / "alone" / "borrower", BORROWER, alone))
    # The seeds' training, and the two rounds of the arm `loop`; that with another pool has the first of them alone.
    assert [one.split("/")[1] for one in alone] == ["seeds-only", "round-1", "round-1", "round-2", "round-3", "round-4"]
    assert [one.split("/")[1] for one in beside] == ["round-1", "round-3", "round-4"]
    own, others = runs_in(tmp_path / "runs" / "borrower"), runs_in(tmp_path / "alone" / "borrower")
    for arm, run in own.items():
        assert contents(run) == contents(others[arm])
    lender = next((studies / "lender" / "seed-1").glob("loop-*"))
    (noted,) = (event for event in Events(own["rounds"] / "events.jsonl").read() if event["kind"] == "shared")
    assert noted["of"] == f"lender/seed-1/{lender.name}"
    assert noted["arms"] == ["base", "retrieved", "seeds-only", "drafted", "trained", "round-2"]
    recalled = [event for event in Events(own["at-once"] / "events.jsonl").read() if event["kind"] == "recalled"]
    assert sum(event["completions"] for event in recalled) > 10
    said = [event.data["text"] for event in told if event.kind == "say" and "in common" in event.data["text"]]
    assert f"{own['rounds'].name}, beginning with what lender/seed-1/{lender.name} has in common." in said[-1]


@pytest.mark.parametrize(
    ("facts", "lends"),
    [
        (({"name": "scripted", "sha256": "other"}, {"name": "hash"}), False),
        (({"name": "scripted"}, {"name": "hash", "sha256": "other"}), False),
        (FACTS, True),
    ],
)
def test_runs_of_another_model_or_embedder_are_not_lent(studies, tmp_path, facts, lends):
    """Though it has the same name: weights in a folder change, and that would be told when the run is started."""
    shutil.copytree(studies, tmp_path / "runs")
    trained = []
    made(tmp_path / "runs" / "borrower", BORROWER, trained, facts)
    assert ("seeds-only" not in {one.split("/")[1] for one in trained}) == lends


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "summary.json").unlink(),
        lambda run: (run / "summary.json").write_text('{"status": "unfinished"'),
        lambda run: (run / "manifest.json").write_text("[]"),
        lambda run: rewritten(run / "manifest.json", isara="0.0.1"),
        lambda run: rewritten(run / "manifest.json", packages={"torch": "1.0"}),
        lambda run: (run.parents[1] / "data" / "hash.json").write_text('{"seeds": "other"}'),
        lambda run: (run.parents[1] / "data" / "hash.json").write_text("{"),
        lambda run: run.rename(run.with_name(f".{run.name}.sharing")),
    ],
    ids=["unfinished", "damaged", "no-manifest", "version", "packages", "samples", "no-samples", "scratch"],
)
def test_what_is_unfinished_damaged_or_of_other_versions_or_samples_is_passed_over(studies, tmp_path, change):
    shutil.copytree(studies, tmp_path / "runs")
    own = tmp_path / "runs" / "borrower"
    (own / "data").mkdir(parents=True)
    shutil.copy(tmp_path / "runs" / "lender" / "data" / "hash.json", own / "data")
    before = lent(own, lambda: FACTS)
    assert [run.name.rsplit("-", 1)[0] for run in before] == ["loop", "pool-of-seeds"]
    change(before[0])
    left = lent(own, lambda: FACTS)
    assert before[0] not in left
    assert set(left) <= {before[1]}


def test_nothing_is_loaded_to_compare_where_nothing_could_be_lent(studies, tmp_path):
    own = tmp_path / "borrower"
    shutil.copytree(studies / "lender", own)
    assert lent(own, lambda: pytest.fail("asked for")) == []


def rewritten(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))
