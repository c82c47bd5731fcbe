"""Savepoints, from which a killed training goes on to the same weights, and whole models as folders."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from isara.backends.adapter import save_tensors
from isara.backends.quiet import quiet_loading
from isara.protocols import Step
from isara.rundir import writing
from isara.turning import best_of

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each tensor."""


class Tunable(Protocol):
    """What a savepoint asks of a network in training."""

    def named(self) -> dict[str, Tensor]:
        """Return the tensors in training, by the names they are saved under."""
        ...

    def copy(self) -> dict[str, Tensor]:
        """Return copies of them, on the CPU."""
        ...

    def put(self, state: dict[str, Tensor]) -> None:
        """Put copies back."""
        ...


@dataclass
class Progress:
    """How far a training has come."""

    curve: list[Step] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.curve)

    def add(self, step: Step) -> None:
        """Take a step in, and note it where its held-out mean is the lowest so far."""
        self.curve.append(step)
        if step is best_of(self.curve):
            self.best_step = step.number


class Savepoint:
    """Where a killed training goes on: one file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, weights: Tunable, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the weights, the optimiser's moments, the best weights so far and the curve."""
        tensors = {f"weights/{name}": tensor.contiguous() for name, tensor in weights.copy().items()}
        tensors |= {f"best/{name}": tensor.contiguous() for name, tensor in progress.best.items()}
        for name, tensor in weights.named().items():
            # A tensor that no example has used yet has no moments: an expert, an image tower.
            moments = optimiser.state.get(tensor, {})
            tensors |= {f"{key}/{name}": moments[key].detach().cpu().clone() for key in _MOMENTS if key in moments}
        curve = json.dumps([[step.number, step.of, step.loss, step.heldout] for step in progress.curve])
        scratch = self.path.with_name(self.path.name + ".writing")
        facts = {"curve": curve, "best_step": str(progress.best_step)}
        save_tensors(tensors, scratch, {**facts, "crc32": checksum(tensors, facts)})
        with writing(self.path):
            scratch.replace(self.path)

    def load(self, weights: Tunable, optimiser: torch.optim.Optimizer) -> Progress:
        """Put back what was saved; a fresh start where there is nothing, or nothing whole."""
        if not self.path.exists():
            return Progress()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
            tensors = load_file(self.path)
        except (OSError, SafetensorError):
            metadata, tensors = {}, {}
        facts = {key: metadata.get(key, "") for key in ("curve", "best_step")}
        if metadata.get("crc32") != checksum(tensors, facts):
            logging.getLogger(__name__).warning("%s: damaged; this training begins again from its start.", self.path)
            return Progress()
        curve = [
            Step(number, of, loss, tuple(heldout) if heldout else None)
            for number, of, loss, heldout in json.loads(metadata["curve"])
        ]
        weights.put({name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")})
        for name, tensor in weights.named().items():
            moments = {key: tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in tensors}
            if moments:
                on_device = {key: moment.to(tensor.device) for key, moment in moments.items()}
                # AdamW counts its steps on the CPU, whatever the device, unless its step is one fused kernel.
                counted = on_device["step"] if optimiser.defaults.get("fused") else moments["step"]
                optimiser.state[tensor] = {**on_device, "step": counted}
        best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        return Progress(curve, best, int(metadata["best_step"]))

    def clear(self) -> None:
        """Remove the savepoint of a training that is complete."""
        self.path.unlink(missing_ok=True)


def checksum(tensors: dict[str, Tensor], facts: dict[str, str]) -> str:
    """Return a checksum of tensors and of what is noted beside them."""
    found = zlib.crc32(json.dumps(facts).encode("ascii"))
    for name in sorted(tensors):
        content = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data
        found = zlib.crc32(content, zlib.crc32(name.encode(), found))
    return str(found)


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yield a folder to write in, which takes the place of `out` once it is whole."""
    scratch = out.parent / f".{out.name}.writing"
    shutil.rmtree(scratch, ignore_errors=True)
    yield scratch
    shutil.rmtree(out, ignore_errors=True)
    with writing(out):
        scratch.replace(out)


def save_whole(network: Any, tokenizer: Any, folder: Path) -> None:
    """Write a fully tuned model as a folder that transformers loads; raises RunError where it cannot be written."""
    with writing(folder), quiet_loading():
        try:
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error
