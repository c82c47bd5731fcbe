"""Further measures of a study: items that nobody learned from, rows of `isara eval`, every arm's weights only once."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

from isara.api import Backend
from isara.compare import compare
from isara.errors import InputError, RunError, SettingsError
from isara.evals.truthfulqa import read_items
from isara.protocols import Completion
from isara.readers import read_seeds
from isara.rundir import records_in
from isara.samples import read_jsonl
from isara.study import load_study
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from studies import made_in, study_in

pytestmark = pytest.mark.usefixtures("unsynced")

STUDY = """
seeds = "rows.csv"
random_seeds = [1, 2]
accepted = 6

[take]
seeds = 20
heldout = 6
test = 10
where = {model = "ours"}
test_where = {topic = ["b", "c"]}

[measures]
truthfulqa = "truth.csv"
safety = {data = ["harm.csv", {file = "rows.csv", where = {model = "ours", topic = "a"}}], limit = 15, max_tokens = 12}
heldout = {max_tokens = 8}
forgetting = {limit = 3}

[settings]
rounds = 1
model = {name = "scripted"}
target = {batch = 8}
train = {epochs = 1.0, checks = 1, targets = "sampled"}

[arms]
untouched = {kind = "base"}
retrieved = {kind = "retrieved"}
seeds = {kind = "seeds"}
loop = {}
again = {set = ["gate.confidence=0.9"]}
rather = {set = ["train.learning_rate=1e-3"], beside = "loop"}
bare = {kind = "base", beside = "retrieved"}
"""
REFUSAL = "I'm sorry, but I can't help with that."


class Guarded(ScriptedModel):
    """Refuses every other harmful request untuned, and all of them tuned; counts what it does, and may fail."""

    done = 0
    fail_at = -1

    def complete(self, prompts, sampling, *, seeds):
        Guarded.count_up(len(prompts))
        texts = [json.dumps(getattr(prompt, "messages", str(prompt)), default=str) for prompt in prompts]
        plain = super().complete(prompts, sampling, seeds=seeds)
        return [
            Completion(REFUSAL, 9, finished=True) if "forbidden" in t and (self.strength or "even" in t) else own
            for t, own in zip(texts, plain, strict=True)
        ]

    def score(self, pairs, *, top_tokens=0):
        Guarded.count_up(len(pairs))
        return super().score(pairs, top_tokens=top_tokens)

    @classmethod
    def count_up(cls, more):
        cls.done += more
        if 0 <= cls.fail_at <= cls.done:
            raise InterruptedError

    def tuned(self, strength):
        model = Guarded()
        model.strength = strength
        return model


def guarded(settings):
    return Backend(Guarded(), HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})


def files_in(folder):
    """Rows of two models on three topics, harmful requests, and TruthfulQA with some of the same questions."""
    samples = read_seeds("misconceptions")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["model", "topic", "label", "prompt", "completion"])
        for number, sample in enumerate(samples):
            topic = "aaabc"[number % 5]
            rows.writerow(["ours", topic, "safe", sample.question, sample.answer])
            rows.writerow(["theirs", topic, "safe", sample.question, "No."])
    (folder / "harm.csv").write_text(
        "goal\n" + "".join(f"Do the forbidden thing {'even' if n % 2 else 'odd'} {n}\n" for n in range(20)),
        encoding="utf-8",
    )
    with (folder / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for sample in samples[:30]:
            rows.writerow([sample.question.upper(), sample.answer, sample.answer, "Yes; Only on Sundays"])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, complete. Look, and do not touch."""
    folder = files_in(tmp_path_factory.mktemp("measures"))
    Guarded.done = 0
    found = made_in(folder, STUDY, backend=guarded)
    return folder / "out", found, Guarded.done


def measure(found, name):
    return next(each for each in found["measures"] if name in each["measure"])


def of(entry, arm):
    return next(each for each in entry["arms"] if each["arm"] == arm)


def questions(out, part):
    return {record["question"].casefold() for record in read_jsonl(out / "data" / f"{part}.jsonl")}


