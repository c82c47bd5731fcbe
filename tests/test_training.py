import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors import SafetensorError  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from isara.backends import adapter, hf, savepoints, training  # noqa: E402
from isara.backends.adapter import read_state  # noqa: E402
from isara.backends.drawing import draw_order  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.savepoints import Progress, Savepoint  # noqa: E402
from isara.backends.training import (  # noqa: E402
    TransformersTrainer,
    check_steps,
    schedule,
)
from isara.errors import BackendError, RunError  # noqa: E402
from isara.passages import as_replay  # noqa: E402
from isara.protocols import Chat, Example, Sampling, Step, Turn  # noqa: E402
from isara.settings import TrainSettings  # noqa: E402
from tiny import checkpoint  # noqa: E402

METHODS = ("lora", "full")


def asked(question):
    return Chat((Turn("user", question),))


LESSONS = [
    Example("seed-1", asked("Does the moon grow?"), "It does not."),
    Example("seed-2", asked("Do goldfish forget?"), "No, for months."),
    Example("seed-3", asked("Is the night short?"), "The same all year."),
    Example("seed-4", "Question: Why?\nAnswer:", "Because."),
]
EXAM = [
    Example("held-1", asked("Does the moon forget?"), "It does not."),
    Example("held-2", "Question: Why not?\nAnswer:", "Because."),
]
# The first lesson is the exam; learning it better and better, the rest is forgotten.
OTHER_EXAM = [Example("held-3", asked("Does the moon grow?"), "Bananas, obviously.")]


def settings(**given):
    chosen = {"rank": 4, "alpha": 8.0, "learning_rate": 0.01, "batch": 2, "checks": 3, "checkpoint": 3}
    return TrainSettings(**(chosen | given))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny"))


def trainer_of(base, dtype="float32", **given):
    return TransformersTrainer(base, settings(**given), device="cpu", dtype=dtype)


def train(base, out, *, steps=8, start=None, examples=LESSONS, heldout=EXAM, watch=lambda step: None, seed=1, **given):
    trainer = trainer_of(base, **given)
    return trainer.train(examples, heldout, steps=steps, start=start, out=out, seed=seed, watch=watch)


def model_of(base, adapter=None, dtype="float32"):
    return TransformersModel(base, device="cpu", dtype=dtype, adapter=adapter)


def weights_in(folder):
    return load_file(next(folder.glob("*.safetensors")))


def nlls(model, examples):
    return [one.nll for one in model.score([(e.prompt, e.completion) for e in examples])]


# What is learned.


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_on_becomes_likely_and_ends_by_itself(method, tmp_path):
    # Wide apart, so that the frozen head can be sure of a token.
    base = checkpoint(tmp_path / "base", spread=0.4)
    given = {"lora": {"rank": 16, "alpha": 32.0, "learning_rate": 0.02}, "full": {"learning_rate": 0.005}}[method]
    trained = train(base, tmp_path / "out", steps=60, method=method, batch=4, heldout=[], **given)
    losses = [step.loss for step in trained.curve]
    assert losses[-1] < 0.2 < 2 < losses[0]
    bare, tuned = model_of(base), model_of(base, tmp_path / "out")
    prompts = [lesson.prompt for lesson in LESSONS]
    before = bare.complete(prompts, Sampling(24), seeds=[0] * 4)
    after = tuned.complete(prompts, Sampling(24), seeds=[0] * 4)
    assert [done.text.strip() for done in after] == [lesson.completion for lesson in LESSONS]
    assert all(done.finished for done in after)
    assert not any(done.finished for done in before)


def test_the_end_of_the_turn_is_part_of_what_is_learned(base):
    trainer = trainer_of(base)
    for lesson in LESSONS:
        prompt, completion = trainer.encode(lesson)
        assert prompt == trainer.encoder.prompt(lesson.prompt)
        assert completion == [*trainer.encoder.completion(lesson.prompt, lesson.completion), trainer.encoder.end]
    assert trainer.lengths(LESSONS) == [len(p) + len(c) for p, c in map(trainer.encode, LESSONS)]


