"""
Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) for training, in PEFT's file format.

The forward and the backward of an adapted layer are written out as one function: the frozen weight, the two small
factors and their gradients in seven matrix products with nothing kept that is not needed. On a CPU this trains a
135M model about half again as fast as the same layers in PEFT (`bench/train.py`). What is saved, PEFT loads.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from isara.backends.products import Frozen, InEightBits, Whole
from isara.errors import BackendError
from isara.rundir import write_text, writing

PARTS = ("lora_A", "lora_B")
"""What PEFT calls the two factors."""


class _LowRank(torch.autograd.Function):
    """x W' + scale (x A') B', with gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Frozen, a: Tensor, b: Tensor, scale: float) -> Tensor:
        narrow = (x @ a.t()).mul_(scale)
        ctx.save_for_backward(x, a, b, narrow)
        ctx.frozen, ctx.scale = frozen, scale
        return frozen.onward(x).addmm_(narrow, b.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, a, b, narrow = ctx.saved_tensors
        grad_narrow = grad @ b
        grad_a = (grad_narrow.t() @ x).mul_(ctx.scale)
        grad_b = grad.t() @ narrow
        grad_x = ctx.frozen.back(grad).addmm_(grad_narrow, a, alpha=ctx.scale) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_a, grad_b, None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank term; the factors are float32 and used in x's format."""

    def __init__(
        self, frozen: nn.Linear, rank: int, alpha: float, generator: torch.Generator, *, int8: bool = False
    ) -> None:
        """Take a layer and the scale of its adapter; with `int8` the frozen weight is multiplied in 8 bits."""
        super().__init__()
        self.frozen = frozen
        self.product: Frozen = InEightBits(frozen.weight) if int8 else Whole(frozen.weight)
        self.scale = alpha / rank
        device = frozen.weight.device
        # Kaiming-uniform for A and zero for B, as in the paper's code and in PEFT: the first step starts at the base.
        bound = 1 / math.sqrt(frozen.in_features)
        a = torch.rand(rank, frozen.in_features, generator=generator) * (2 * bound) - bound
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(frozen.out_features, rank, device=device))

    def settle(self) -> None:
        """End training: keep the factors in the format of the weights, so that they are not converted at every use."""
        self.a = nn.Parameter(self.a.to(self.frozen.weight.dtype), requires_grad=False)
        self.b = nn.Parameter(self.b.to(self.frozen.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the frozen layer's output plus the low-rank term."""
        flat = x.reshape(-1, x.shape[-1])
        out: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
            flat, self.product, self.a.to(x.dtype), self.b.to(x.dtype), self.scale
        )
        if self.frozen.bias is not None:
            out = out + self.frozen.bias
        return out.view(*x.shape[:-1], -1)


def linear_layers(network: Any) -> dict[str, nn.Linear]:
    """Return the linear layers of a bare network by name, the output head left out."""
    head = network.get_output_embeddings()
    return {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear) and layer is not head
    }


def adapted_layers(
    layers: Mapping[str, nn.Linear], rank: int, alpha: float, seed: int, *, int8: bool = False
) -> dict[str, AdaptedLinear]:
    """
    Return a fresh adapter for each layer, whose frozen weight is multiplied in 8 bits where that is asked for.

    Raises BackendError where there is none to adapt.
    """
    if not layers:
        raise BackendError(
            "train.method: this model has no nn.Linear layers to put adapters on. Set train.method='full'."
        )
    generator = torch.Generator().manual_seed(seed)
    return {name: AdaptedLinear(layer, rank, alpha, generator, int8=int8) for name, layer in layers.items()}


def put_on(network: Any, layers: Mapping[str, nn.Module]) -> None:
    """Let a network use these layers in the places of their names."""
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, layer)


def adapt(network: Any, rank: int, alpha: float, seed: int) -> dict[str, AdaptedLinear]:
    """Freeze a bare network and put a fresh adapter on every linear layer but the head; returns them by name."""
    network.requires_grad_(False)
    adapted = adapted_layers(linear_layers(network), rank, alpha, seed)
    put_on(network, adapted)
    return adapted


def state_of(adapted: dict[str, AdaptedLinear]) -> dict[str, Tensor]:
    """Return copies of the factors under the names PEFT gives them."""
    state = {}
    for name, layer in adapted.items():
        state[f"base_model.model.{name}.lora_A.weight"] = layer.a.detach().cpu().clone()
        state[f"base_model.model.{name}.lora_B.weight"] = layer.b.detach().cpu().clone()
    return state


def state_names(adapted: dict[str, AdaptedLinear]) -> set[str]:
    """Return the names PEFT gives the factors of adapted layers."""
    return {f"base_model.model.{name}.{part}.weight" for name in adapted for part in PARTS}


def load_state(adapted: dict[str, AdaptedLinear], state: dict[str, Tensor]) -> None:
    """Put saved factors into the adapted layers; raises BackendError where they are another model's."""
    unknown = sorted(state.keys() - state_names(adapted))
    if unknown:
        raise BackendError(f"adapter: no place in this model for {unknown[0]!r} ({len(unknown)} such tensors).")
    with torch.no_grad():
        for name, layer in adapted.items():
            for factor, part in ((layer.a, "lora_A"), (layer.b, "lora_B")):
                saved = state.get(f"base_model.model.{name}.{part}.weight")
                if saved is None or saved.shape != factor.shape:
                    raise BackendError(f"adapter: no {part} of shape {tuple(factor.shape)} for layer {name!r}.")
                factor.copy_(saved)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Return the factors in an adapter folder."""
    try:
        state: dict[str, Tensor] = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise BackendError(f"{folder}: no readable adapter here ({error}).") from error
    return state


def read_scale(folder: Path) -> tuple[int, float]:
    """Return the rank and alpha of the adapter in a folder."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError) as error:
        raise BackendError(f"{folder}: no readable adapter_config.json here ({error!r}).") from error


def read_adapter(layers: Mapping[str, nn.Linear], folder: Path) -> dict[str, AdaptedLinear]:
    """Return the adapter in a folder, for use and not for training; raises BackendError where it does not fit."""
    rank, alpha = read_scale(folder)
    adapted = adapted_layers(layers, rank, alpha, 0)
    load_state(adapted, read_state(folder))
    for layer in adapted.values():
        layer.settle()
    return adapted


def write_blank(folder: Path, checkpoint: Path, rank: int) -> None:
    """Write an adapter that changes nothing for the model in a folder, to try out whether one can be loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
        network = AutoModelForCausalLM.from_config(config)
    state = {}
    for name, layer in adapt(network, rank, rank, 0).items():
        # On the meta device a factor has a shape and no numbers.
        for part, factor in (("lora_A", layer.a), ("lora_B", layer.b)):
            state[f"base_model.model.{name}.{part}.weight"] = torch.zeros(factor.shape, dtype=torch.bfloat16)
    write_adapter(folder, state, base=str(checkpoint), rank=rank, alpha=rank)


def write_adapter(folder: Path, state: dict[str, Tensor], *, base: str, rank: int, alpha: float) -> None:
    """Write factors and their configuration as PEFT does."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_tensors(state, folder / "adapter_model.safetensors", {"format": "pt"})
    layers = sorted({key.split(".lora_")[0].removeprefix("base_model.model.") for key in state})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": layers,
    }
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2) + "\n")


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file, and bring it to the disk; raises RunError where it cannot be written."""
    with writing(path):
        try:
            save_file(tensors, path, metadata=metadata)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
        with path.open("rb") as file:
            os.fsync(file.fileno())
