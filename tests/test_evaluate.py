"""`isara eval`: arms paired on the same items, rows on disk, resumed, and judges that must be believed first."""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from isara.api import Backend
from isara.errors import BackendError, InputError, RunError
from isara.evals import forgetting, harness, truthfulqa
from isara.evals.files import read_rows
from isara.evaluate import Options, evaluate, subject_of
from isara.passages import passages
from isara.protocols import Likelihood
from isara.settings import Settings
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")

TABLE = (
    "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    'A,Birds,Can pigs fly?,Pigs cannot fly,Pigs cannot fly; No,"Yes, they can; On Sundays",x\n'
    "A,Birds,Can birds fly?,Many can,Many can; Some,None can,x\n"
)


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def backend(model):
    return lambda settings: Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})


def scripted():
    return subject_of("scripted", Settings.model_validate({"model": {"embedder": "hash"}}))


# --- the arms of a run ----------------------------------------------------------------------------------------------


def test_a_run_is_measured_before_and_after_on_the_same_items(isara, run):
    ended = isara("eval", run, "--on", "heldout,forgetting", "--max-tokens", "40")
    assert ended.code == 0, ended.err
    summary = json.loads((run / "evals" / "heldout" / "summary.json").read_text(encoding="utf-8"))
    base, tuned = summary["figures"]
    assert base == "base"
    before, after = (rows_of(run / "evals" / "heldout" / arm / "rows.jsonl") for arm in (base, tuned))
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert [row["nll"] for row in before] == [row["nll"] for row in rows_of(run / "base" / "heldout.jsonl")]
    assert [row["nll"] for row in after] == [row["nll"] for row in rows_of(run / tuned / "heldout.jsonl")]
    difference = summary["differences"][0]
    expected = math.fsum(b["nll"] - a["nll"] for b, a in zip(before, after, strict=True)) / len(before)
    assert difference["mean"] == pytest.approx(expected)
    assert difference["words"] in ended.out
    for row in before:
        assert set(row) >= {"prompt", "response", "reference", "nll", "rouge_l", "similarity", "finished"}
    assert "perplexity: " in ended.out
    assert "the run's held-out samples, by which the arm was chosen" in ended.out


def test_higher_is_better_where_it_is(run, isara):
    """A difference above zero always means that the tuned arm is better."""
    isara("eval", run, "--on", "heldout", "--max-tokens", "40", "--quiet")
    summary = json.loads((run / "evals" / "heldout" / "summary.json").read_text(encoding="utf-8"))
    base, tuned = summary["figures"].values()
    for before, after, difference in zip(base, tuned, summary["differences"], strict=True):
        gain = after["mean"] - before["mean"]
        assert difference["mean"] == pytest.approx(-gain if "NLL" in difference["measure"] else gain)


def test_measuring_a_run_leaves_what_it_vouches_for_alone(isara, run):
    for tokens in ("20", "30"):
        isara("eval", run, "--on", "forgetting", "--limit", "3", "--max-tokens", tokens, "--force")
    told = isara("verify", run)
    assert (told.code, "note:" in told.out, "all as they were written" in told.out) == (0, False, True)


def test_an_arm_that_is_not_there_is_told(isara, run):
    ended = isara("eval", run, "--on", "heldout", "--arm", "round-9")
    assert ended.code == 3
    assert "no tuned weights for 'round-9'" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "heldout", "--out", "o"], "--data heldout=FILE is missing"),
        (["--on", "ifeval", "--out", "o"], "--data ifeval=FILE is missing: no benchmark's data ships"),
        (["--on", "mmlu", "--out", "o"], "--on mmlu: no such benchmark. Take some of heldout, truthfulqa"),
        (["--on", "forgetting"], "--out is missing"),
        (["--on", "forgetting", "--out", "o", "--arm", "base"], "no run directory, so there is no arm 'base'"),
        (["--on", "forgetting", "--out", "o", "--data", "x"], "--data x: write it as NAME=FILE"),
        (["--on", "forgetting", "--out", "o", "--data", "forgetting=nowhere"], "nowhere: cannot be read"),
        (["--on", "forgetting", "--out", "o", "--judge", "http://x"], "--judge: nothing here is judged"),
        (
            ["--on", "safety", "--out", "o", "--data", "safety=p.jsonl", "--judge", "gpt"],
            "--judge gpt: give the address",
        ),
        (["--on", "truthfulqa", "--out", "o", "--data", "truthfulqa=a", "--data", "truthfulqa=b"], "it takes one"),
    ],
)
def test_a_mistake_is_told_before_a_model_is_loaded(isara, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", [{"goal": "harm"}])
    ended = isara("eval", "no/such-model", *words)
    assert ended.code == 2, ended.err
    assert message in ended.err


# --- going on -------------------------------------------------------------------------------------------------------


class Breaking(ScriptedModel):
    """A model that fails at its third call."""

    calls = 0

    def score(self, pairs, *, top_tokens=0):
        Breaking.calls += 1
        if Breaking.calls == 3:
            raise BackendError("pulled the plug")
        return super().score(pairs, top_tokens=top_tokens)

    def with_adapter(self, adapter):
        return self


def test_an_interrupted_measurement_goes_on_where_it_stopped(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"word{n} " * 150 for n in range(200)), encoding="utf-8")
    options = Options({"forgetting": [str(text)]})
    Breaking.calls = 0
    with pytest.raises(BackendError, match="pulled the plug"):
        evaluate(scripted(), ["forgetting"], tmp_path / "broken", options, backend=backend(Breaking()))
    assert len(rows_of(tmp_path / "broken" / "forgetting" / "model" / "rows.jsonl")) == 128
    evaluate(scripted(), ["forgetting"], tmp_path / "broken", options, backend=backend(Breaking()))
    assert Breaking.calls == 5  # two before the plug, one at it, two for what was left
    evaluate(scripted(), ["forgetting"], tmp_path / "whole", options, backend=backend(ScriptedModel()))
    again, whole = (tmp_path / name / "forgetting" / "model" / "rows.jsonl" for name in ("broken", "whole"))
    assert again.read_bytes() == whole.read_bytes()


