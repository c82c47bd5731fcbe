"""Whether OpenVINO is to run a model, and with which weights: asked for, or better here; and if not, why not."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import choose_device, choose_dtype
from isara.backends.openvino import OpenVinoModel
from isara.backends.openvino_graph import CURE
from isara.errors import BackendError, SettingsError
from isara.settings import ModelSettings

INSTALL = 'Run: pip install "isara[openvino]"'
EIGHT_BITS = (
    "Weights in 8 bits: this CPU multiplies those and no bfloat16, so that the model writes and scores about twice as "
    "fast, and is tuned up to a third faster. What it says changes a little (0.01 nats per token with the demo's "
    "model); --set model.weights='full' keeps them whole."
)


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
        model = OpenVinoModel(checkpoint, dtype=wanted.dtype, batch_tokens=wanted.batch_tokens, int8=in_8_bits(wanted))
    except BackendError as error:
        if asked:
            raise
        return Considered(None, str(error).removesuffix(CURE).rstrip(" ."))
    return Considered(model, "asked for" if asked else "installed, and faster than transformers on a CPU")


def in_8_bits(wanted: ModelSettings) -> bool:
    """
    Whether the weights are to be in 8 bits on OpenVINO: asked for, or left open where that is the faster choice.

    It is where the CPU has products of 8 bits and none of bfloat16, unless a number format is asked for: a round and
    its teachers are as good so (docs/log.md has two domains), and take half the time.
    """
    if wanted.weights != "auto":
        return wanted.weights == "int8"
    has = torch.cpu.get_capabilities()
    in_float32 = wanted.dtype == "auto" and choose_dtype("auto", torch.device("cpu")) == torch.float32
    return in_float32 and bool(has.get("avx512_vnni") or has.get("avx_vnni"))
