"""lm-evaluation-harness: its TruthfulQA scores are ours on the same prompts, and its tasks run on our models."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")

import tiny  # noqa: E402
from isara.backends.checkpoints import embedded_gguf, locate  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.errors import BackendError, InputError  # noqa: E402
from isara.evals import harness, truthfulqa  # noqa: E402
from isara.evaluate import Options, evaluate, subject_of  # noqa: E402
from isara.settings import Settings  # noqa: E402

# Warnings of the harness and of what it imports are not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("unsynced")]

ITEMS = [
    truthfulqa.Item(
        "1",
        "Can pigs fly?",
        "No, pigs cannot fly",
        ("No, pigs cannot fly", "Pigs stay on the ground", "I have no comment"),
        ("Yes, pigs can fly", "Only on Sundays, when nobody looks"),
    ),
    truthfulqa.Item(
        "2",
        "What colour is the sky at night?",
        "The sky is black at night",
        ("The sky is black at night", "It is dark"),
        ("It is green", "The sky is blue at night; it never changes", "There is no sky"),
    ),
    truthfulqa.Item("3", "Do goldfish forget?", "No", ("No", "Goldfish remember for months"), ("Yes", "In 3 seconds")),
]


@pytest.fixture(autouse=True)
def hushed():
    """The harness logs every step; nobody reads it here."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The harness's own two tasks, but for where their data is."""
    folder = tmp_path_factory.mktemp("tasks")
    docs = [
        {
            "question": item.question,
            "mc1_targets": {"choices": [item.best, *item.false], "labels": [1] + [0] * len(item.false)},
            "mc2_targets": {
                "choices": [*item.true, *item.false],
                "labels": [1] * len(item.true) + [0] * len(item.false),
            },
        }
        for item in ITEMS
    ]
    (folder / "docs.json").write_text(json.dumps(docs), encoding="utf-8")
    found = []
    for name in ("truthfulqa_mc1", "truthfulqa_mc2"):
        path = folder / f"{name}_here.yaml"
        theirs = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa" / f"{name}.yaml"
        path.write_text(
            f"include: {theirs}\ntask: {name}_here\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs:\n  data_files:\n    validation: {folder / 'docs.json'}\n",
            encoding="utf-8",
        )
        found.append(harness.load_task(str(path)))
    return found


def theirs(lm, tasks):
    """The harness's accuracy of each item on both tasks."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = []
    for task in tasks:
        manager = TaskManager(include_defaults=False)
        done = simple_evaluate(lm, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=True)
        samples = next(iter(done["samples"].values()))
        found.append([float(sample["acc"]) for sample in sorted(samples, key=lambda sample: sample["doc_id"])])
    return found


def compare(checkpoint, tasks, noise):
    """
    Hold our scores against the harness's, on our likelihoods and on those of its own model class.

    `noise` is what float32 may do to MC2 where two attentions sum in another order: a trained model has activations
    in the thousands, next to which its logits are small.
    """
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = TransformersModel(checkpoint, device="cpu", dtype="float32")
    ours = truthfulqa.score(model, ITEMS)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    network = AutoModelForCausalLM.from_pretrained(checkpoint.folder).float()
    lm = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, device="cpu")
    for (one, two), most in ((theirs(harness.as_lm(model), tasks), 1e-6), (theirs(lm, tasks), noise)):
        assert one == [float(row["mc1"]) for row in ours]
        assert two == pytest.approx([row["mc2"] for row in ours], abs=most)
    return ours


def test_truthfulqa_is_that_of_the_harness_on_a_tiny_model(tmp_path, tasks):
    values = tiny.PACKABLE["llama"][1] | {"max_position_embeddings": 1024}
    rows = compare(tiny.checkpoint(tmp_path, values=values), tasks, 1e-6)
    assert len({row["mc2"] for row in rows}) == len(ITEMS)


@pytest.mark.real
def test_truthfulqa_is_that_of_the_harness_on_the_real_model(tasks):
    try:
        embedded_gguf()
    except BackendError as error:
        pytest.skip(str(error))
    compare(locate("smollm2-135m"), tasks, 1e-3)


YAML = """\
task: likes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: {kind}
test_split: test
doc_to_text: "Q: {{{{question}}}}\\nA:"
{rest}
metadata:
  version: 1.0
"""
CHOICES = 'doc_to_choice: ["yes", "no"]\ndoc_to_target: gold\nmetric_list:\n  - metric: acc\n'
WRITTEN = (
    'doc_to_target: answer\ngeneration_kwargs:\n  until: ["."]\n  max_gen_toks: 8\n'
    "metric_list:\n  - metric: exact_match\n    aggregation: mean\n    higher_is_better: true\n"
)


def task_file(folder, kind, rest):
    docs = [{"question": f"Is {n} even?", "gold": n % 2, "answer": "yes"} for n in range(6)]
    (folder / "docs.json").write_text(json.dumps(docs), encoding="utf-8")
    path = folder / "likes.yaml"
    path.write_text(YAML.format(data=folder / "docs.json", kind=kind, rest=rest), encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "rest"), [("multiple_choice", CHOICES), ("generate_until", WRITTEN)])
def test_a_task_of_the_harness_is_a_benchmark_like_the_others(tmp_path, kind, rest):
    path = task_file(tmp_path, kind, rest)
    subject = subject_of("scripted", Settings())
    (found,) = evaluate(subject, [f"lm_eval:{path}"], tmp_path / "out", Options({}, limit=4))
    rows = [json.loads(line) for line in Path(found.folder, "model", "rows.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[1]["prompt"] == "Q: Is 1 even?\nA:"
    figure = found.figures["model"][0]
    assert figure.interval.n == 4
    assert figure.interval.mean == pytest.approx(sum(row[figure.name] for row in rows) / 4)


def test_what_the_harness_does_not_know_or_cannot_reach_is_told(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such task, or its data cannot be reached"):
        harness.load_task(str(tmp_path / "nowhere.yaml"))
    rolling = task_file(tmp_path, "loglikelihood_rolling", "doc_to_target: answer\n")
    with pytest.raises(InputError, match="a task of the kind 'loglikelihood_rolling'"):
        harness.benchmark(str(rolling), None)
