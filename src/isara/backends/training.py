"""A trainer on torch: packed batches, loss on the answers alone, the held-out samples watched, savepoints kept."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from isara.backends.adapter import adapt, load_state, read_state, state_of, write_adapter
from isara.backends.checkpoints import Checkpoint
from isara.backends.hf import (
    choose_device,
    choose_dtype,
    completion_logits,
    grouped,
    load_network,
    load_tokenizer,
    score_encoded,
)
from isara.backends.quiet import quiet_loading
from isara.backends.targets import Soft, aligned, soft_loss
from isara.backends.template import Encoder
from isara.protocols import Example, Step, Trained
from isara.settings import TrainSettings

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW remembers of each tensor."""

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the completion after it with the end of the turn."""


class TransformersTrainer:
    """Tunes a checkpoint with adapters, or all of it. Satisfies the `Trainer` protocol."""

    def __init__(
        self, checkpoint: Checkpoint, settings: TrainSettings, *, device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.encoder = Encoder(load_tokenizer(checkpoint.folder))

    def encode(self, example: Example) -> Pair:
        """Return an example as ids; the end of the turn is part of the completion, and so of the loss."""
        completion = self.encoder.completion(example.prompt, example.completion)
        return self.encoder.prompt(example.prompt), [*completion, self.encoder.end]

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Return the training length of each example in tokens."""
        return [sum(map(len, self.encode(example))) for example in examples]

    def train(
        self,
        examples: Sequence[Example],
        heldout: Sequence[Example],
        *,
        steps: int,
        start: Path | None,
        out: Path,
        seed: int,
        watch: Callable[[Step], None],
    ) -> Trained:
        """Tune for `steps` steps into the folder `out`; goes on from its savepoint beside `out` where there is one."""
        weights = Weights(self, start, seed)
        optimiser = torch.optim.AdamW(weights.trainable(), lr=self.settings.learning_rate, weight_decay=0.0)
        savepoint = Savepoint(out.parent / f"{out.name}.savepoint")
        state = savepoint.load(weights, optimiser)
        pairs = [self.encode(example) for example in examples]
        soft = [aligned(completion, e.targets) for (_, completion), e in zip(pairs, examples, strict=True)]
        # The end of the turn is not counted in held-out scores, here as everywhere.
        judged = [(prompt, completion[:-1]) for prompt, completion in map(self.encode, heldout)]
        order = draw_order([example.weight for example in examples], steps * self.settings.batch, seed)
        checks = check_steps(steps, self.settings.checks) if judged else frozenset()
        for number in range(state.step + 1, steps + 1):
            drawn = order[(number - 1) * self.settings.batch : number * self.settings.batch]
            set_rate(optimiser, self.settings.learning_rate * schedule(number, steps))
            loss = weights.step([pairs[i] for i in drawn], optimiser, [soft[i] for i in drawn])
            scores = weights.score(judged) if number in checks else None
            state.add(Step(number, steps, loss, scores))
            if self.settings.keep == "best" and state.best_step == number:
                state.best = weights.copy()
            if number % self.settings.checkpoint == 0 and number < steps:
                savepoint.save(weights, optimiser, state)
            watch(state.curve[-1])
        if state.best:
            weights.put(state.best)
        weights.write(out)
        savepoint.clear()
        return Trained(steps, state.best_step if self.settings.keep == "best" and checks else steps, tuple(state.curve))


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
        scored = [s for s in self.curve if s.heldout]
        if step.heldout and step is min(scored, key=lambda s: sum(s.heldout or ())):
            self.best_step = step.number


class Weights:
    """The network in training: adapters on a frozen base, or all of it."""

    def __init__(self, trainer: TransformersTrainer, start: Path | None, seed: int) -> None:
        self.trainer = trainer
        self.lora = trainer.settings.method == "lora"
        folder = trainer.checkpoint.folder
        if self.lora:
            self.network = load_network(folder, trainer.device, trainer.dtype)
            self.adapted = adapt(self.network, trainer.settings.rank, trainer.settings.alpha, seed)
            if start is not None:
                load_state(self.adapted, read_state(start))
        else:
            # Full tuning keeps float32 weights: in bfloat16 most of the small updates would be rounded away.
            self.network = load_network(start or folder, trainer.device, torch.float32)

    def named(self) -> dict[str, Tensor]:
        """Return the tensors in training, by the names they are saved under."""
        if not self.lora:
            return dict(self.network.named_parameters())
        named: dict[str, Tensor] = {}
        for name, layer in self.adapted.items():
            named[f"base_model.model.{name}.lora_A.weight"] = layer.a
            named[f"base_model.model.{name}.lora_B.weight"] = layer.b
        return named

    def trainable(self) -> list[Tensor]:
        """Return the tensors in training."""
        return list(self.named().values())

    def copy(self) -> dict[str, Tensor]:
        """Return copies of the tensors in training, on the CPU."""
        if self.lora:
            return state_of(self.adapted)
        return {name: tensor.detach().cpu().clone() for name, tensor in self.named().items()}

    def put(self, state: dict[str, Tensor]) -> None:
        """Put copies back."""
        if self.lora:
            load_state(self.adapted, state)
            return
        with torch.no_grad():
            for name, tensor in self.named().items():
                tensor.copy_(state[name])

    def step(self, batch: Sequence[Pair], optimiser: torch.optim.Optimizer, soft: Sequence[Soft | None]) -> float:
        """Take one optimiser step; returns the mean loss per token."""
        total = sum(len(completion) for _, completion in batch)
        optimiser.zero_grad(set_to_none=True)
        loss = 0.0
        most = max(self.trainer.settings.max_tokens, 4096)
        for group in grouped([len(prompt) + len(completion) for prompt, completion in batch], most):
            part = packed_loss(self.network, [batch[i] for i in group], total, [soft[i] for i in group])
            torch.autograd.backward(part)
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(self.trainable(), 1.0)
        optimiser.step()
        return loss

    def score(self, pairs: Sequence[Pair]) -> tuple[float, ...]:
        """Return the NLL per token of each completion under the weights as they are."""
        return tuple(likelihood.nll for likelihood in score_encoded(self.network, pairs, 4096))

    def write(self, out: Path) -> None:
        """Leave the weights in a folder that appears only when it is complete."""
        scratch = out.parent / f".{out.name}.writing"
        shutil.rmtree(scratch, ignore_errors=True)
        if self.lora:
            settings = self.trainer.settings
            base = str(self.trainer.checkpoint.name)
            write_adapter(scratch, self.copy(), base=base, rank=settings.rank, alpha=settings.alpha)
        else:
            with quiet_loading():
                self.network.to(self.trainer.dtype).save_pretrained(scratch)
                self.trainer.encoder.tokenizer.save_pretrained(scratch)
        shutil.rmtree(out, ignore_errors=True)
        scratch.replace(out)


