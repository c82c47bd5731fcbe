"""What happens when memory runs out: less at once, the same result, and a line that says so."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from isara.backends import memory, training  # noqa: E402
from isara.backends.hf import TransformersModel, load_network  # noqa: E402
from isara.backends.memory import Budget, ran_out  # noqa: E402
from isara.backends.training import TransformersTrainer  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from isara.protocols import Example, Sampling  # noqa: E402
from isara.settings import TrainSettings  # noqa: E402
from test_training import weights_in  # noqa: E402
from tiny import checkpoint  # noqa: E402

NO_ROOM = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
LESSONS = [Example(f"e{i}", f"What is {i}?", "It is " + "long " * i) for i in range(1, 7)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny"))


def small_machine(monkeypatch, most, seen):
    """Let the memory run out in the backward of more than so many tokens, as torch would say it."""
    real = training.packed_loss

    def limited(network, batch, total, soft):
        tokens = sum(len(prompt) + len(completion) for prompt, completion in batch)
        seen.append(tokens)
        part = real(network, batch, total, soft)
        if tokens > most:
            # Half of the gradients are there when it happens.
            part.backward(retain_graph=True)
            raise RuntimeError(NO_ROOM)
        return part

    monkeypatch.setattr(training, "packed_loss", limited)


def trained(base, out):
    trainer = TransformersTrainer(base, TrainSettings(rank=4, batch=6, checks=2), device="cpu", dtype="float32")
    found = trainer.train(LESSONS, LESSONS[:2], steps=4, start=None, out=out, seed=1, watch=lambda step: None)
    return trainer, found, weights_in(out)


def test_training_takes_smaller_parts_and_ends_with_the_same_weights(base, tmp_path, monkeypatch, caplog):
    _, whole, wanted = trained(base, tmp_path / "whole")
    seen = []
    small_machine(monkeypatch, 120, seen)
    trainer, parts, got = trained(base, tmp_path / "parts")
    assert trainer.budget.tokens <= 120 < seen[0]
    assert [step.loss for step in parts.curve] == pytest.approx([step.loss for step in whole.curve], abs=1e-4)
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=2e-3, rtol=0)
    assert f"Memory ran out training on {seen[0]} tokens at once; going on with at most {seen[0] // 2} " in caplog.text
    # Found out once, and not again at every step.
    assert sum(tokens > 120 for tokens in seen) == len(caplog.records)


def test_training_ends_with_one_clear_error_where_a_single_example_does_not_fit(base, tmp_path, monkeypatch):
    small_machine(monkeypatch, 10, [])
    with pytest.raises(BackendError, match=r"Memory ran out training on one text of \d+ tokens .*lower train\.max_tok"):
        trained(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_errors_are_not_taken_for_a_lack_of_memory(base, tmp_path, monkeypatch):
    def broken(network, batch, total, soft):
        raise RuntimeError("The size of tensor a must match")

    monkeypatch.setattr(training, "packed_loss", broken)
    with pytest.raises(RuntimeError, match="must match"):
        trained(base, tmp_path / "out")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(NO_ROOM),
        RuntimeError("unable to mmap 5000 bytes from file <w>: Cannot allocate memory (12)"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("could not create a primitive"),
        RuntimeError(
            "Exception from src/infer_request.cpp:224:\nCheck failed\nFailed to allocate 67110912 bytes of memory"
        ),
        RuntimeError("Exception from src/graph.cpp:1628:\nNode k_proj of type PagedAttentionExtension\ncan't alloc"),
        RuntimeError("Exception from src/inference/src/dev/plugin.cpp:54:\nResource temporarily unavailable"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_torch_says_when_there_is_no_memory_is_known(error):
    assert ran_out(error)


@pytest.mark.parametrize("error", [RuntimeError("expected scalar type"), ValueError("out of memory"), KeyError("x")])
def test_and_what_it_says_otherwise_is_not(error):
    assert not ran_out(error)


def test_writing_and_scoring_take_less_at_once(base, monkeypatch, caplog):
    model = TransformersModel(base, device="cpu", dtype="float32")
    prompts = ["Why?", "What is the moon made of, and who says so?", "How?", "Where is it, by night and by day?"]
    sampling = Sampling(12, temperature=0.7)
    wanted = model.complete(prompts, sampling, seeds=[1, 2, 3, 4])
    pairs = [(prompt, "Because it is so.") for prompt in prompts]
    scores = model.score(pairs)
    real = model.network.forward
    seen = []

    def forward(*args, **options):
        seen.append(options["input_ids"].shape[1])
        # Decoding gets some way before it happens, so that half-written lanes would show.
        if seen[-1] > 70 or (len(seen) == 4 and seen[-1] > 1):
            raise RuntimeError(NO_ROOM)
        return real(*args, **options)

    monkeypatch.setattr(model.network, "forward", forward)
    again = model.complete(prompts, sampling, seeds=[1, 2, 3, 4])
    assert [done.text for done in again] == [done.text for done in wanted]
    small = model.score(pairs)
    assert [one.total for one in small] == pytest.approx([one.total for one in scores], abs=1e-4)
    assert "going on with at most" in caplog.text
    assert model.with_adapter(base.folder).budget is model.budget


def test_a_single_text_that_is_too_much_is_an_error_that_says_what_to_lower():
    budget = Budget(100, "writing")
    with pytest.raises(BackendError, match=r"writing one text of 40 tokens \(no more\).*lower answers\.max_tokens"):
        budget.work([40], lambda group: (_ for _ in ()).throw(MemoryError("no more")))


def test_a_model_that_does_not_fit_is_said_in_one_sentence(base, monkeypatch):
    import transformers

    def full(*args, **options):
        raise RuntimeError(NO_ROOM)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(BackendError, match="not enough memory to load this model"):
        load_network(base.folder, torch.device("cpu"), torch.float32)


LIMITED = """
import logging, resource, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from tiny import checkpoint
from isara.backends.training import TransformersTrainer
from isara.protocols import Example
from isara.settings import TrainSettings
logging.basicConfig(level=logging.WARNING, format="%(message)s")
out = Path(sys.argv[2])
base = checkpoint(out / "model")
lessons = [Example(f"e{i}", "What is it?", "long " * 150) for i in range(8)]
trainer = TransformersTrainer(base, TrainSettings(rank=4, batch=8, max_tokens=2048), device="cpu", dtype="float32")
trainer.budget.tokens = 100000
train = lambda name, steps: trainer.train(lessons, [], steps=steps, start=None, out=out / name, seed=1,
    watch=lambda step: None)