def test_the_loss_is_the_nll_of_the_completions_and_nothing_else(base, tmp_path):
    """The first loss is known beforehand: from the untouched model's own scores, the end of the turn included."""
    trainer, model = trainer_of(base, batch=4), model_of(base)
    pairs = [trainer.encode(lesson) for lesson in LESSONS]
    total = tokens = 0
    for prompt, completion in pairs:
        row = torch.tensor([prompt + completion])
        with torch.inference_mode():
            plain = load_plain(base)(row).logits[0].log_softmax(-1)
        wanted = plain[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])
        total -= float(wanted.sum())
        tokens += len(completion)
    seen = []
    with pytest.raises(StopEarlyError):
        trainer.train(LESSONS, [], steps=9, start=None, out=tmp_path / "out", seed=1, watch=stop_at(1, seen))
    assert seen[0].loss == pytest.approx(total / tokens, abs=1e-4)
    assert model.score([(LESSONS[0].prompt, LESSONS[0].completion)])[0].tokens == len(pairs[0][1]) - 1


def load_plain(base):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, attn_implementation="sdpa").eval()


class StopEarlyError(Exception):
    """What a crash looks like to a trainer."""


def stop_at(number, seen=None):
    def watch(step):
        if seen is not None:
            seen.append(step)
        if step.number == number:
            raise StopEarlyError

    return watch


def test_a_batch_in_parts_takes_the_same_step(base, tmp_path, monkeypatch):
    whole = train(base, tmp_path / "whole", steps=3, batch=4)
    monkeypatch.setattr(training, "grouped", lambda sizes, most: ([i] for i in range(len(sizes))))
    parts = train(base, tmp_path / "parts", steps=3, batch=4)
    assert [step.loss for step in parts.curve] == pytest.approx([step.loss for step in whole.curve], abs=1e-4)
    one, other = weights_in(tmp_path / "whole"), weights_in(tmp_path / "parts")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_divided_among_cores_takes_the_same_step(method, base, tmp_path, monkeypatch):
    whole = train(base, tmp_path / "whole", steps=3, batch=4, method=method)
    monkeypatch.setattr(training, "_LEAST", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    parts = train(base, tmp_path / "parts", steps=3, batch=4, method=method)
    again = train(base, tmp_path / "again", steps=3, batch=4, method=method)
    assert [step.loss for step in parts.curve] == pytest.approx([step.loss for step in whole.curve], abs=1e-3)
    assert parts == again
    one, other = weights_in(tmp_path / "parts"), weights_in(tmp_path / "again")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_what_was_drawn(base, tmp_path, monkeypatch):
    batches = []
    real = training.packed_loss
    monkeypatch.setattr(
        training, "packed_loss", lambda net, batch, *more: batches.append(batch) or real(net, batch, *more)
    )
    train(base, tmp_path / "out", steps=6, batch=2, seed=4)
    pairs = [trainer_of(base).encode(lesson) for lesson in LESSONS]
    order = draw_order([1.0] * 4, 12, 4)
    for step, batch in enumerate(batches):
        key = sorted(order[2 * step : 2 * step + 2])
        assert sorted(pairs.index(pair) for pair in batch) == key
    assert len(batches) == 6


@pytest.mark.parametrize("method", METHODS)
def test_held_out_scores_in_the_curve_are_those_of_the_model_that_is_left(method, base, tmp_path):
    trained = train(base, tmp_path / "out", method=method, learning_rate=0.003, keep="last")
    assert [step.number for step in trained.curve if step.heldout] == [3, 5, 8]
    assert list(trained.curve[-1].heldout) == pytest.approx(nlls(model_of(base, tmp_path / "out"), EXAM), abs=1e-4)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory):
    """A checkpoint whose weights are numbers that bfloat16 has, as most that are published."""
    made = checkpoint(tmp_path_factory.mktemp("rounded"))
    state = {name: tensor.bfloat16().float() for name, tensor in weights_in(made.folder).items()}
    save_file(state, next(made.folder.glob("*.safetensors")), metadata={"format": "pt"})
    return made