class Savepoint:
    """Where a killed training goes on: one file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, weights: Weights, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the weights, the optimiser's moments, the best weights so far and the curve."""
        tensors = {f"weights/{name}": tensor.contiguous() for name, tensor in weights.copy().items()}
        tensors |= {f"best/{name}": tensor.contiguous() for name, tensor in progress.best.items()}
        for name, tensor in weights.named().items():
            # A tensor that no example has used yet has no moments: an expert, an image tower.
            moments = optimiser.state.get(tensor, {})
            tensors |= {f"{key}/{name}": moments[key].detach().cpu().clone() for key in _MOMENTS if key in moments}
        curve = [[step.number, step.of, step.loss, step.heldout] for step in progress.curve]
        scratch = self.path.with_name(self.path.name + ".writing")
        save_file(tensors, scratch, metadata={"curve": json.dumps(curve), "best_step": str(progress.best_step)})
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(self.path)

    def load(self, weights: Weights, optimiser: torch.optim.Optimizer) -> Progress:
        """Put back what was saved; a fresh start where there is nothing."""
        if not self.path.exists():
            return Progress()
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(self.path)
        curve = [
            Step(number, of, loss, tuple(heldout) if heldout else None)
            for number, of, loss, heldout in json.loads(metadata["curve"])
        ]
        weights.put({name.removeprefix("weights/"): t for name, t in tensors.items() if name.startswith("weights/")})
        for name, tensor in weights.named().items():
            moments = {key: tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in tensors}
            if moments:
                on_device = {key: moments[key].to(tensor.device) for key in ("exp_avg", "exp_avg_sq")}
                # AdamW counts its steps on the CPU, whatever the device.
                optimiser.state[tensor] = {"step": moments["step"], **on_device}
        best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}
        return Progress(curve, best, int(metadata["best_step"]))

    def clear(self) -> None:
        """Remove the savepoint of a training that is complete."""
        self.path.unlink(missing_ok=True)


class _AnswerLoss(torch.autograd.Function):
    """Sum of the cross-entropies of rows of logits over `total`; one exponential serves loss and gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, total: int) -> Tensor:
        rows = logits.float()
        norm = rows.logsumexp(-1, keepdim=True)
        loss = (norm - rows.gather(1, targets[:, None])).sum() / total
        grad = rows.sub_(norm).exp_()
        grad[torch.arange(len(targets), device=targets.device), targets] -= 1
        ctx.save_for_backward(grad.div_(total).to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None


def packed_loss(network: Any, batch: Sequence[Pair], total: int, soft: Sequence[Soft | None] = ()) -> Tensor:
    """Return the cross-entropy with what the completions teach, summed over their tokens and divided by `total`."""
    logits, targets = completion_logits(network, batch)
    if any(one is not None for one in soft):
        return soft_loss(logits, targets, total, [len(completion) for _, completion in batch], soft)
    loss: Tensor = _AnswerLoss.apply(logits, targets, total)  # type: ignore[no-untyped-call]
    return loss


def draw_order(weights: Sequence[float], count: int, seed: int) -> list[int]:
    """
    Return which example comes when: each as often as its weight asks, to within one, spread evenly over the time.

    The copies of an example are placed at equal distances with a random offset, so no batch is full of one.
    """
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(len(weights), generator=generator, dtype=torch.float64).tolist()
    places = [
        ((copy + offsets[i]) / copies, i)
        for i, copies in enumerate(copies_of(weights, count, generator))
        for copy in range(copies)
    ]
    return [i for _, i in sorted(places)]


def copies_of(weights: Sequence[float], count: int, generator: torch.Generator) -> list[int]:
    """Return how often each example is drawn: its share of `count` rounded up or down, `count` in all."""
    copies = [0] * len(weights)
    order = torch.randperm(len(weights), generator=generator).tolist()
    # Systematic sampling: the shares lie end to end in random order, and the copies are the whole numbers they cover.
    passed = list(accumulate(weights[i] for i in order))
    start = float(torch.rand(1, generator=generator, dtype=torch.float64))
    reached = 0
    for i, sofar in zip(order, passed, strict=True):
        end = min(count, math.floor(start + count * (sofar / passed[-1])))
        copies[i], reached = end - reached, end
    return copies


def check_steps(steps: int, checks: int) -> frozenset[int]:
    """Return after which steps the held-out samples are scored: evenly spread, the last one included."""
    checks = min(checks, steps)
    return frozenset(round(steps * (i + 1) / checks) for i in range(checks))


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step (from 1): up over the first 10 %, then down to 0."""
    warm = max(1, round(steps * 0.1))
    return step / warm if step <= warm else max(0.0, (steps - step + 1) / (steps - warm + 1))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