trainer.settings = trainer.settings.model_copy(update={"batch": 1})
train("warm", 1)
trainer.settings = trainer.settings.model_copy(update={"batch": 8})
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
limit = used + int(sys.argv[3]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
train("out", 2)
print("trained with", trainer.budget.tokens)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here to see how much is in use")
def test_a_limit_of_the_system_is_met_in_the_same_way(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(Path(__file__).parent), str(tmp_path), "60"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Memory ran out training on" in done.stderr
    assert int(done.stdout.split()[-1]) < 100000
    assert (tmp_path / "out").is_dir()


def test_what_a_backend_warns_of_is_told_once_and_logged(small, tmp_path, monkeypatch):
    from isara import align
    from isara.testing import ScriptedModel

    real = ScriptedModel.score

    def warning(self, pairs, **more):
        logging.getLogger("isara.backends.memory").warning("Memory ran out %s.", "here")
        return real(self, pairs, **more)

    monkeypatch.setattr(ScriptedModel, "score", warning)
    heard = []
    align(str(small.seeds), out=tmp_path / "run", model="scripted", settings=small.settings, watch=heard.append)
    told = [event for event in heard if event.kind == "say" and "Memory ran out here." in event.data["text"]]
    assert told
    assert {event.data["level"] for event in told} == {"warning"}
    assert (tmp_path / "run" / "events.jsonl").read_text().count("Memory ran out here.") == len(told)


def resident():
    """Return the memory of this process in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked to give memory back")
def test_what_was_freed_below_something_that_is_in_use_goes_back_to_the_system():
    # Pieces below glibc's threshold for pages of their own; the last one in use keeps it from giving back the others.
    pieces = [bytearray(b"x" * 60_000) for _ in range(4000)]
    last = pieces[-1]
    full = resident()
    del pieces
    memory.give_back()
    assert resident() < full - 150
    assert len(last) == 60_000


def test_a_c_library_that_gives_nothing_back_is_left_alone(monkeypatch):
    asked = []

    def absent(name):
        asked.append(name)
        raise OSError(name)

    monkeypatch.setattr(memory.ctypes, "CDLL", absent)
    memory.give_back()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: asked.append(name) or object())
    memory.give_back()
    assert asked == ["libc.so.6"] * 2