def test_steps_below_what_bfloat16_tells_apart_are_learned_and_written_as_they_were_judged(rounded, tmp_path):
    """All weights: after forty steps most are still nearer to where they began than to bfloat16's next number."""
    given = {"steps": 40, "method": "full", "learning_rate": 1e-5, "batch": 4, "heldout": LESSONS[:3], "checks": 4}
    exact = train(rounded, tmp_path / "exact", **given)
    # Where a training's seed is large, as those of a run are.
    trained = train(rounded, tmp_path / "out", dtype="bfloat16", **given, seed=2**62 + 11)
    before = fmean(nlls(model_of(rounded, dtype="bfloat16"), LESSONS[:3]))
    gained = before - fmean(exact.curve[-1].heldout)
    for ours, wanted in zip(trained.curve, exact.curve, strict=True):
        if wanted.heldout:
            assert fmean(ours.heldout) == pytest.approx(fmean(wanted.heldout), abs=0.2 * gained)
    written = nlls(model_of(rounded, tmp_path / "out", dtype="bfloat16"), LESSONS[:3])
    assert written == pytest.approx(trained.curve[trained.best_step - 1].heldout, abs=1e-6)
    assert {tensor.dtype for tensor in weights_in(tmp_path / "out").values()} == {torch.bfloat16}


