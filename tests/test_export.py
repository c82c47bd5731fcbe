"""The tuned model as a checkpoint of its own: what it holds, how it is asked, and that a changed one is noticed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from isara import align
from isara.backends.hf import TransformersModel
from isara.backends.merged import add_adapter, matching_template, write_merged
from isara.backends.outside import Asked, agreement, coarser, hear
from isara.backends.template import Encoder
from isara.errors import BackendError, GenerationError, RunError, SettingsError
from isara.export import Exported, export
from isara.heldout import bare_prompt
from isara.protocols import Chat, Sampling, Turn
from isara.samples import read_jsonl

OPENED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"default system prompt": tiny.CHATML, "no system prompt": OPENED}
SETTINGS = (
    "rounds=1",
    "model.embedder='hash'",
    # In bfloat16 a model of noise, whose best tokens are nearly equally likely, answers otherwise after any rounding.
    "model.dtype='float32'",
    "target.accepted=4",
    "target.batch=16",
    "questions.max_tokens=12",
    "answers.max_tokens=12",
    "train.epochs=0.5",
    "train.checks=1",
    "train.learning_rate=0.02",
    "filter.topic=-1",
    "filter.confidence=99",
    "filter.gain=-99",
    "filter.repetition=1",
)


@pytest.fixture(scope="module")
def tuned(small, tmp_path_factory):
    """A run of a tiny model, with an arm tuned on the seeds."""
    home = tmp_path_factory.mktemp("export")
    checkpoint = tiny.checkpoint(home / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        # What a model of noise writes may all be dropped; the arm before it is there all the same.
        with contextlib.suppress(GenerationError):
            align(str(small.seeds), out=home / "run", model=str(checkpoint.folder), settings=SETTINGS)
    assert (home / "run" / "seeds-only" / "done.json").exists()
    return home / "run"


@pytest.fixture
def run(tuned, tmp_path):
    return shutil.copytree(tuned, tmp_path / "run")


def test_an_export_says_the_same_to_whoever_loads_it_with_transformers(run, tmp_path):
    done = export(run, tmp_path / "out", arm="seeds-only")
    assert done.same
    assert "still says the same" in done.words
    assert done.nll == pytest.approx(done.recorded_nll, abs=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    recorded = read_jsonl(run / "seeds-only" / "answers.jsonl")[0]
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": recorded["question"]}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    row = network.generate(asked, do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=0)[0]
    assert tokenizer.decode(row[asked.shape[1] :], skip_special_tokens=True).strip() == recorded["answer"]


def test_an_export_keeps_every_answer_and_tells_how_to_ask(run, tmp_path):
    done = export(run, tmp_path / "out", arm="seeds-only")
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert written["same"] is True
    assert [row["id"] for row in written["rows"]] == [r["id"] for r in read_jsonl(run / "heldout.jsonl")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.words in card
    assert "without a system prompt none is added" in card


def test_a_model_that_says_something_else_is_noticed(run, tmp_path, isara):
    """The run's adapter is exchanged after its answers were recorded."""
    weights = run / "seeds-only" / "adapter" / "adapter_model.safetensors"
    state = {name: tensor + 0.3 for name, tensor in load_file(weights).items()}
    save_file(state, weights, metadata={"format": "pt"})
    told = isara("export", run, tmp_path / "out", "--arm", "seeds-only", "--dtype", "float32")
    assert told.code == 1
    assert "does NOT say the same" in told.out
    assert json.loads((tmp_path / "out" / "export.json").read_text())["same"] is False


@pytest.mark.parametrize(
    ("agreement", "drift", "eight_bits", "same"),
    [
        (0.95, 0, False, True),
        (0.94, 0, False, False),
        (0.9, 0, True, True),
        (0.89, 0, True, False),
        (1, 0.03, True, False),
    ],
)
def test_less_agreement_is_asked_for_where_the_run_wrote_with_weights_in_8_bits(agreement, drift, eight_bits, same):
    done = Exported(
        Path("out"), "round-1", "float32", 6, 0.5, agreement, 2, 2.0 + drift, 2.0, (), eight_bits=eight_bits
    )
    assert done.same == same
    assert ("in 8 bits, so 90% are asked for" in done.words) == eight_bits


@pytest.mark.parametrize(
    ("spacing", "close"),
    [("float32", 2), ("bfloat16", 3), ("float16", 2)],
)
def test_a_token_that_rounding_could_have_put_first_counts_as_one(spacing, close):
    """The first two tokens are the first choice, the third is 0.1 behind a logit of 20, the last far behind."""
    logits = torch.full((5, 8), -3.0)
    logits[0, 4], logits[1, 5], logits[2, 6], logits[2, 1], logits[3, 7], logits[3, 2] = 20, -1, 19.9, 20, 15, 20

    class Network:
        device = torch.device("cpu")

        def __call__(self, input_ids):
            return SimpleNamespace(logits=logits[None])

    found = agreement(Network(), [0], [4, 5, 6, 7], torch.finfo(getattr(torch, spacing)).eps)
    assert found == (2, close)
    assert agreement(Network(), [0], [], 1.0) == (0, 0)