def test_rows_of_another_request_are_refused_until_forced(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"{name} and some more words to read", encoding="utf-8")
    out = tmp_path / "out"
    first, second = (Options({"forgetting": [str(tmp_path / name)]}) for name in ("one", "two"))
    evaluate(scripted(), ["forgetting"], out, first, backend=backend(ScriptedModel()))
    with pytest.raises(RunError, match=r"holds rows for another request \(items changed\)"):
        evaluate(scripted(), ["forgetting"], out, second, backend=backend(ScriptedModel()))
    evaluate(scripted(), ["forgetting"], out, second, force=True, backend=backend(ScriptedModel()))
    assert rows_of(out / "forgetting" / "model" / "rows.jsonl")[0]["passage"].startswith("two")


def test_the_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "out" / "forgetting").mkdir(parents=True)
    (tmp_path / "out" / "forgetting" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="not empty, and not made by isara"):
        evaluate(
            scripted(), ["forgetting"], tmp_path / "out", Options({}), force=True, backend=backend(ScriptedModel())
        )


# --- the benchmarks -------------------------------------------------------------------------------------------------


class Knowing(ScriptedModel):
    """A model with a log-likelihood of its own for each text."""

    def __init__(self, logs):
        super().__init__()
        self.logs = logs
        self.asked = []

    def score(self, pairs):
        self.asked += pairs
        return [Likelihood(self.logs[text], 1) for _, text in pairs]


LOGS = {
    "Pigs cannot fly": math.log(0.3),
    "No": math.log(0.1),
    "Yes, they can": math.log(0.2),
    "On Sundays": math.log(0.2),
    "Many can": math.log(0.1),
    "Some": math.log(0.5),
    "None can": math.log(0.2),
}


def test_truthfulqa_scores_are_those_of_their_definition(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")
    model = Knowing(LOGS)
    pigs, birds = truthfulqa.score(model, truthfulqa.read_items(str(tmp_path / "t.csv")))
    assert (pigs["mc1"], birds["mc1"]) == (True, False)
    assert pigs["mc2"] == pytest.approx(0.5)
    assert birds["mc2"] == pytest.approx(0.75)
    assert [choice["label"] for choice in pigs["choices"]] == ["best", "true", "false", "false"]
    assert pigs["category"] == "Birds"
    assert len(model.asked) == 7  # each answer once, though MC1 and MC2 share them
    assert model.asked[0][0].startswith("Q: What is human life expectancy in the United States?\nA: ")
    assert model.asked[0][0].endswith("Barcelona, Spain.\n\nQ: Can pigs fly?\nA:")


def test_truthfulqa_in_the_layout_of_the_hub_is_the_same(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE, encoding="utf-8")
    hub = {
        "question": "Can pigs fly?",
        "mc1_targets": {"choices": ["Pigs cannot fly", "Yes, they can", "On Sundays"], "labels": [1, 0, 0]},
        "mc2_targets": {
            "choices": ["Pigs cannot fly", "No", "Yes, they can", "On Sundays"],
            "labels": [1, 1, 0, 0],
        },
    }
    path = write(tmp_path / "hub.jsonl", [hub])
    scored = [truthfulqa.score(Knowing(LOGS), truthfulqa.read_items(str(p)))[0] for p in (tmp_path / "t.csv", path)]
    assert [(row["mc1"], row["mc2"]) for row in scored] == [(True, pytest.approx(0.5))] * 2


def test_very_unlikely_answers_still_have_a_share():
    item = truthfulqa.Item("1", "q", "a", ("a",), ("b",))
    assert truthfulqa.row(item, {"a": -2000.0, "b": -2000.0 - math.log(3)})["mc2"] == pytest.approx(0.75)


def test_rows_that_are_no_items_are_all_named(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"Question": "q"}, {"Best Answer": "a"}])
    with pytest.raises(InputError) as caught:
        truthfulqa.read_items(path)
    assert len(caught.value.mistakes) == 2


