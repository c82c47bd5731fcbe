"""Whether OpenVINO is to run a model: asked for, or better here; and if not, why not."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import choose_device
from isara.backends.openvino import OpenVinoModel
from isara.backends.openvino_graph import CURE
from isara.errors import BackendError, SettingsError
from isara.settings import ModelSettings

INSTALL = 'Run: pip install "isara[openvino]"'


@dataclass(frozen=True, slots=True)
class Considered:
    """What came of considering OpenVINO: a model, or none; and why."""

    model: OpenVinoModel | None
    why: str


def consider(checkpoint: Checkpoint, wanted: ModelSettings) -> Considered:
    """
    Return a model on OpenVINO where the settings ask for it, or leave the choice and it is the faster one.

    On a CPU it is, wherever it runs the architecture at all (docs/log.md has the measurement). Raises SettingsError or
    BackendError where it is asked for and cannot be had.
    """
    asked = wanted.engine == "openvino"
    if wanted.engine not in {"auto", "openvino"}:
        return Considered(None, "asked for")
    if choose_device(wanted.device).type != "cpu":
        if asked:
            raise SettingsError(f"model.engine: 'openvino' is for the CPU (model.device: {wanted.device!r}). {CURE}")
        return Considered(None, "OpenVINO would compute on the CPU, and there is something faster")
    if importlib.util.find_spec("openvino") is None:
        if asked:
            raise SettingsError(f"model.engine: 'openvino' is not installed. {INSTALL}, or: {CURE}")
        return Considered(None, f"OpenVINO, which is faster on a CPU, is not installed. {INSTALL}")
    try:
        model = OpenVinoModel(
            checkpoint, dtype=wanted.dtype, batch_tokens=wanted.batch_tokens, int8=wanted.weights == "int8"
        )
    except BackendError as error:
        if asked:
            raise
        return Considered(None, str(error).removesuffix(CURE).rstrip(" ."))
    return Considered(model, "asked for" if asked else "installed, and faster than transformers on a CPU")


def faster_in_8_bits(model: OpenVinoModel, wanted: ModelSettings) -> tuple[str, ...]:
    """Return a sentence where answers could be had in half the time: on a CPU with products of 8 bits, not of 16."""
    has = torch.cpu.get_capabilities()
    products = has.get("avx512_vnni") or has.get("avx_vnni")
    if not products or (wanted.weights, wanted.dtype, model.dtype) != ("full", "auto", torch.float32):
        return ()
    return (
        "This CPU multiplies numbers of 8 bits and no bfloat16: with --set model.weights='int8' the model writes and "
        "scores about twice as fast. What it says changes a little (0.007 nats per token with the demo's model).",
    )