def test_the_format_that_rounds_the_most_sets_how_close_is_close():
    assert coarser("float32", "bfloat16") == coarser("bfloat16", "float16") == "bfloat16"
    assert coarser("float32", "float16") == "float16"


@pytest.mark.parametrize("where", ["chosen for the CPU", "asked for", None])
def test_whether_a_run_wrote_with_weights_in_8_bits_is_read_from_its_manifest(run, tmp_path, where):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["model"] |= {"weights": "int8"} if where == "chosen for the CPU" else {}
    manifest["settings"]["model"]["weights"] = "int8" if where == "asked for" else "full"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert export(run, tmp_path / "out", arm="seeds-only").eight_bits == (where is not None)


def test_weights_that_lose_too_much_in_16_bits_are_written_in_32(run, tmp_path, monkeypatch):
    monkeypatch.setattr("isara.backends.merged.stored_format", lambda folder: torch.bfloat16)
    monkeypatch.setattr("isara.export.DRIFT", 1e-5)
    done = export(run, tmp_path / "out", arm="seeds-only")
    assert done.dtype == "float32"
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_what_cannot_be_exported_is_refused_in_words(run, finished, tmp_path, isara):
    with pytest.raises(RunError, match="no finished arm 'round-9'"):
        export(run, tmp_path / "out", arm="round-9")
    with pytest.raises(RunError, match="no weights of its own"):
        export(run, tmp_path / "out", arm="retrieved")
    with pytest.raises(SettingsError, match="stand-in"):
        export(finished, tmp_path / "out")
    with pytest.raises(BackendError, match=r"--dtype.*'int3'"):
        export(run, tmp_path / "out", arm="seeds-only", dtype="int3")
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match="already there"):
        export(run, tmp_path / "there", arm="seeds-only")
    assert not (tmp_path / "out").exists()


def test_another_base_model_under_the_same_name_is_refused(run, tmp_path):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="not the files that this run was made with"):
        export(run, tmp_path / "out", arm="seeds-only")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_template_that_goes_along_asks_as_the_tuning_did(name):
    tokenizer = tiny.tokenizer(TEMPLATES[name], bos="<|endoftext|>")
    template = Encoder(tokenizer).template
    before = tokenizer.chat_template
    tokenizer.chat_template = matching_template(tokenizer, template)
    turns = (Turn("user", "Hello {{ 1 }}?"), Turn("assistant", 'She said "no".'), Turn("user", "Why?\n"))
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    shown = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert shown == "".join(text for text, _ in template.pieces(Chat(turns)))
    assert "lighthouse" not in shown
    system = [{"role": "system", "content": "Be brief."}, *messages]
    theirs = tiny.tokenizer(before, bos="<|endoftext|>")
    assert tokenizer.apply_chat_template(system, tokenize=False) == theirs.apply_chat_template(system, tokenize=False)


def test_a_template_that_would_ask_something_else_is_refused(tmp_path):
    checkpoint = tiny.checkpoint(tmp_path / "model")
    item = Asked(bare_prompt("Why?", chat=True), "Why?", "Because.", "So.", finished=True)
    with pytest.raises(BackendError, match="does not give the prompt"):
        hear(checkpoint.folder, [item], max_tokens=4)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "opt", "llama with tied weights"])
def test_a_merged_model_gives_what_the_adapter_gives(kind, tmp_path):
    from isara.backends.adapter import adapt, state_of, write_adapter

    model_type, values, _ = tiny.PACKABLE[kind]
    checkpoint = tiny.checkpoint(tmp_path / "model", model_type, values)
    model = TransformersModel(checkpoint, dtype="float32")
    adapted = adapt(TransformersModel(checkpoint, dtype="float32").network, 4, 8.0, 3)
    generator = torch.Generator().manual_seed(5)
    for layer in adapted.values():
        layer.b.data = torch.randn(layer.b.shape, generator=generator) * 0.2
    write_adapter(tmp_path / "adapter", state_of(adapted), base="tiny", rank=4, alpha=8.0)
    wearing = model.with_adapter(tmp_path / "adapter")
    assert write_merged(checkpoint, tmp_path / "adapter", tmp_path / "out", "auto") == "float32"
    merged = TransformersModel(tiny.Checkpoint("tiny", tmp_path / "out", None, ""), dtype="float32")
    pairs = [(bare_prompt("Why is the moon large?", chat=True), "It is not, it is an illusion.")]
    bare, worn, done = (each.score(pairs)[0].total for each in (model, wearing, merged))
    assert done == pytest.approx(worn, abs=1e-3)
    assert abs(bare - worn) > 0.1
    sampling = Sampling(12)
    prompts = [pairs[0][0]]
    assert (
        merged.complete(prompts, sampling, seeds=[0])[0].text == wearing.complete(prompts, sampling, seeds=[0])[0].text
    )


def test_an_adapter_for_other_layers_is_refused(tmp_path):
    from isara.backends.adapter import write_adapter

    state = {f"base_model.model.nowhere.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}
    write_adapter(tmp_path / "adapter", state, base="tiny", rank=2, alpha=2.0)
    with pytest.raises(BackendError, match="a layer 'nowhere'"):
        add_adapter(tiny.pair("llama")[0], tmp_path / "adapter")