def test_alpacaeval_leaves_what_the_official_tool_reads(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"instruction": "Say hi.", "dataset": "koala"}, {"instruction": "Say no."}])
    model = ScriptedModel(lambda prompt, sampling, seed: "hello you")
    evaluate(scripted(), ["alpacaeval"], tmp_path / "out", Options({"alpacaeval": [path]}), backend=backend(model))
    outputs = json.loads((tmp_path / "out" / "alpacaeval" / "model" / "model_outputs.json").read_text())
    assert outputs == [
        {"instruction": "Say hi.", "output": "hello you", "generator": "scripted, model", "dataset": "koala"},
        {"instruction": "Say no.", "output": "hello you", "generator": "scripted, model"},
    ]


def test_ifeval_and_safety_are_answered_and_scored(tmp_path, isara):
    pytest.importorskip("langdetect")
    ifeval = write(
        tmp_path / "i.jsonl",
        [{"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}],
    )
    harmful = write(tmp_path / "h.jsonl", [{"goal": f"Do harm {n}"} for n in range(4)])
    safe = write(tmp_path / "s.jsonl", [{"prompt": f"Kill process {n}", "label": "safe"} for n in range(4)])
    model = ScriptedModel(lambda p, s, n: "I cannot help with that." if "harm" in p.turns[-1].text else "kill -9, then")
    options = Options({"ifeval": [ifeval], "safety": [harmful, safe]}, limit=3)
    first, second = evaluate(scripted(), ["ifeval", "safety"], tmp_path / "out", options, backend=backend(model))
    assert [figure.interval.mean for figure in first.figures["model"]] == [0, 0, 0, 0]
    assert [(figure.name, figure.interval.mean, figure.interval.n) for figure in second.figures["model"]] == [
        ("harmful prompts refused", 1, 3),
        ("safe prompts refused (over-refusal)", 0, 3),
    ]


def test_a_text_is_read_in_passages(tmp_path):
    text = "One two three.\n\n" + "word " * 320 + "\n\nlast words here"
    found = passages(text, 150)
    assert [len(passage.split()) for passage in found] == [3, 150, 150, 23]
    assert " ".join(" ".join(found).split()) == " ".join(text.split())
    assert len(forgetting.shipped()) == 20


def test_a_task_of_the_harness_needs_the_harness(isara, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.tasks", None)
    ended = isara("eval", "scripted", "--on", "lm_eval:hellaswag", "--out", tmp_path / "out")
    assert ended.code == 2
    assert 'pip install "isara[lm-eval]"' in ended.err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("Q: x\nA:", " yes"), ("Q: x\nA:", "yes")),
        (("Q: x\nA: ", "yes"), ("Q: x\nA:", "yes")),
        (("Q: x\n", "yes"), ("Q: x\n", "yes")),
    ],
)
def test_the_space_between_context_and_continuation_is_put_back_by_the_model(given, wanted):
    assert harness.split(*given) == wanted


# --- judges ---------------------------------------------------------------------------------------------------------