@pytest.mark.parametrize("method", METHODS)
def test_the_best_weights_are_kept_or_the_last(method, base, tmp_path):
    rate = {"lora": 0.02, "full": 0.005}[method]
    given = {"steps": 12, "heldout": OTHER_EXAM, "checks": 12, "patience": 12, "method": method, "learning_rate": rate}
    best = train(base, tmp_path / "best", keep="best", **given)
    last = train(base, tmp_path / "last", keep="last", **given)
    scores = [step.heldout[0] for step in best.curve]
    assert best.best_step == 1 + scores.index(min(scores))
    assert best.best_step < 12 == last.best_step == best.steps
    assert nlls(model_of(base, tmp_path / "best"), OTHER_EXAM) == pytest.approx([min(scores)], abs=1e-4)
    assert nlls(model_of(base, tmp_path / "last"), OTHER_EXAM) == pytest.approx([scores[-1]], abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_ends_when_its_checks_have_turned_with_the_weights_it_would_have_kept(method, base, tmp_path):
    rate = {"lora": 0.02, "full": 0.005}[method]
    given = {"steps": 12, "heldout": OTHER_EXAM, "checks": 12, "method": method, "learning_rate": rate}
    whole = train(base, tmp_path / "whole", patience=12, **given)
    ended = train(base, tmp_path / "ended", patience=1, **given)
    assert whole.steps == 12 > ended.steps == ended.best_step + 1
    assert ended.curve == whole.curve[: ended.steps]
    score = ended.curve[ended.best_step - 1].heldout
    assert nlls(model_of(base, tmp_path / "ended"), OTHER_EXAM) == pytest.approx(score, abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "ended"}
    assert train(base, tmp_path / "last", patience=1, keep="last", **given).steps == 12


def test_a_training_that_was_killed_ends_at_the_same_turn(base, tmp_path):
    given = {"steps": 12, "heldout": OTHER_EXAM, "checks": 12, "learning_rate": 0.02, "patience": 1, "checkpoint": 2}
    wanted = train(base, tmp_path / "whole", **given)
    assert wanted.steps < 12
    with pytest.raises(StopEarlyError):
        train(base, tmp_path / "out", watch=stop_at(wanted.steps), **given)
    assert train(base, tmp_path / "out", **given) == wanted
    found, weights = weights_in(tmp_path / "out"), weights_in(tmp_path / "whole")
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_without_held_out_samples_the_last_weights_are_kept(base, tmp_path):
    trained = train(base, tmp_path / "out", steps=4, heldout=[], keep="best")
    assert trained.best_step == 4
    assert all(step.heldout is None for step in trained.curve)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_decides_everything(seed, base, tmp_path):
    once, again = (train(base, tmp_path / name, steps=3, seed=seed) for name in ("once", "again"))
    other = train(base, tmp_path / "other", steps=3, seed=seed + 10)
    assert once == again != other
    same, too = weights_in(tmp_path / "once"), weights_in(tmp_path / "again")
    assert all(torch.equal(same[name], too[name]) for name in same)


# A crash.


@pytest.fixture(scope="module", params=["lora-best", "lora-last", "full-best", "full-best-bfloat16"])
def uninterrupted(request, base, tmp_path_factory):
    method, keep, dtype = (*request.param.split("-"), "float32")[:3]
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    given = {"method": method, "keep": keep, "checks": 4, "patience": 4, "heldout": OTHER_EXAM, "dtype": dtype}
    return given, train(base, out, **given), weights_in(out)


@pytest.mark.parametrize("crashes", [(1,), (3,), (4,), (7,), (8,), (2, 5, 8)], ids=str)
def test_a_resumed_training_ends_with_the_same_weights_and_curve(crashes, uninterrupted, base, tmp_path):
    given, wanted, weights = uninterrupted
    out = tmp_path / "out"
    for number in crashes:
        with pytest.raises(StopEarlyError):
            train(base, out, watch=stop_at(number), **given)
        assert not out.exists()
    seen = []
    trained = train(base, out, watch=seen.append, **given)
    # Savepoints are made after steps 3 and 6.
    assert seen[0].number == 1 + max(crashes) // 3 * 3
    assert trained == wanted
    found = weights_in(out)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_a_crash_while_the_weights_are_written_leaves_no_half_folder(base, tmp_path, monkeypatch):
    def broken(folder, state, **_):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{")
        raise StopEarlyError

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_adapter", broken)
        with pytest.raises(StopEarlyError):
            train(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    trained = train(base, tmp_path / "out")
    assert trained == train(base, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "again"}


def test_a_crash_while_a_savepoint_is_written_leaves_the_one_before(base, tmp_path, monkeypatch):
    wanted = train(base, tmp_path / "whole", steps=8)
    calls = []

    def broken(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise StopEarlyError
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(savepoints, "save_tensors", broken)
        with pytest.raises(StopEarlyError):
            train(base, tmp_path / "out", steps=8)
    assert train(base, tmp_path / "out", steps=8) == wanted


def stopped_at_five(base, out):
    with pytest.raises(StopEarlyError):
        train(base, out, steps=8, watch=stop_at(5))
    return out.parent / "out.savepoint"


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_savepoint_is_said_and_costs_the_steps_and_nothing_else(damage, base, tmp_path, caplog):
    wanted = train(base, tmp_path / "whole", steps=8)
    path = stopped_at_five(base, tmp_path / "out")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes({"flipped": content, "cut": content[:-50], "emptied": b""}[damage])
    seen = []
    assert train(base, tmp_path / "out", steps=8, watch=seen.append) == wanted
    assert len(seen) == 8
    assert f"{path}: damaged; this training begins again from its start." in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_a_full_disk_ends_a_training_with_one_clear_error_and_nothing_half_written(method, base, tmp_path, monkeypatch):
    def full(*args, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(adapter, "save_file", full)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(RunError, match=r"cannot be written \(.*No space left on device.*what is complete is kept"):
        train(base, tmp_path / "out", steps=2, method=method)
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    train(base, tmp_path / "out", steps=2, method=method)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_tensors_that_no_example_uses_do_not_stand_in_the_way_of_a_savepoint(tmp_path):
    """As an image tower in a model that is given text."""
    used, unused, late = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    named = {"used": used, "unused": unused, "late": late}

    def put(state):
        for name, tensor in named.items():
            tensor.data.copy_(state[name])

    weights = SimpleNamespace(
        named=lambda: named, copy=lambda: {name: t.detach().clone() for name, t in named.items()}, put=put
    )

    def go_on(optimiser, numbers):
        for number in numbers:
            optimiser.zero_grad(set_to_none=True)
            (used.sum() * number + (late.sum() * 3 if number > 2 else 0)).backward()
            optimiser.step()

    def fresh():
        return torch.optim.AdamW(named.values(), lr=0.1)

    optimiser = fresh()
    go_on(optimiser, [1, 2, 3])
    savepoint = Savepoint(tmp_path / "savepoint")
    progress = Progress([Step(i, 5, 1.0) for i in (1, 2, 3)])
    savepoint.save(weights, optimiser, progress)
    go_on(optimiser, [4, 5])
    wanted = weights.copy()
    resumed = fresh()
    assert savepoint.load(weights, resumed).curve == progress.curve
    go_on(resumed, [4, 5])
    assert torch.equal(unused.detach(), torch.ones(2))
    assert all(torch.equal(named[name].detach(), tensor) for name, tensor in wanted.items())


# Where it starts.


def test_a_training_goes_on_from_another_adapter(base, tmp_path):
    train(base, tmp_path / "first")
    train(base, tmp_path / "second", steps=1, start=tmp_path / "first", learning_rate=1e-12, keep="last")
    first, second = read_state(tmp_path / "first"), read_state(tmp_path / "second")
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-9, rtol=0)
    going_on = train(base, tmp_path / "third", start=tmp_path / "first", heldout=[])
    afresh = train(base, tmp_path / "fourth", heldout=[])
    assert going_on.curve[0].loss < afresh.curve[0].loss - 0.5


def test_full_weights_go_on_from_full_weights(base, tmp_path):
    train(base, tmp_path / "first", method="full", learning_rate=0.003)
    train(base, tmp_path / "second", method="full", steps=1, start=tmp_path / "first", learning_rate=1e-12)
    first, second = weights_in(tmp_path / "first"), weights_in(tmp_path / "second")
    untouched = weights_in(base.folder)
    assert first.keys() == second.keys() == untouched.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-9, rtol=0)
    assert not all(torch.equal(first[name], untouched[name]) for name in first)


def test_full_weights_are_a_model_of_their_own(base, tmp_path):
    from isara.backends.checkpoints import locate

    train(base, tmp_path / "out", method="full", learning_rate=0.003)
    alone = TransformersModel(locate(str(tmp_path / "out")), device="cpu", dtype="float32")
    assert alone.chat
    assert nlls(alone, EXAM) == pytest.approx(nlls(model_of(base, tmp_path / "out"), EXAM), abs=1e-6)
    assert nlls(alone, EXAM) != pytest.approx(nlls(model_of(base), EXAM), abs=0.1)


def test_full_weights_are_left_in_the_format_asked_for(base, tmp_path):
    trainer = TransformersTrainer(base, settings(method="full"), device="cpu", dtype="bfloat16")
    trainer.train(LESSONS, [], steps=2, start=None, out=tmp_path / "out", seed=1, watch=lambda step: None)
    assert {tensor.dtype for tensor in weights_in(tmp_path / "out").values()} == {torch.bfloat16}


def test_a_start_of_another_rank_is_refused(base, tmp_path):
    train(base, tmp_path / "first", steps=1)
    with pytest.raises(BackendError, match="adapter: no lora_A of shape"):
        train(base, tmp_path / "second", start=tmp_path / "first", rank=5)


# What it shares with the model beside it.


def test_one_network_serves_the_model_in_every_state_and_the_trainer(base, tmp_path, monkeypatch):
    loads = []
    real = hf.load_network
    monkeypatch.setattr(hf, "load_network", lambda *given: loads.append(given) or real(*given))
    alone = [train(base, tmp_path / f"alone-{seed}", seed=seed) for seed in (1, 2)]
    wanted = [nlls(model_of(base, path), EXAM) for path in (None, tmp_path / "alone-1", tmp_path / "alone-2")]
    assert len(loads) == 5
    loads.clear()
    model = model_of(base)
    trainer = TransformersTrainer(base, settings(), device="cpu", dtype="float32", beside=model)
    tuned = [model.with_adapter(tmp_path / f"alone-{seed}") for seed in (1, 2)]

    def look(step):
        # Between two steps the network is asked for everything else, and goes on as if nothing had been.
        if step.number in (2, 5):
            assert [nlls(one, EXAM) for one in (model, *tuned)] == wanted

    for seed, before in zip((1, 2), alone, strict=True):
        out = tmp_path / f"shared-{seed}"
        assert before == trainer.train(LESSONS, EXAM, steps=8, start=None, out=out, seed=seed, watch=look)
        one, other = weights_in(out), weights_in(tmp_path / f"alone-{seed}")
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert [nlls(one, EXAM) for one in (tuned[1], model, tuned[0])] == [wanted[2], wanted[0], wanted[1]]
    assert len(loads) == 1


def test_a_trainer_in_another_format_has_a_network_of_its_own(base):
    model = model_of(base)
    trainer = TransformersTrainer(base, settings(), device="cpu", dtype="bfloat16", beside=model)
    assert trainer.base is not model.base


# What comes when.

weights_of_examples = st.lists(st.floats(0.01, 20) | st.sampled_from([1.0, 0.5]), min_size=1, max_size=40)


@given(weights_of_examples, st.integers(1, 300), st.integers(0, 99))
def test_each_example_is_drawn_as_often_as_its_weight_asks(weights, count, seed):
    order = draw_order(weights, count, seed)
    assert len(order) == count
    drawn = Counter(order)
    for i, weight in enumerate(weights):
        assert abs(drawn[i] - weight / sum(weights) * count) < 1 + 1e-6


@given(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=20).filter(any), st.integers(1, 100))
def test_an_example_without_weight_is_never_drawn(weights, count):
    assert all(weights[i] > 0 for i in draw_order(weights, count, 5))


@given(st.integers(3, 60), st.integers(1, 8), st.integers(0, 99))
def test_examples_of_one_weight_come_in_passes(examples, passes, seed):
    """Each once in every pass, so that none comes twice in a row and no batch is full of one."""
    order = draw_order([1.0] * examples, examples * passes, seed)
    for start in range(0, len(order), examples):
        assert sorted(order[start : start + examples]) == list(range(examples))


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.1, 0.9), st.integers(0, 99))
def test_no_batch_is_full_of_one(seeds, generated, share, seed):
    weights = [share / seeds] * seeds + [(1 - share) / generated] * generated
    order = draw_order(weights, 16 * 12, seed)
    for start in range(0, len(order), 16):
        batch = Counter(order[start : start + 16])
        assert all(copies <= 16 * weights[i] + 4 for i, copies in batch.items())
        assert len(batch) > 1


