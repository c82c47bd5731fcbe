"""OpenVINO on tiny models: what it computes is what transformers computes, whatever shares the batch."""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openvino")

from safetensors.torch import load_file, save_file  # noqa: E402

from isara.backends import decode, openvino, openvino_export, openvino_graph, openvino_session  # noqa: E402
from isara.backends.adapter import adapt, state_of, write_adapter  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.openvino import OpenVinoModel  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from isara.protocols import Chat, Sampling, Turn  # noqa: E402
from tiny import PACKABLE, configuration, hashed, network  # noqa: E402

PROMPTS = [
    Chat((Turn("user", "Do goldfish have a memory of three seconds?"),)),
    Chat((Turn("user", "Do goldfish have a memory of three seconds?"), Turn("assistant", "No."), Turn("user", "Why?"))),
    Chat((Turn("user", "Do goldfish have a memory of three seconds?"), Turn("assistant", "No, for months."))),
    "Question: Why does the moon look larger near the horizon? Answer:",
    "Question: Why does the moon look larger near the horizon? It is",
    "The",
]
ANSWERS = [
    "No, goldfish remember things for months.",
    "It is an illusion: it has the same size",
    " a ",
    "The moon",
    "A",
    "",
]
GREEDY = Sampling(12)
DRAWN = Sampling(12, temperature=0.9, top_p=0.9)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("ISARA_CACHE", str(cache))


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return hashed(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def both(llama, own_cache):
    return TransformersModel(llama, dtype="float32"), OpenVinoModel(llama, dtype="float32")


def same(theirs, ours, sampling=DRAWN):
    """Texts, ends and likelihoods of the two engines agree; returns what they wrote."""
    seeds = range(40, 40 + len(PROMPTS))
    wanted, found = (model.complete(PROMPTS, sampling, seeds=seeds) for model in (theirs, ours))
    assert [(c.text, c.tokens, c.finished) for c in found] == [(c.text, c.tokens, c.finished) for c in wanted]
    assert [c.likelihood is None for c in found] == [c.likelihood is None for c in wanted]
    logs = [[c.likelihood.total for c in part if c.likelihood] for part in (found, wanted)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-3)
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    scores = [[(s.total, s.tokens) for s in model.score(pairs)] for model in (ours, theirs)]
    assert [tokens for _, tokens in scores[0]] == [tokens for _, tokens in scores[1]]
    assert [total for total, _ in scores[0]] == pytest.approx([total for total, _ in scores[1]], abs=1e-3)
    return [c.text for c in found]


@pytest.mark.parametrize("name", ["llama with tied weights", "llama 3 positions", "qwen2", "phi"])
def test_both_engines_say_the_same(name, tmp_path):
    model = hashed(tmp_path, name)
    assert len(set(same(TransformersModel(model, dtype="float32"), OpenVinoModel(model, dtype="float32")))) > 3


def test_greedily_too_and_up_to_a_stop_string(both):
    texts = same(*both, GREEDY)
    stop = texts[0][2:4]
    cut = same(*both, Sampling(12, stop=(stop,)))
    assert cut[0] == texts[0][: texts[0].index(stop)]


@pytest.mark.parametrize("engine", [0, 1])
@pytest.mark.parametrize(("prompt", "answer"), [*zip(PROMPTS[:2], ANSWERS[:2], strict=True)])
def test_what_is_noted_while_writing_is_what_is_told_of_the_text(both, engine, prompt, answer, monkeypatch):
    """Also of the end of a turn, which is one of the places that a model decides. What it writes is given here."""
    model = both[engine]
    tokens = [*model.encoder.completion(prompt, answer), model.encoder.end]

    def written(length, k=6):
        left = iter(tokens)
        for module in (decode, openvino):
            monkeypatch.setattr(module, "pick", lambda *_: (torch.tensor([next(left)]), torch.tensor([-1.0])))
        (done,) = model.complete([prompt], Sampling(length, top_tokens=k), seeds=[0])
        return done

    (told,) = model.distributions([(prompt, answer)], 6)
    noted = written(len(tokens)).targets
    assert noted.tokens == told.tokens
    np.testing.assert_allclose(noted.probabilities, told.probabilities, atol=2e-3)
    assert (noted.ids == told.ids).mean() > 0.9
    cut = written(len(tokens) - 1)
    assert not cut.finished
    assert cut.targets is None, "nobody looked at the end of the turn"
    assert written(len(tokens), k=0).targets is None


@pytest.mark.parametrize("engine", [0, 1])
def test_what_is_noted_while_scoring_is_what_is_told_of_the_text(both, engine):
    model = both[engine]
    pairs = [*zip(PROMPTS, ANSWERS, strict=False), (PROMPTS[0], "")]
    plain, noting, told = model.score(pairs), model.score(pairs, top_tokens=6), model.distributions(pairs, 6)
    assert [each.tokens for each in noting] == [each.tokens for each in plain]
    assert [each.total for each in noting] == pytest.approx([each.total for each in plain], abs=1e-3)
    assert {each.targets for each in plain} == {None}
    for (prompt, answer), each, one in zip(pairs, noting, told, strict=True):
        if each.targets is None:
            # After plain text no end of a turn is asked for, and a text of no tokens has no places.
            assert not answer
            assert not isinstance(prompt, Chat)
            continue
        assert each.targets.tokens == one.tokens
        np.testing.assert_allclose(each.targets.probabilities, one.probabilities, atol=2e-3)
        assert (each.targets.ids == one.ids).mean() > 0.9


def test_a_completion_does_not_depend_on_its_neighbours(both, monkeypatch):
    _, model = both
    seeds = list(range(len(PROMPTS)))
    together = model.complete(PROMPTS, DRAWN, seeds=seeds)
    assert model.complete(PROMPTS, DRAWN, seeds=seeds) == together
    alone = [model.complete([prompt], DRAWN, seeds=[seed])[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert [c.text for c in alone] == [c.text for c in together]
    turned = model.complete(PROMPTS[::-1], DRAWN, seeds=seeds[::-1])[::-1]
    assert [c.text for c in turned] == [c.text for c in together]
    monkeypatch.setattr(openvino_session, "_MOST_TOKENS", 30)
    assert [c.text for c in model.complete(PROMPTS, DRAWN, seeds=seeds)] == [c.text for c in together]


def test_with_room_for_few_they_wait_for_each_other(llama):
    seeds = range(len(PROMPTS))
    wanted = OpenVinoModel(llama, dtype="float32").complete(PROMPTS, DRAWN, seeds=seeds)
    narrow = OpenVinoModel(llama, dtype="float32", batch_tokens=64)
    assert [c.text for c in narrow.complete(PROMPTS, DRAWN, seeds=seeds)] == [c.text for c in wanted]
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    scores = [[s.total for s in m.score(pairs)] for m in (narrow, OpenVinoModel(llama, dtype="float32"))]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_what_prompts_share_is_computed_once(llama, monkeypatch):
    model = OpenVinoModel(llama, dtype="float32")
    computed = []
    run = openvino_graph.Runner.run
    monkeypatch.setattr(
        openvino_graph.Runner, "run", lambda self, batch: computed.append(len(batch.tokens)) or run(self, batch)
    )
    prompt = " ".join(PROMPTS[3:5]) * 2
    pairs = [(prompt, answer) for answer in ANSWERS[:4]]
    apart = [model.score([pair])[0].total for pair in pairs]
    alone, computed[:] = sum(computed), []
    assert [s.total for s in model.score(pairs)] == pytest.approx(apart, abs=1e-4)
    assert sum(computed) < alone / 2


def adapter(folder, llama, seed):
    made = network(configuration(*PACKABLE["llama"][:2]))
    layers = adapt(made, 4, 6.0, seed)
    with torch.no_grad():
        for layer in layers.values():
            layer.b.copy_(torch.randn(layer.b.shape, generator=torch.Generator().manual_seed(seed)) * 0.3)
    write_adapter(folder, state_of(layers), base="tiny", rank=4, alpha=6.0)
    return folder


def test_adapters_are_worn_and_changed_without_another_conversion(both, llama, tmp_path, monkeypatch):
    theirs, ours = both
    one, two = adapter(tmp_path / "one", llama, 1), adapter(tmp_path / "two", llama, 2)
    monkeypatch.setattr(openvino_export, "export", None)
    bare = same(theirs, ours)
    worn = [same(theirs.with_adapter(folder), ours.with_adapter(folder)) for folder in (one, two, one)]
    assert worn[0] == worn[2] != worn[1] != bare != worn[0]
    assert same(theirs, ours.with_adapter(one).with_adapter(None)) == bare


def test_two_models_that_wear_different_adapters_take_turns(both, llama, tmp_path):
    _, ours = both
    one, two = (ours.with_adapter(adapter(tmp_path / str(seed), llama, seed)) for seed in (1, 2))
    first = [model.complete(PROMPTS, GREEDY, seeds=[0] * 6) for model in (one, two)]
    assert [model.complete(PROMPTS, GREEDY, seeds=[0] * 6) for model in (one, two)] == first


def test_an_adapter_of_another_model_is_refused(both, llama, tmp_path):
    folder = adapter(tmp_path / "strange", llama, 1)
    state = load_file(folder / "adapter_model.safetensors")
    save_file({key.replace("q_proj", "nose"): t for key, t in state.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(BackendError, match=r"no layer 'model\.layers\.0\.self_attn\.nose'"):
        both[1].with_adapter(folder).complete(["The"], GREEDY, seeds=[0])


def test_a_fully_tuned_model_is_converted_and_leaves_nothing(both, cache, tmp_path):
    theirs, ours = both
    network(configuration(*PACKABLE["llama"][:2]), seed=7).save_pretrained(tmp_path / "tuned")
    before = sorted(path for path in cache.rglob("*") if path.is_file())
    tuned = same(theirs.with_adapter(tmp_path / "tuned"), ours.with_adapter(tmp_path / "tuned"))
    assert tuned != same(theirs, ours)
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == before


def test_no_adapter_at_all_is_said(both, tmp_path):
    with pytest.raises(BackendError, match="no readable adapter_config"):
        both[1].with_adapter(tmp_path).score([("The", "moon")])


def test_eight_bits_are_near_and_not_the_same(llama):
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    full, small = (
        [s.nll for s in OpenVinoModel(llama, dtype="float32", int8=int8).score(pairs)] for int8 in (False, True)
    )
    assert small != full
    assert small == pytest.approx(full, abs=0.2)


def test_the_graph_is_read_and_rounded_once_whatever_is_worn(llama, tmp_path, monkeypatch):
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    worn = [None, adapter(tmp_path / "one", llama, 1), adapter(tmp_path / "two", llama, 2), None]
    apart = [OpenVinoModel(llama, dtype="float32", int8=True).with_adapter(folder).score(pairs) for folder in worn]
    calls = []
    for name in ("read_graph", "compress"):
        real = getattr(openvino_session, name)
        monkeypatch.setattr(openvino_session, name, lambda *a, n=name, r=real, **k: calls.append(n) or r(*a, **k))
    model = OpenVinoModel(llama, dtype="float32", int8=True)
    assert [model.with_adapter(folder).score(pairs) for folder in worn] == apart
    assert calls == ["read_graph", "compress"]
    assert apart[0] != apart[1] != apart[2]


def test_a_checkpoint_is_converted_once(llama, monkeypatch):
    file = openvino_export.exported(llama)
    monkeypatch.setattr(openvino_export, "export", None)
    assert openvino_export.exported(llama) == file
    assert json.loads((file.parent / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("mistral", {}, "it has a sliding window"),
        ("qwen3 moe", {}, "aten::histc"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "length of the text",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused_in_a_sentence(name, more, why, tmp_path, cache):
    before = sorted(path for path in cache.rglob("*") if path.is_file())
    with pytest.raises(BackendError, match=why) as refused:
        OpenVinoModel(hashed(tmp_path, name, **more))
    assert str(refused.value).endswith("Set model.engine='transformers' (--engine transformers).")
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == before


def test_a_conversion_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    real = openvino_export.attend
    monkeypatch.setattr(
        openvino_export, "attend", lambda *args, scaling, **more: real(*args, scaling=scaling * 2, **more)
    )
    with pytest.raises(BackendError, match="next-token probabilities move by"):
        OpenVinoModel(hashed(tmp_path, head_dim=16))


# --- memory, and positions that have an end --------------------------------------------------------------------------

NO_ROOM = "Exception from src/inference/src/cpp/infer_request.cpp:224:\nFailed to allocate 67110912 bytes of memory"
PAIRS = list(zip(PROMPTS, ANSWERS, strict=True))


def texts_and_scores(model):
    written = model.complete(PROMPTS, DRAWN, seeds=range(len(PROMPTS)))
    return [c.text for c in written], [s.total for s in model.score(PAIRS)]


def test_where_memory_runs_out_there_is_less_at_once_and_the_same_result(llama, monkeypatch, caplog):
    texts, scores = texts_and_scores(OpenVinoModel(llama, dtype="float32"))
    model = OpenVinoModel(llama, dtype="float32", batch_tokens=1024)
    real, seen = openvino_graph.Runner.run, []

    def limited(self, batch):
        seen.append(len(batch.tokens))
        # Decoding gets some way before it happens, so that half-written lanes would show.
        if seen[-1] > 60 or len(seen) == 9:
            raise RuntimeError(NO_ROOM)
        return real(self, batch)

    monkeypatch.setattr(openvino_graph.Runner, "run", limited)
    fewer = texts_and_scores(model)
    assert fewer[0] == texts
    assert fewer[1] == pytest.approx(scores, abs=1e-4)
    assert seen[0] > 60
    assert 1 < model.opened.room.budget.tokens < 1024
    assert "Memory ran out writing or scoring 1024 tokens at once; going on with at most 512 at once." in caplog.text


def test_where_there_is_no_room_for_the_pages_there_are_fewer(both, llama, tmp_path, monkeypatch, caplog):
    tuned = OpenVinoModel(llama, dtype="float32", batch_tokens=4096).with_adapter(adapter(tmp_path, llama, 1))
    wanted = texts_and_scores(both[1].with_adapter(tuned.adapter))
    real = openvino_graph.Runner.new_pages

    def limited(self, count):
        if count * self.page_size > 1000:
            raise MemoryError("std::bad_alloc")
        return real(self, count)

    monkeypatch.setattr(openvino_graph.Runner, "new_pages", limited)
    found = texts_and_scores(tuned)
    assert found[0] == wanted[0]
    assert found[1] == pytest.approx(wanted[1], abs=1e-4)
    assert tuned.opened.room.budget.tokens <= 1000
    assert [record.args[1:] for record in caplog.records] == [(4096, 2048), (2048, 1024), (1024, 512)]


def test_pages_are_given_back_after_every_call_also_one_that_failed(llama, tmp_path, monkeypatch):
    held, real = [], openvino_graph.Runner.new_pages
    # Converted before pages are counted: a conversion is tried out with pages of its own.
    bare = OpenVinoModel(llama, dtype="float32")

    def counted(self, count):
        pages = real(self, count)
        if count:
            held.append(weakref.ref(pages[0]))
        return pages

    monkeypatch.setattr(openvino_graph.Runner, "new_pages", counted)
    tuned = bare.with_adapter(adapter(tmp_path, llama, 1))
    first = [texts_and_scores(model) for model in (bare, tuned)]
    assert [texts_and_scores(model) for model in (bare, tuned)] == first
    # Two calls of two models, twice.
    assert [pages() for pages in held] == [None] * 8
    monkeypatch.setattr(openvino_graph.Runner, "run", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bare.score(PAIRS)
    assert [pages() for pages in held] == [None] * 9


def test_a_single_text_that_is_too_much_is_said_to_be(llama, monkeypatch):
    model = OpenVinoModel(llama, dtype="float32", batch_tokens=128)

    def full(self, batch):
        raise MemoryError

    monkeypatch.setattr(openvino_graph.Runner, "run", full)
    with pytest.raises(BackendError, match=r"writing or scoring one text of \d+ tokens \(no more memory\)"):
        model.score(PAIRS)
    with pytest.raises(BackendError, match=r"lower answers\.max_tokens, or take a smaller model"):
        model.complete(PROMPTS, DRAWN, seeds=range(len(PROMPTS)))


def test_other_errors_are_not_taken_for_a_lack_of_memory(llama, monkeypatch):
    model = OpenVinoModel(llama, dtype="float32")
    model.score(PAIRS)

    def broken(self, batch):
        raise RuntimeError("The shape of the input is another")

    with monkeypatch.context() as patch:
        patch.setattr(openvino_graph.Runner, "run", broken)
        with pytest.raises(RuntimeError, match="another"):
            model.score(PAIRS)
    assert model.score(PAIRS)[0].tokens


def test_a_model_that_cannot_be_compiled_for_want_of_memory_is_said_in_one_sentence(llama, monkeypatch):
    def full(graph, number_format):
        raise RuntimeError(NO_ROOM)

    monkeypatch.setattr(openvino_session, "Runner", full)
    with pytest.raises(BackendError, match="not enough memory to load this model"):
        OpenVinoModel(llama, dtype="float32").score(PAIRS)


LIMITED = """
import dataclasses, logging, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from isara.backends.checkpoints import Checkpoint
from isara.backends.openvino import OpenVinoModel
from isara.protocols import Sampling
logging.basicConfig(level=logging.WARNING, format="%(message)s")
model = OpenVinoModel(Checkpoint("tiny", Path(sys.argv[2]), None, sys.argv[3]), dtype="float32", batch_tokens=128)
ask = lambda: model.complete(["The moon", "Goldfish"], Sampling(8), seeds=[0, 0])
first = ask()
model.opened.room.budget.tokens = model.opened.room.budget.first = 1 << 21
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
limit = used + int(sys.argv[4]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert [c.text for c in ask()] == [c.text for c in first]
print("done with", model.opened.room.budget.tokens)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to see how much is in use")
def test_a_limit_of_the_system_is_met_in_the_same_way(llama):
    words = [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(llama.folder), llama.sha256, "100"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Memory ran out writing or scoring 2097152 tokens at once" in done.stderr
    assert int(done.stdout.split()[-1]) < 1 << 21


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_a_text_beyond_the_last_learned_position_is_refused(name, tmp_path):
    model = OpenVinoModel(hashed(tmp_path, name), dtype="float32")
    short, long = "x" * 200, "x" * 300
    length = len(model.encoder.prompt(short))
    assert len(model.complete([short], Sampling(256 - length), seeds=[0])) == 1
    with pytest.raises(BackendError, match=r"257 tokens, and this model has learned 256 positions\. Show few"):
        model.complete([short], Sampling(257 - length), seeds=[0])
    for ask in (model.score, lambda pairs: model.distributions(pairs, 2)):
        assert len(ask([(short, "y")])) == 1
        with pytest.raises(BackendError, match="has learned 256 positions"):
            ask([(long, "y")])


@pytest.mark.parametrize(("dtype", "mark"), [("bfloat16", "BF16"), ("float16", "FP16")])
def test_a_number_format_that_this_cpu_does_not_compute_in_is_refused_before_anything_is_loaded(
    dtype, mark, llama, monkeypatch
):
    has = ["FP32", "INT8", mark]
    monkeypatch.setattr("openvino.Core.get_property", lambda self, device, name: has)
    OpenVinoModel(llama, dtype=dtype)
    has.remove(mark)
    with pytest.raises(BackendError, match=f"does not compute in {dtype} on this CPU. Set model.dtype='auto'"):
        OpenVinoModel(llama, dtype=dtype)
    OpenVinoModel(llama, dtype="float32")