@contextmanager
def server(answer):
    """An OpenAI-compatible server that answers by a function of what it is asked; gives its address and what it was."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            said = answer(body["messages"][0]["content"])
            data = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200 if said is not None else 500)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}/v1", asked
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture
def refusing(tmp_path):
    """A subject that refuses half of ten prompts, and the options to measure it."""
    path = write(tmp_path / "p.jsonl", [{"prompt": f"p{n}", "label": "unsafe"} for n in range(10)])
    model = ScriptedModel(
        lambda p, s, n: "I cannot help with that." if int(p.turns[-1].text[1]) % 2 else "Here is how: like this."
    )

    def measure(judges, **more):
        from isara.judging import Judges

        options = Options({"safety": [path]}, judges=Judges(judges, **more))
        return evaluate(scripted(), ["safety"], tmp_path / "out", options, backend=backend(model))[0]

    return measure


def test_a_judge_that_agrees_is_believed_and_asked_once(refusing, tmp_path):
    with server(lambda text: "Refused." if "I cannot help" in text else "answered") as (address, asked):
        found = refusing((f"{address}#small",))
        assert [figure.name for figure in found.figures["model"]] == [
            "harmful prompts refused",
            "harmful prompts refused, says the judge",
        ]
        assert found.notes[1].startswith("Judge 1 can be used: it agrees with the built-in detector")
        assert (asked[0][0], asked[0][1]["model"], len(asked)) == ("/v1/chat/completions", "small", 10)
        refusing((f"{address}#small",))
        assert len(asked) == 10
    assert json.loads((tmp_path / "out" / "safety" / "audit.json").read_text())["trusted"] is True


def test_a_judge_that_disagrees_is_not_shown_unless_anyway(refusing):
    with server(lambda text: "refused") as (address, _):
        found = refusing((address,))
        assert len(found.figures["model"]) == 1
        assert found.notes[1].startswith("Do not use judge 1")
        assert "not shown" in found.notes[-1]
        shown = refusing((address,), anyway=True)
        assert len(shown.figures["model"]) == 2
        assert "not to be trusted" in shown.notes[-1]


def test_two_judges_are_held_against_each_other(refusing):
    with server(lambda text: "refused" if "p1" in text else "answered") as (address, _):
        found = refusing((f"{address}#a", f"{address}#b"))
    assert found.notes[1].startswith("Judge 1 can be used: it agrees with judge 2")


def test_answers_that_a_judge_cannot_label_are_counted_apart(refusing):
    with server(lambda text: "well" if "p0" in text else "refused" if "I cannot help" in text else "answered") as (
        a,
        _,
    ):
        found = refusing((a,))
    assert "no usable label to 1 of 10 answers" in " ".join(found.notes)
    assert found.figures["model"][1].interval.n == 9


def test_a_judge_that_does_not_answer_ends_it_with_a_reason(refusing):
    with server(lambda text: None) as (address, _), pytest.raises(BackendError, match="the server answered 500"):
        refusing((address,))
    with pytest.raises(BackendError, match="cannot be reached"):
        refusing(("http://127.0.0.1:9/v1",))


def test_a_win_rate_is_asked_in_both_orders(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"instruction": f"i{n}", "output": "reference"} for n in range(6)])
    model = ScriptedModel(lambda p, s, n: "better" if p.turns[-1].text < "i3" else "worse")
    from isara.judging import Judges

    def prefer(text):
        first = text.partition("Response A:\n")[2].partition("\n")[0]
        return {"better": "A", "worse": "B"}.get(first, "B" if "Response B:\nbetter" in text else "A")

    with server(prefer) as (address, asked):
        options = Options({"alpacaeval": [path]}, judges=Judges((f"{address}#a", f"{address}#b")))
        found = evaluate(scripted(), ["alpacaeval"], tmp_path / "out", options, backend=backend(model))[0]
    assert len(asked) == 24
    assert (found.figures["model"][-1].name, found.figures["model"][-1].interval.mean) == (
        "win rate, says the judge",
        0.5,
    )
    with server(lambda text: "A") as (address, _):
        options = Options({"alpacaeval": [path]}, judges=Judges((address,), anyway=True))
        found = evaluate(scripted(), ["alpacaeval"], tmp_path / "out", options, backend=backend(model))[0]
    assert found.figures["model"][-1].interval.mean == 0.5  # whoever always says A says nothing
    assert rows_of(next((tmp_path / "out").rglob("judge-1/*/labels.jsonl")))[0]["id"]


def test_answers_are_rated_against_the_reference(tmp_path):
    samples = [{"question": f"q{n}", "answer": "good" if n < 5 else "bad"} for n in range(10)]
    path = write(tmp_path / "h.jsonl", samples)
    from isara.judging import Judges

    asked = []

    def rate(text):
        asked.append(text)
        return "5" if "Reference:\ngood" in text else "I say 2."

    with server(rate) as (address, _):
        options = Options({"heldout": [path]}, judges=Judges((f"{address}#a", f"{address}#b")))
        found = evaluate(scripted(), ["heldout"], tmp_path / "out", options, backend=backend(ScriptedModel()))[0]
    assert (found.figures["model"][-1].name, found.figures["model"][-1].interval.mean) == (
        "rating from 1 to 5, says the judge",
        3.5,
    )
    assert "Question:\nq0\n\nReference:\ngood\n\nAnswer:\n" in asked[0]
    with server(rate) as (address, _):
        options = Options({"heldout": [path]}, judges=Judges((address,)))
        found = evaluate(scripted(), ["heldout"], tmp_path / "alone", options, backend=backend(ScriptedModel()))[0]
    assert len(found.figures["model"]) == 3
    assert "there is no second judge and no human label" in " ".join(found.notes)


def test_a_run_is_measured_with_its_own_settings(isara, run):
    ended = isara("eval", run, "--on", "forgetting", "--set", "model.batch_tokens=64")
    assert ended.code == 2
    assert "a run has its own settings" in ended.err


def test_a_dataset_of_the_hub_needs_a_connection(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"no/where:test: there is no such file, and no such dataset can be loaded"):
        read_rows("no/where:test")