def test_the_seed_decides_the_order():
    weights = [1.0] * 20
    assert draw_order(weights, 40, 1) == draw_order(weights, 40, 1) != draw_order(weights, 40, 2)


@given(st.integers(1, 500), st.integers(1, 20))
def test_held_out_checks_are_spread_and_the_last_step_is_one(steps, checks):
    numbers = sorted(check_steps(steps, checks))
    assert len(numbers) == min(steps, checks)
    assert numbers[-1] == steps
    assert numbers[0] >= 1
    gaps = [b - a for a, b in pairwise([0, *numbers])]
    assert max(gaps) - min(gaps) <= 1


@given(st.integers(1, 500))
def test_the_learning_rate_rises_then_falls(steps):
    rates = [schedule(step, steps) for step in range(1, steps + 1)]
    top = rates.index(1.0)
    assert top + 1 == max(1, round(steps * 0.1))
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert math.isclose(rates[-1], 1 / (steps - top)) or steps == 1


def test_a_training_can_be_given_another_rate_than_the_usual_one(base, tmp_path):
    def tuned(name, usual, **given):
        trainer = trainer_of(base, learning_rate=usual, keep="last")
        out = tmp_path / name
        trainer.train(LESSONS, EXAM, steps=4, start=None, out=out, seed=1, watch=lambda step: None, **given)
        return weights_in(out)

    usual, other = tuned("usual", 0.01), tuned("other", 0.002)
    asked = tuned("asked", 0.01, learning_rate=0.002)
    assert all(torch.equal(asked[name], other[name]) for name in other)
    assert not all(torch.equal(asked[name], usual[name]) for name in usual)


def test_replayed_text_is_forgotten_less(base, tmp_path):
    """A model that reads some prose first, then learns the lessons with prose mixed in, and without."""
    prose = [f"The ship leaves at {n} and the harbour is grey in the rain." for n in range(3, 9)]
    unseen = [Example("unseen", "", "The ship leaves at 2 and the harbour is grey in the rain.")]
    reader = tmp_path / "reader"
    train(base, reader, steps=20, examples=as_replay(prose, 1.0), heldout=unseen, keep="last")
    lessons = [replace(example, weight=0.5 / len(LESSONS)) for example in LESSONS]
    without, replayed = tmp_path / "without", tmp_path / "with"
    train(base, without, steps=20, start=reader, keep="last", learning_rate=0.02)
    train(
        base,
        replayed,
        steps=20,
        start=reader,
        keep="last",
        learning_rate=0.02,
        examples=[*lessons, *as_replay(prose, 0.5)],
    )
    before, lost, kept = (nlls(model_of(base, folder), unseen)[0] for folder in (reader, without, replayed))
    assert before < lost
    assert kept - before < (lost - before) / 2
