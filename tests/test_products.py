import math
from collections import Counter

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from isara.backends.adapter import AdaptedLinear  # noqa: E402
from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.products import InEightBits, Whole, in_eight_bits  # noqa: E402
from isara.backends.training import TransformersTrainer, Weights  # noqa: E402
from isara.protocols import Chat, Example, Turn  # noqa: E402
from isara.settings import TrainSettings  # noqa: E402
from tiny import checkpoint  # noqa: E402

LESSONS = [
    Example(f"seed-{i}", Chat((Turn("user", question),)), answer)
    for i, (question, answer) in enumerate(
        [("Does the moon grow?", "It does not."), ("Do goldfish forget?", "No, for months.")]
    )
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Numbers.

magnitudes = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(magnitudes, min_size=n, max_size=n), min_size=1)))
def test_no_number_is_further_away_than_half_a_step_of_its_row(given_rows):
    rows = torch.tensor(given_rows)
    numbers, steps = in_eight_bits(rows)
    assert numbers.dtype == torch.int8
    assert numbers.abs().max() <= 127
    off = (rows.double() - numbers.double() * steps.double()).abs()
    # A part in a million for float32's own rounding.
    assert (off <= steps.double() * 0.5 * (1 + 1e-6) + rows.double().abs() * 1e-6).all()
    assert (numbers.abs().amax(1) == 127)[rows.abs().amax(1) > 2.0**-100].all()


def test_a_row_of_zeros_stays_one():
    numbers, steps = in_eight_bits(torch.zeros(2, 3))
    assert numbers.tolist() == [[0, 0, 0]] * 2
    assert torch.isfinite(steps).all()
    assert torch.equal(InEightBits(torch.zeros(4, 3)).onward(random(2, 3)), torch.zeros(2, 4))


# Products.


def test_whole_numbers_are_multiplied_exactly():
    generator = torch.Generator().manual_seed(3)
    x, weight, grad = (torch.randint(-126, 127, shape, generator=generator) for shape in ((9, 70), (40, 70), (9, 40)))
    for rows in (x, weight, grad):
        # Every row has the number whose step is one.
        rows[:, 0] = 127
    frozen = InEightBits(weight.float())
    assert torch.equal(frozen.onward(x.float()), (x @ weight.t()).float())
    assert torch.equal(frozen.back(grad.float()), (grad @ weight).float())


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_products_are_those_of_the_weight_itself_but_for_what_rounding_allows(rows):
    # Rows of the weight, and of what it is multiplied with, may differ a thousandfold.
    weight = random(96, 192, seed=1) * torch.logspace(-3, 0, 96)[:, None]
    x, grad = (random(rows, n) * torch.logspace(-3, 0, rows)[:, None] for n in (192, 96))
    frozen = InEightBits(weight)
    assert_within_half_steps(frozen.onward(x), x, weight.t() / frozen.steps, frozen.steps)
    # Going back, the steps of the weight's rows are part of the gradient.
    assert_within_half_steps(frozen.back(grad), grad * frozen.steps, weight / frozen.steps.t(), 1.0)


def assert_within_half_steps(found, rows, columns, times):
    """Check a product of rows, rounded to a 127th of their largest number, and of columns, rounded to whole numbers."""
    steps = rows.abs().amax(1, keepdim=True) / 127
    most = rows.abs().sum(1, keepdim=True) / 2 + steps * (columns.abs() + 0.5).sum(0) / 2
    off = (found - rows @ columns * times).abs() / times
    assert found.dtype == torch.float32
    assert (off <= most).all()
    assert off.max() > 0
    assert off.norm() < 0.02 * (rows @ columns).norm()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_does_not_become_one(bad):
    x = random(3, 8)
    x[1, 2] = bad
    found = InEightBits(random(4, 8, seed=1)).onward(x)
    assert torch.isfinite(found[[0, 2]]).all()
    assert found[1].isnan().all()


