"""Which engine completes and scores for a run, and why that one."""

from __future__ import annotations

from dataclasses import dataclass

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import TransformersModel
from isara.protocols import Model
from isara.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Engine:
    """A model behind the engine that was chosen for it."""

    model: Model
    name: str
    why: str
    """The choice and its reason, in a sentence for the reader."""


def open_engine(checkpoint: Checkpoint, wanted: ModelSettings) -> Engine:
    """Return the model behind the engine that the settings ask for."""
    model = TransformersModel(checkpoint, device=wanted.device, dtype=wanted.dtype, batch_tokens=wanted.batch_tokens)
    reason = "asked for" if wanted.engine == "transformers" else "the only one there is"
    number_format = str(model.dtype).removeprefix("torch.")
    return Engine(model, "transformers", f"Engine: transformers on {model.device} in {number_format} ({reason}).")
