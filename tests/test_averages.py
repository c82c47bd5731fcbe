"""The mean of what several trainings left: as numbers, as a model, and as what a later round leaves."""

import json
import shutil

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file  # noqa: E402

from isara.backends.adapter import read_scale, read_state, write_adapter  # noqa: E402
from isara.backends.averages import mean_of_adapters, nearest  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.training import TransformersTrainer  # noqa: E402
from isara.protocols import Example  # noqa: E402
from isara.settings import TrainSettings  # noqa: E402
from tiny import checkpoint  # noqa: E402

NAME = "base_model.model.layer"
LESSONS = [Example("seed-1", "Why?", "Because."), Example("seed-2", "Does the moon grow?", "It does not.")]


def written(folder, rank, alpha, seed, out=12, into=20):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator)
    state = {f"{NAME}.lora_A.weight": a, f"{NAME}.lora_B.weight": b}
    write_adapter(folder, state, base="tiny", rank=rank, alpha=alpha)
    return folder


def change(state, rank, alpha):
    return alpha / rank * state[f"{NAME}.lora_B.weight"].double() @ state[f"{NAME}.lora_A.weight"].double()


def change_in(folder):
    return change(read_state(folder), *read_scale(folder))


def test_the_mean_of_adapters_is_as_near_to_the_mean_of_their_changes_as_their_rank_allows(tmp_path):
    folders = [written(tmp_path / str(seed), 3, 6.0, seed) for seed in range(3)]
    wanted = torch.stack([change_in(folder) for folder in folders]).mean(0)
    found = change(mean_of_adapters(folders), 3, 6.0)
    values = torch.linalg.svdvals(wanted)
    # Eckart and Young: what is left over is what the other singular values hold.
    assert float((found - wanted).norm()) == pytest.approx(float(values[3:].norm()), rel=1e-4)
    assert float(values[3:].norm()) > 1


def test_changes_that_fit_into_the_rank_are_met(tmp_path):
    one = written(tmp_path / "one", 8, 4.0, 1, out=5)
    other = written(tmp_path / "other", 2, 16.0, 2, out=5)
    wanted = (change_in(one) + change_in(other)) / 2
    torch.testing.assert_close(change(mean_of_adapters([one, other]), 8, 4.0), wanted, atol=1e-5, rtol=1e-5)


def test_a_rank_larger_than_the_layer_is_filled_up_with_nothing():
    a, b = torch.randn(6, 4, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    near_a, near_b = nearest(a, b, 6)
    assert (near_a.shape, near_b.shape) == ((6, 4), (3, 6))
    torch.testing.assert_close(near_b @ near_a, b @ a)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_mean_of_trainings_is_a_model_between_them(method, tmp_path):
    base = checkpoint(tmp_path / "base")
    # A rank at which the mean of two changes is met exactly.
    settings = TrainSettings(method=method, rank=32, alpha=32.0, learning_rate=0.005, batch=1)
    trainer = TransformersTrainer(base, settings, device="cpu", dtype="float32")
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        trainer.train(LESSONS, [], steps=4, start=None, out=folder, seed=seed, watch=lambda step: None)
    trainer.average(folders, tmp_path / "mean")
    trainer.average([folders[0], folders[0]], tmp_path / "same")

    def logits(adapter):
        network = TransformersModel(base, device="cpu", dtype="float32", adapter=adapter).network
        layer = next(module for name, module in network.named_modules() if name.endswith("q_proj"))
        with torch.inference_mode():
            return layer(torch.ones(1, layer.weight.shape[1] if method == "full" else layer.frozen.weight.shape[1]))

    one, other, mean, same = (logits(place) for place in (*folders, tmp_path / "mean", tmp_path / "same"))
    torch.testing.assert_close(mean, (one + other) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(same, one, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(one, other, atol=1e-4)
    if method == "full":
        assert (tmp_path / "mean" / "config.json").read_text() == (folders[1] / "config.json").read_text()
        files = [next(place.glob("*.safetensors")) for place in (*folders, tmp_path / "mean")]
        first, second, both = map(load_file, files)
        torch.testing.assert_close(both, {name: (first[name] + second[name]) / 2 for name in first})


def strength(folder):
    return json.loads((folder / "scripted.json").read_text())["strength"]


def test_a_later_round_leaves_the_mean_of_the_rounds_kept(small, tmp_path):
    from isara import align

    run = tmp_path / "run"
    settings = [*small.settings, "rounds=3", "train.average=true", "gate.keep='all'", "gate.patience=3"]
    align(small.records, out=run, model="scripted", settings=settings)
    assert not (run / "round-1" / "own").exists()
    own = [strength(run / "round-1" / "adapter"), *(strength(run / f"round-{n}" / "own") for n in (2, 3))]
    for number in (2, 3):
        said = json.loads((run / f"round-{number}" / "training.json").read_text())
        assert said["averaged"] == [f"round-{n}" for n in range(1, number)]
        mean = sum(own[:number]) / number
        assert strength(run / f"round-{number}" / "adapter") == pytest.approx(mean, abs=1e-6)
    assert len(set(own)) == 3
    assert "then averaged with round-1, round-2" in (run / "report.html").read_text()
    # Killed between the training and the mean: the training is not done again.
    before = strength(run / "round-3" / "adapter")
    for name in ("adapter", "done.json", "round.json", "heldout.jsonl", "answers.jsonl"):
        place = run / "round-3" / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    stamp = (run / "round-3" / "own" / "scripted.json").stat().st_mtime_ns
    align(small.records, out=run, model="scripted", settings=settings)
    assert strength(run / "round-3" / "adapter") == before
    assert (run / "round-3" / "own" / "scripted.json").stat().st_mtime_ns == stamp


def test_a_round_may_leave_its_own_weights_alone(small, tmp_path):
    from isara import align

    run = tmp_path / "run"
    settings = [*small.settings, "gate.keep='all'"]
    align(small.records, out=run, model="scripted", settings=settings)
    assert not (run / "round-2" / "own").exists()
    assert json.loads((run / "round-2" / "training.json").read_text())["averaged"] == []
