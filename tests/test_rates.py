"""Two learning rates: the seeds are tuned with both, and everything after has the better."""

from __future__ import annotations

import json
import math

import pytest

from isara import align
from isara.api import Backend
from isara.errors import BackendError
from isara.events import quiet
from isara.protocols import Step, Trained
from isara.rates import rate_of, rates_of, take, tried
from isara.settings import TrainSettings
from isara.tally import Place
from isara.tally import outcome as outcome_of
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")


def outcome(*nlls, loss=1.0, best=None):
    """A training whose checks found these means, one after each step."""
    curve = tuple(Step(number, len(nlls), loss, (nll, nll)) for number, nll in enumerate(nlls, start=1))
    return Trained(len(nlls), best or 1 + min(range(len(nlls)), key=nlls.__getitem__), curve)


def scripted(found, told=None):
    """Return what tunes: it leaves a file that says with which rate, and comes to what is said of that rate."""

    def tune(rate, place, before):
        place.mkdir(parents=True)
        (place / "weights").write_text(str(rate))
        if told is not None:
            told.append((rate, before))
        return found[rate]

    return tune


def training(run, arm):
    return json.loads((run / arm / "training.json").read_text(encoding="utf-8"))


def test_the_rate_with_the_likeliest_held_out_samples_comes_first(tmp_path):
    told = []
    found = {0.1: outcome(3.0, 2.5, 2.6), 0.2: outcome(2.4, 2.9)}
    first, second = tried(tmp_path, [0.1, 0.2], scripted(found, told))
    assert (first.rate, first.nll, first.trained) == (0.2, 2.4, found[0.2])
    assert (second.rate, second.nll, second.trained) == (0.1, 2.5, found[0.1])
    # The steps that a trial took count before those of the next.
    assert told == [(0.1, 0), (0.2, 3)]
    take(first, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "0.2"


def test_of_equals_the_usual_rate_comes_first(tmp_path):
    found = {0.1: outcome(2.5), 0.2: outcome(2.5)}
    assert [trial.rate for trial in tried(tmp_path, [0.1, 0.2], scripted(found))] == [0.1, 0.2]


def test_what_was_kept_is_compared_not_what_was_best(tmp_path):
    # With train.keep at last the weights are those of the last step.
    found = {0.1: outcome(2.0, 2.9, best=2), 0.2: outcome(2.8, 2.7, best=2)}
    assert [trial.nll for trial in tried(tmp_path, [0.1, 0.2], scripted(found))] == [2.7, 2.9]


@pytest.mark.parametrize("lost", [outcome(math.nan), outcome(1.0, loss=math.nan), outcome(math.inf)])
def test_a_training_that_lost_its_way_is_not_taken(lost, tmp_path):
    found = {0.1: outcome(9.0), 0.2: lost}
    first, second = tried(tmp_path, [0.2, 0.1], scripted(found))
    assert (first.rate, second.rate) == (0.1, 0.2)
    assert (first.lost, second.lost, second.nll) == (None, 1, math.inf)
    # What is written of it is JSON, the steps before that one.
    assert json.loads(json.dumps(second.to_json(), allow_nan=False))["curve"] == []


def test_trials_that_are_there_are_not_made_again(tmp_path):
    found = {0.1: outcome(2.5, 2.4), 0.2: outcome(2.6)}

    def breaks(rate, place, before):
        if rate == 0.2:
            raise KeyboardInterrupt
        return scripted(found)(rate, place, before)

    with pytest.raises(KeyboardInterrupt):
        tried(tmp_path, [0.1, 0.2], breaks)
    told = []
    first, _ = tried(tmp_path, [0.1, 0.2], scripted(found, told))
    assert (told, first.rate, first.trained) == ([(0.2, 2)], 0.1, found[0.1])


def test_weights_that_have_been_taken_stay(tmp_path):
    found = {0.1: outcome(2.5), 0.2: outcome(2.6)}
    for _ in range(2):
        first, _ = tried(tmp_path, [0.1, 0.2], scripted(found))
        take(first, tmp_path / "adapter")
        assert (tmp_path / "adapter" / "weights").read_text() == "0.1"


def test_without_another_rate_there_is_one(tmp_path):
    assert rates_of(TrainSettings(learning_rate=0.01, other_rate=1)) == (0.01,)
    assert rate_of(tmp_path, TrainSettings(learning_rate=0.01, other_rate=1)) == 0.01
    assert rates_of(TrainSettings(learning_rate=0.01, other_rate=2)) == (0.01, 0.02)
    assert rates_of(TrainSettings(learning_rate=0.01, other_rate=0.5)) == (0.01, 0.005)


class Listening(ScriptedTrainer):
    """A scripted trainer that notes the rate and the folder of each training."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def train(self, *args, **options):
        self.asked.append((options["out"].relative_to(options["out"].parents[1]).as_posix(), options["learning_rate"]))
        return super().train(*args, **options)


def run_with(small, out, *sets, trainer=None, watch=quiet):
    trainer = trainer or Listening()
    backend = Backend(ScriptedModel(), HashEmbedder(), trainer, {"name": "mine"}, {"name": "hash"})
    settings = [*small.settings, "rounds=1", *sets]
    align(small.seeds, out=out, backend=lambda _: backend, settings=settings, watch=watch)
    return trainer


# The scripted trainer learns most with 0.001.
@pytest.mark.parametrize(("usual", "other", "better"), [(4e-3, 1e-3, 1e-3), (1e-3, 4e-3, 1e-3), (4e-3, 2e-3, 2e-3)])
def test_rounds_have_the_better_rate(usual, other, better, small, tmp_path):
    events = []
    trainer = run_with(
        small, tmp_path, f"train.learning_rate={usual}", f"train.other_rate={other / usual}", watch=events.append
    )
    assert [rate for _, rate in trainer.asked] == [usual, other, better]
    seeds, first = training(tmp_path, "seeds-only"), training(tmp_path, "round-1")
    assert seeds["learning_rate"] == first["learning_rate"] == better
    (other_trial,) = seeds["tried"]
    assert other_trial["learning_rate"] == (other if better == usual else usual)
    assert other_trial["curve"]
    assert first["tried"] == []
    assert sorted(path.name for path in (tmp_path / "seeds-only").iterdir() if path.is_dir()) == ["adapter"]
    said = [event.data["text"] for event in events if event.kind == "say"]
    assert sum(f"Of two learning rates {better:g} makes the held-out samples likeliest" in line for line in said) == 1
    counted = [
        event.data["done"] for event in events if event.kind == "progress" and event.data["name"] == "train-seeds-only"
    ]
    assert counted == list(range(1, seeds["steps"] + other_trial["steps"] + 1))


def test_with_two_rates_the_run_is_that_of_the_better_alone(small, tmp_path):
    run_with(small, tmp_path / "two", "train.learning_rate=4e-3", "train.other_rate=0.25")
    run_with(small, tmp_path / "one", "train.learning_rate=1e-3", "train.other_rate=1")
    for file in ("seeds-only/heldout.jsonl", "round-1/kept.jsonl", "round-1/train.jsonl", "round-1/heldout.jsonl"):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    assert training(tmp_path / "one", "seeds-only")["tried"] == []
    assert training(tmp_path / "one", "seeds-only")["learning_rate"] == 1e-3


def test_where_both_lose_their_way_the_run_says_so(small, tmp_path):
    class Diverging(ScriptedTrainer):
        def train(self, *args, out, **options):
            out.mkdir(parents=True)
            return outcome(math.nan)

    with pytest.raises(BackendError, match=r"seeds-only: the training lost its way"):
        run_with(small, tmp_path, "train.other_rate=2", trainer=Diverging())


def test_the_report_tells_both_rates(small, tmp_path):
    run_with(small, tmp_path, "train.learning_rate=4e-3", "train.other_rate=0.25")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "learning rate 0.001, which did better than 0.004" in page


def test_a_study_counts_the_steps_of_both(small, tmp_path):
    run_with(small, tmp_path / "run", "train.learning_rate=4e-3", "train.other_rate=0.25")
    steps = {arm: training(tmp_path / "run", arm) for arm in ("seeds-only", "round-1")}
    (other,) = steps["seeds-only"]["tried"]
    counted, _ = outcome_of(tmp_path, Place("loop", 17, "run", "round-1"), "heldout.jsonl")
    assert counted["steps_in_all"] == sum(one["steps"] for one in (*steps.values(), other))
    assert counted["taken"] == steps["round-1"]["steps"]


def test_the_progress_line_has_the_steps_of_both(small, tmp_path):
    planned = []
    run_with(small, tmp_path, "train.other_rate=2", watch=planned.append)
    (stages,) = (event.data["stages"] for event in planned if event.kind == "plan")
    units = {stage["name"]: stage["units"] for stage in stages}
    assert units["train-seeds-only"] == 2 * training(tmp_path, "seeds-only")["planned"]
    assert units["train-round-1"] == training(tmp_path, "round-1")["planned"]