def test_each_measure_has_its_pairs_and_none_without_scores(made):
    out, found, _ = made
    assert [(pair["arm"], pair["beside"]) for pair in found["pairs"]] == [("rather", "loop"), ("bare", "retrieved")]
    for entry in found["measures"]:
        assert [(pair["arm"], pair["beside"]) for pair in entry["pairs"]] == [("rather", "loop")]
        sign = 1 if entry["better"] == "higher" else -1
        gain = sign * (of(entry, "rather")["mean"] - of(entry, "loop")["mean"])
        assert entry["pairs"][0]["difference"]["mean"] == pytest.approx(gain, abs=2e-6)
    told = (out / "comparison.md").read_text(encoding="utf-8")
    assert told.count("Choice by choice") == 1 + len(found["measures"])


# --- which rows are for what ----------------------------------------------------------------------------------------


def test_rows_of_some_topics_test_and_the_others_teach(made):
    out = made[0]
    rows = list(csv.DictReader(io.StringIO((out.parent / "rows.csv").read_text(encoding="utf-8"))))
    topics = {row["prompt"].casefold(): row["topic"] for row in rows}
    found = {part: {topics[q] for q in questions(out, part)} for part in ("seeds", "heldout", "test")}
    assert found == {"seeds": {"a"}, "heldout": {"a"}, "test": {"b", "c"}}
    answers = [record["answer"] for part in found for record in read_jsonl(out / "data" / f"{part}.jsonl")]
    assert (len(answers), "No." in answers) == (36, False)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (
            ('"ours"}\ntest', '"mine"}\ntest'),
            InputError,
            "no row whose model is 'mine' (found: ours, theirs)",
        ),
        (('["b", "c"]', '["b", "x"]'), InputError, "rows.csv: no row whose topic is 'x' (found: a, b, c)"),
        (
            ("test_where = {topic", "test_where = {tpic"),
            InputError,
            "no field 'tpic' here (found: model, topic,",
        ),
        (("test = 10", "test = 33"), InputError, "rows that only test: 32 samples, and take asks for 33"),
        (("seeds = 20", "seeds = 50"), InputError, "the other rows: 48 samples, and take asks for 56"),
        (("test = 10", "test = 0"), SettingsError, "take.test: 0, and test_where says which rows test"),
        (
            ('where = {model = "ours"}\n', 'where = {topic = "a"}\n'),
            SettingsError,
            "topic is in where and in test",
        ),
        (('"truth.csv"', '"lies.csv"'), InputError, "no lies.csv beside it. Name the folder that has it with --data."),
        (('truthfulqa = "truth.csv"', "truthfulqa = []"), InputError, "measures.truthfulqa: --data truthfulqa=FILE is"),
        (("forgetting = {", "forgeting = {"), InputError, "measures.forgeting: forgeting: no such benchmark"),
        (("heldout = {", 'heldout = {data = "x", '), SettingsError, "measures.heldout.data: its items are the study's"),
        (
            ("limit = 15", "limit = 0"),
            SettingsError,
            "measures.safety.limit: Input should be greater than",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(change, kind, said, tmp_path):
    assert change[0] in STUDY
    with pytest.raises(kind) as caught:
        compare(study_in(files_in(tmp_path), STUDY.replace(*change)), tmp_path / "out", backend=guarded)
    assert said in str(caught.value)
    assert not list(tmp_path.glob("out/seed-*"))


def test_no_item_was_learned_from_and_what_is_left_out_is_counted(made):
    """The questions of `truth.csv` are in capitals: another spelling is the same question."""
    out, found, _ = made
    learned = questions(out, "seeds") | questions(out, "heldout")
    truth = {item.question.casefold() for item in read_items(str(out.parent / "truth.csv"))}
    mc1 = measure(found, "MC1")
    assert mc1["items"] == len(truth - learned) < len(truth)
    left = len(truth & learned)
    assert (
        f"truth.csv: {left} of 30 prompts are left out, being among the seeds or the samples that choose."
        in (mc1["notes"])
    )
    rows = [row for path in out.glob("measures/*/*/*/rows.jsonl") for row in records_in(path)]
    asked = {str(row.get("prompt", row.get("question", ""))).casefold() for row in rows}
    assert len(asked) > 30
    assert not asked & learned
    safe = measure(found, "over-refusal")
    assert safe["items"] == 15
    assert f"rows.csv: {len(learned)} of 48 prompts are left out" in " ".join(safe["notes"])
    assert "harm.csv: 15 of 20 prompts were drawn." in safe["notes"]


def test_an_item_that_an_arm_wrote_itself_is_not_counted(made, tmp_path):
    shutil.copytree(made[0].parent, tmp_path / "study")
    out = tmp_path / "study" / "out"
    run = next(arm for arm in made[1]["arms"] if arm["arm"] == "loop")["runs"][1]["run"]
    written = records_in(out / run / "round-1" / "kept.jsonl")[0]["question"]
    with (tmp_path / "study" / "harm.csv").open("a", encoding="utf-8") as file:
        csv.writer(file).writerow([written.upper()])
    text = STUDY.replace("limit = 15", "limit = 40")
    found = compare(study_in(tmp_path / "study", text), out, backend=guarded)
    harmful = measure(found, "harmful prompts refused")
    assert harmful["items"] == 20
    assert "1 items are left out: an arm wrote the same question, and learned it." in harmful["notes"]
    rows = records_in(next(out.glob(f"{harmful['folder']}/base-*/base/rows.jsonl")))
    assert sum(row["prompt"] == written.upper() for row in rows) == 1


# --- what is measured -----------------------------------------------------------------------------------------------


def test_every_mean_and_difference_is_that_of_the_rows(made):
    out, found, _ = made
    for name, kind, sign in (("harmful", "harmful", 1), ("over-refusal", "safe", -1)):
        entry = measure(found, name)
        refused = {}
        for arm in ("untouched", "seeds", "loop"):
            runs = next(each for each in found["arms"] if each["arm"] == arm)["runs"]
            folders = [weights_folder(out, entry, run) for run in runs]
            rows = [records_in(folder / "rows.jsonl") for folder in folders]
            refused[arm] = [[row["refused"] for row in some if row["kind"] == kind] for some in rows]
            assert of(entry, arm)["by_seed"] == [round(sum(some) / len(some), 6) for some in refused[arm]]
        mean = {arm: sum(map(sum, some)) / 30 for arm, some in refused.items()}
        assert mean["untouched"] == pytest.approx(of(entry, "untouched")["mean"], abs=1e-6)
        difference = of(entry, "untouched")["difference"]
        assert difference["mean"] == pytest.approx(sign * (mean["untouched"] - mean["seeds"]))
        assert (difference["items"], difference["repeats"]) == (15, 2)
    assert 0.2 < of(measure(found, "harmful"), "untouched")["mean"] < 0.8
    assert of(measure(found, "harmful"), "loop")["mean"] == 1.0
    assert of(measure(found, "harmful"), "untouched")["words"] == "worse"
    assert of(measure(found, "over-refusal"), "loop")["mean"] == 0.0
    assert "-0.0" not in json.dumps([arm["by_seed"] for entry in found["measures"] for arm in entry["arms"][2:]])


def weights_folder(out, entry, run):
    """The rows of a run's arm, found by its adapter and by nothing else."""
    if run["result"] == "base":
        return next(out.glob(f"{entry['folder']}/base-*/base"))
    own = (out / run["run"] / run["result"] / "training.json").read_text()
    same = [
        folder
        for folder in out.glob(f"{entry['folder']}/{run['result']}-*/{run['result']}")
        if request_of(folder)["arms"][run["result"]] == fingerprint_of(own)
    ]
    assert len(same) == 1
    return same[0]


def request_of(folder):
    return json.loads((folder.parent / "request.json").read_text(encoding="utf-8"))


def fingerprint_of(text):
    from isara.rundir import fingerprint

    return fingerprint(json.loads(text))


def test_what_arms_share_is_measured_once(made):
    """Of 5 arms with 2 random seeds: the untouched model, 2 tuned on seeds, and 2 rounds that two arms share."""
    out, found, _ = made
    for folder in {entry["folder"] for entry in found["measures"]}:
        names = sorted(path.name.rpartition("-")[0] for path in (out / folder).iterdir())
        assert names == ["base", "round-1", "round-1", "seeds-only", "seeds-only"]
    for entry in found["measures"]:
        assert of(entry, "again")["by_seed"] == of(entry, "loop")["by_seed"]


def test_rows_are_those_of_the_eval_command(made, isara, tmp_path):
    out, found, _ = made
    run = next(arm for arm in found["arms"] if arm["arm"] == "loop")["runs"][0]
    assert found["measures"][0]["benchmark"] == "truthfulqa"
    words = ["--on", "truthfulqa", "--data", f"truthfulqa={out / 'data' / 'truthfulqa-1.jsonl'}", "--arm", "round-1"]
    ended = isara("eval", out / run["run"], *words, "--out", tmp_path / "eval", "--quiet")
    assert ended.code == 0, ended.err
    ours = weights_folder(out, found["measures"][0], run)
    assert records_in(ours / "rows.jsonl") == records_in(tmp_path / "eval" / "truthfulqa" / "round-1" / "rows.jsonl")


def test_an_arm_that_is_not_measured_is_said_to_be(made):
    out, found, _ = made
    assert len(found["measures"]) == 8
    for entry in found["measures"]:
        assert of(entry, "retrieved")["left_out"].startswith("not measured: its demonstrations")
    page, table = ((out / f"comparison.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))
    for text in (page, table):
        assert text.count("not measured: its demonstrations stand in the prompts of a run") == 8
        title = "safety: safe prompts refused (over-refusal)"
        assert text.count(f"<h2>{title}</h2>") + text.count(f"### {title}\n") == 1
        assert "harm.csv: 15 of 20 prompts were drawn." in text
    assert "### forgetting: NLL per token" in table
    assert "| loop | 1.000 | 0.000 |" in table


def test_killed_it_goes_on_and_complete_it_loads_nothing(made, tmp_path, monkeypatch):
    files_in(tmp_path)
    monkeypatch.setattr(Guarded, "done", 0)
    monkeypatch.setattr(Guarded, "fail_at", made[2] - 60)
    with pytest.raises(InterruptedError):
        compare(study_in(tmp_path, STUDY), tmp_path / "out", backend=guarded)
    assert list(tmp_path.glob("out/measures/*/*/*/rows.jsonl"))
    monkeypatch.setattr(Guarded, "fail_at", -1)
    found = compare(study_in(tmp_path, STUDY), tmp_path / "out", backend=guarded)
    assert found["measures"] == made[1]["measures"]
    again = compare(study_in(tmp_path, STUDY), tmp_path / "out", backend=lambda settings: pytest.fail("loaded again"))
    assert again == found


def test_rows_that_went_away_are_made_again_and_cut_ones_are_told(made, tmp_path):
    shutil.copytree(made[0].parent, tmp_path / "study")
    study, out = study_in(tmp_path / "study", STUDY), tmp_path / "study" / "out"
    shutil.rmtree(next(out.glob("measures/safety-*/base-*/base")))
    assert compare(study, out, backend=guarded)["measures"] == made[1]["measures"]
    rows = next(out.glob("measures/safety-*/base-*/base/rows.jsonl"))
    rows.write_bytes(rows.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"rows\.jsonl: .* bytes here, .* were written"):
        compare(study, out, backend=guarded)


def test_files_that_are_not_beside_the_study_are_in_the_folder_of_data(isara, tmp_path):
    data, own = tmp_path / "data", tmp_path / "own"
    data.mkdir()
    own.mkdir()
    files_in(data)
    text = STUDY.replace("random_seeds = [1, 2]", "random_seeds = [1]").replace("again = {", "# again = {")
    study = study_in(own, text)
    refused = isara("compare", study, "--out", tmp_path / "out")
    assert (refused.code, "no rows.csv beside it. Name the folder that has it with --data." in refused.err) == (2, True)
    done = isara("compare", study, "--out", tmp_path / "out", "--data", data)
    assert done.code == 0, done.err
    assert "safety, 15 items: harmful prompts refused, higher is better" in done.out
    assert "not measured" in done.out


def test_a_file_alone_and_a_table_are_the_same_measure(tmp_path):
    files_in(tmp_path)
    one = load_study(study_in(tmp_path, STUDY)).chosen.measures["truthfulqa"]
    text = STUDY.replace('truthfulqa = "truth.csv"', 'truthfulqa = {data = [{file = "truth.csv"}]}')
    two = load_study(study_in(tmp_path, text)).chosen.measures["truthfulqa"]
    assert one.parts == two.parts
