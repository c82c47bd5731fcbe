import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from isara.backends.adapter import (  # noqa: E402
    AdaptedLinear,
    _LowRank,
    adapt,
    linear_layers,
    load_state,
    read_adapter,
    read_state,
    state_of,
    write_adapter,
)
from isara.backends.hf import Base  # noqa: E402
from isara.backends.packing import IMPLEMENTATION  # noqa: E402
from isara.backends.products import Whole  # noqa: E402
from isara.backends.quiet import quiet_loading  # noqa: E402
from isara.backends.scoring import completion_logs  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from tiny import MIXED, PACKABLE, configuration, network, sequence  # noqa: E402

LLAMA = PACKABLE["llama"][1]


def made(kind="llama", values=LLAMA, attention=IMPLEMENTATION):
    return network(configuration(kind, values), attention)


def shaken(adapted, seed=5):
    """Give the factors values as after a training: B is zero before it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted.values():
            layer.a.copy_(torch.randn(layer.a.shape, generator=generator) * 0.2)
            layer.b.copy_(torch.randn(layer.b.shape, generator=generator) * 0.2)
    return adapted


@pytest.fixture
def saved(tmp_path):
    """A base model in a folder, and an adapter of rank 3 for it in another."""
    base = made()
    base.save_pretrained(tmp_path / "base")
    adapted = shaken(adapt(base, 3, 6.0, seed=1))
    write_adapter(tmp_path / "adapter", state_of(adapted), base="tiny", rank=3, alpha=6.0)
    return tmp_path / "base", tmp_path / "adapter", base


# One layer.


def test_the_gradients_of_an_adapted_layer_are_those_of_the_plain_expression():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, a, b = (random(*shape).requires_grad_() for shape in ((7, 5), (2, 5), (4, 2)))
    weight = random(4, 5)
    scale = 1.7
    assert torch.autograd.gradcheck(
        lambda *given: _LowRank.apply(given[0], Whole(weight), *given[1:], scale), (x, a, b)
    )
    upstream = random(7, 4)
    written_out = x @ weight.t() + scale * (x @ a.t()) @ b.t()
    found = _LowRank.apply(x, Whole(weight), a, b, scale)
    torch.testing.assert_close(found, written_out)
    for one, other in zip(
        torch.autograd.grad(found, (x, a, b), upstream),
        torch.autograd.grad(written_out, (x, a, b), upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_an_input_that_needs_no_gradient_costs_none():
    x, weight = torch.randn(3, 5), torch.randn(4, 5)
    a, b = torch.randn(2, 5, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    _LowRank.apply(x, Whole(weight), a, b, 1.0).sum().backward()
    assert x.grad is None
    assert a.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("bias", [False, True])
def test_a_new_adapter_changes_nothing(bias):
    frozen = torch.nn.Linear(6, 4, bias=bias)
    layer = AdaptedLinear(frozen, 2, 8.0, torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), frozen(x))
    assert layer.scale == 4.0
    assert layer.a.abs().max() <= 1 / 6**0.5
    assert layer.a.std() > 0.1


def test_an_adapter_works_in_the_format_of_its_input():
    frozen = torch.nn.Linear(6, 4).to(torch.bfloat16)
    layer = AdaptedLinear(frozen, 2, 8.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.b.fill_(0.5)
    x = torch.randn(3, 6).to(torch.bfloat16)
    out = layer(x)
    assert out.dtype == torch.bfloat16
    assert layer.a.dtype == torch.float32
    out.sum().backward()
    assert layer.a.grad.dtype == torch.float32
    layer.settle()
    assert layer.a.dtype == torch.bfloat16
    assert torch.equal(layer(x), out)


# A whole model.


def test_every_linear_layer_but_the_head_is_adapted_and_the_rest_is_frozen():
    base = made()
    wanted = {name for name, part in base.named_modules() if isinstance(part, torch.nn.Linear)} - {"lm_head"}
    adapted = adapt(base, 2, 4.0, seed=0)
    assert set(adapted) == wanted
    assert len(wanted) == 14
    trainable = {name for name, weights in base.named_parameters() if weights.requires_grad}
    assert trainable == {f"{name}.{factor}" for name in wanted for factor in "ab"}


def test_the_seed_decides_where_an_adapter_starts():
    one, again, other = (state_of(adapt(made(), 2, 4.0, seed)) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(BackendError, match=r"no nn.Linear layers .* Set train.method='full'"):
        adapt(made("gpt2", PACKABLE["gpt2"][1]), 2, 4.0, seed=0)


def test_peft_loads_what_is_saved_and_gives_the_same_numbers(saved):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, adapter, trained = saved
    row = torch.tensor([sequence(20, 3)])
    frozen = Base(base, torch.device("cpu"), torch.float32)
    worn = frozen.wearing(frozen.adapter(adapter))
    bare = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa").eval()
    with torch.inference_mode(), quiet_loading():
        before = bare(row).logits
        peft = PeftModel.from_pretrained(bare, adapter).eval()
        wanted = peft(row).logits
        merged = peft.merge_and_unload()(row).logits
        assert (wanted - before).abs().max() > 0.5
        torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)
        ours = completion_logs(worn, MIXED)
        torch.testing.assert_close(ours, completion_logs(trained, MIXED), atol=1e-5, rtol=0)
        worn.set_attn_implementation("sdpa")
        torch.testing.assert_close(worn(row).logits, wanted, atol=1e-4, rtol=1e-4)


def test_what_is_worn_is_not_trained(saved):
    base, adapter, _ = saved
    frozen = Base(base, torch.device("cpu"), torch.float32)
    worn = frozen.wearing(frozen.adapter(adapter))
    assert not any(weights.requires_grad for weights in worn.parameters())


def test_a_saved_adapter_comes_back_as_it_was(saved):
    _, adapter, trained = saved
    fresh = adapt(made(), 3, 6.0, seed=9)
    load_state(fresh, read_state(adapter))
    wanted = {name: layer for name, layer in trained.named_modules() if isinstance(layer, AdaptedLinear)}
    assert set(fresh) == set(wanted)
    for name, layer in fresh.items():
        assert torch.equal(layer.a, wanted[name].a)
        assert torch.equal(layer.b, wanted[name].b)


def test_the_state_is_a_copy():
    adapted = adapt(made(), 2, 4.0, seed=0)
    state = state_of(adapted)
    shaken(adapted)
    assert all(bool((weights == 0).all()) for name, weights in state.items() if "lora_B" in name)


# What does not fit is not loaded.


def test_an_adapter_of_another_rank_is_refused():
    state = state_of(adapt(made(), 2, 4.0, seed=0))
    with pytest.raises(BackendError, match=r"adapter: no lora_A of shape \(3, 32\) for layer 'model.layers.0"):
        load_state(adapt(made(), 3, 4.0, seed=0), state)


def test_an_adapter_that_lacks_layers_is_refused():
    state = state_of(adapt(made(), 2, 4.0, seed=0))
    del state["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    with pytest.raises(BackendError, match=r"no lora_B of shape .* for layer 'model.layers.1.mlp.up_proj'"):
        load_state(adapt(made(), 2, 4.0, seed=0), state)


def test_an_adapter_of_more_layers_is_refused():
    state = state_of(adapt(made(), 2, 4.0, seed=0))
    state["base_model.model.lm_head.lora_A.weight"] = torch.zeros(2, 32)
    with pytest.raises(BackendError, match=r"no place in this model for 'base_model.model.lm_head.*1 such tensors"):
        load_state(adapt(made(), 2, 4.0, seed=0), state)


def test_a_folder_without_an_adapter(saved, tmp_path):
    base, adapter, _ = saved
    with pytest.raises(BackendError, match="no readable adapter here"):
        read_state(tmp_path / "nowhere")
    with pytest.raises(BackendError, match="no adapter here"):
        Base(base, torch.device("cpu"), torch.float32).adapter(tmp_path / "nowhere")
    (adapter / "adapter_config.json").write_text('{"r": 3}')
    with pytest.raises(BackendError, match=r"no readable adapter_config.json here \(KeyError\('lora_alpha'\)\)"):
        read_adapter(linear_layers(made()), adapter)


def test_a_damaged_adapter_is_refused(saved):
    _, adapter, _ = saved
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BackendError, match="no readable adapter here"):
        read_state(adapter)


def test_an_adapter_folder_says_what_peft_needs(saved):
    _, adapter, _ = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)
    names = {name.split(".lora_")[0] for name in load_file(adapter / "adapter_model.safetensors")}
    assert names == {f"base_model.model.{name}" for name in config["target_modules"]}


def test_tensors_may_be_saved_by_others(tmp_path):
    """What PEFT or anybody else wrote under the same names is read."""
    adapted = shaken(adapt(made(), 2, 4.0, seed=0))
    save_file(state_of(adapted), tmp_path / "adapter_model.safetensors")
    fresh = adapt(made(), 2, 4.0, seed=1)
    load_state(fresh, read_state(tmp_path))
    assert all(torch.equal(fresh[name].b, adapted[name].b) for name in fresh)
