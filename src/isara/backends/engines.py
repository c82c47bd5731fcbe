"""Which engine completes and scores for a run, and why that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import TransformersModel
from isara.backends.opening import open_server
from isara.backends.openvino_choice import EIGHT_BITS, Considered, consider, in_8_bits
from isara.errors import SettingsError
from isara.protocols import Model
from isara.settings import Settings


@dataclass(frozen=True, slots=True)
class Engine:
    """A model behind the engine that was chosen for it."""

    model: Model
    name: str
    why: str
    """The choice and its reason, in a sentence for the reader."""
    notes: tuple[str, ...] = ()
    """What else the reader should know of it, in sentences."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What identifies it, for the manifest."""
    int8: bool = False
    """Whether its weights are in 8 bits."""


def open_engine(checkpoint: Checkpoint, settings: Settings) -> Engine:
    """Return the model behind the engine that the settings ask for."""
    wanted = settings.model
    serve = wanted.engine == "server" or (wanted.engine == "auto" and settings.server.url is not None)
    found = Considered(None, "asked for") if serve else consider(checkpoint, wanted)
    if found.model is not None:
        number_format = str(found.model.dtype).removeprefix("torch.")
        small = in_8_bits(wanted)
        why = f"Engine: OpenVINO on cpu in {number_format}{', weights in 8 bits' if small else ''} ({found.why})."
        if not small or wanted.weights == "int8":
            return Engine(found.model, "openvino", why, int8=small)
        # Asked for, it is among the settings; chosen here, another machine might choose otherwise when it goes on.
        return Engine(found.model, "openvino", why, (EIGHT_BITS,), {"weights": "int8"}, int8=True)
    if wanted.weights == "int8":
        raise SettingsError(
            f"model.weights: only the openvino engine has 'int8', and it is not used here ({found.why})."
        )
    model = TransformersModel(checkpoint, device=wanted.device, dtype=wanted.dtype, batch_tokens=wanted.batch_tokens)
    number_format = str(model.dtype).removeprefix("torch.")
    if serve:
        opened = open_server(checkpoint, settings, model, f"transformers on {model.device} in {number_format}")
        reason = "asked for" if wanted.engine == "server" else "server.url names one"
        return Engine(opened.model, "server", f"Engine: {opened.words} ({reason}).", opened.notes, opened.facts)
    return Engine(model, "transformers", f"Engine: transformers on {model.device} in {number_format} ({found.why}).")