def test_gradients_of_factors_are_those_in_full_and_of_the_input_about_those():
    frozen = torch.nn.Linear(96, 64, bias=False)
    with torch.no_grad():
        frozen.weight.copy_(random(64, 96))
    found = {}
    for int8 in (False, True):
        layer = AdaptedLinear(frozen, 4, 8.0, torch.Generator().manual_seed(1), int8=int8)
        with torch.no_grad():
            layer.b.copy_(random(64, 4, seed=2))
        x = random(20, 96, seed=3).requires_grad_()
        found[int8] = torch.autograd.grad(layer(x), (layer.a, layer.b, x), random(20, 64, seed=4))
    for whole, small in zip(found[False][:2], found[True][:2], strict=True):
        assert torch.equal(whole, small)
    assert not torch.equal(found[False][2], found[True][2])
    assert (found[False][2] - found[True][2]).norm() < 0.02 * found[False][2].norm()


# Training.


def settings(**given):
    return TrainSettings(**({"rank": 8, "alpha": 16.0, "learning_rate": 0.02, "batch": 2, "checks": 4} | given))


def trainer(base, *, int8=True, dtype="float32", **given):
    return TransformersTrainer(base, settings(**given), device="cpu", dtype=dtype, int8=int8)


def counted(monkeypatch):
    """Return how often each kind of product was asked for, as it grows."""
    asked = Counter()
    for kind in (Whole, InEightBits):
        for way in ("onward", "back"):
            real = getattr(kind, way)

            def counting(self, rows, real=real, key=(kind, way)):
                asked[key] += 1
                return real(self, rows)

            monkeypatch.setattr(kind, way, counting)
    return asked


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    # Wide apart, so that the frozen head can be sure of a token.
    return checkpoint(tmp_path_factory.mktemp("tiny"), spread=0.4)


def tuned(trainer, out, steps=40):
    return trainer.train(LESSONS, LESSONS[:1], steps=steps, start=None, out=out, seed=1, watch=lambda step: None)


def test_a_training_in_8_bits_learns_what_one_in_full_learns(base, tmp_path, monkeypatch):
    asked = counted(monkeypatch)
    small = tuned(trainer(base), tmp_path / "small")
    assert asked[InEightBits, "onward"] > asked[InEightBits, "back"] > 0
    assert asked[Whole, "onward"] == asked[Whole, "back"] == 0
    whole = tuned(trainer(base, int8=False), tmp_path / "whole")
    assert asked[Whole, "back"] > 0
    for one, other in zip(small.curve, whole.curve, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=0.05 + 0.05 * other.loss)
    assert small.curve[-1].loss < 0.1 < 2 < small.curve[0].loss
    # Used with its weights in full, it knows what it was taught.
    model = TransformersModel(base, device="cpu", dtype="float32", adapter=tmp_path / "small")
    assert max(one.nll for one in model.score([(e.prompt, e.completion) for e in LESSONS])) < 0.1


def test_the_same_training_in_8_bits_ends_with_the_same_weights(base, tmp_path):
    for name in ("one", "other"):
        tuned(trainer(base), tmp_path / name, steps=5)
    one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(
    "given", [{"dtype": "bfloat16"}, {"int8": False}, {"method": "full"}], ids=["bfloat16", "in full", "all weights"]
)
def test_elsewhere_products_are_made_from_the_weights_themselves(given, base, monkeypatch):
    asked = counted(monkeypatch)
    weights = Weights(trainer(base, **given), None, 1)
    pairs = [weights.trainer.encode(lesson) for lesson in LESSONS]
    weights.step(1, pairs, torch.optim.AdamW(weights.trainable()), [None, None])
    assert asked[InEightBits, "onward"] == 0
    assert (asked[Whole, "onward"] > 0) == weights.lora


def test_a_tuned_model_is_used_with_its_weights_in_full(base, tmp_path, monkeypatch):
    tuned(trainer(base), tmp_path / "out", steps=2)
    asked = counted(monkeypatch)
    model = TransformersModel(base, device="cpu", dtype="float32", adapter=tmp_path / "out")
    model.score([(LESSONS[0].prompt, LESSONS[0].completion)])
    assert asked.keys() == {(Whole, "onward")}
