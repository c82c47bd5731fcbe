"""Which engine completes and scores for a run, and why that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import TransformersModel
from isara.backends.opening import open_server
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


def open_engine(checkpoint: Checkpoint, settings: Settings) -> Engine:
    """Return the model behind the engine that the settings ask for."""
    wanted = settings.model
    model = TransformersModel(checkpoint, device=wanted.device, dtype=wanted.dtype, batch_tokens=wanted.batch_tokens)
    number_format = str(model.dtype).removeprefix("torch.")
    if wanted.engine == "server" or (wanted.engine == "auto" and settings.server.url is not None):
        opened = open_server(checkpoint, settings, model, f"transformers on {model.device} in {number_format}")
        reason = "asked for" if wanted.engine == "server" else "server.url names one"
        return Engine(opened.model, "server", f"Engine: {opened.words} ({reason}).", opened.notes, opened.facts)
    reason = "asked for" if wanted.engine == "transformers" else "the only one there is"
    return Engine(model, "transformers", f"Engine: transformers on {model.device} in {number_format} ({reason}).")
