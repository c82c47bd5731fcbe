"""A trainer on torch: packed batches, loss on the answers alone, the held-out samples watched, savepoints kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isara.backends.adapter import adapted_layers, load_state, read_state, state_of, write_adapter
from isara.backends.averages import mean_of_adapters, write_mean_of_networks
from isara.backends.checkpoints import Checkpoint
from isara.backends.drawing import draw_order
from isara.backends.hf import (
    Base,
    TransformersModel,
    choose_device,
    choose_dtype,
    load_network,
    load_tokenizer,
)
from isara.backends.loss import answer_loss
from isara.backends.memory import Budget, attempt, give_back, grouped
from isara.backends.parts import cores_for, on_one_core, shares, side_by_side
from isara.backends.positions import positions_of, refuse_beyond
from isara.backends.rounding import rounded_at_random
from isara.backends.savepoints import Savepoint, appearing, save_whole
from isara.backends.scoring import Pair, completion_logits, score_encoded
from isara.backends.targets import Soft, aligned, soft_loss
from isara.backends.template import Encoder
from isara.protocols import Chat, Example, Model, Step, Trained
from isara.retrieve import request_seed
from isara.settings import TrainSettings
from isara.turning import has_turned

_LEAST = 128
"""Fewest tokens that are worth a part of their own: below, matrix products get slow."""


class TransformersTrainer:
    """Tunes a checkpoint with adapters, or all of it. Satisfies the `Trainer` protocol."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: TrainSettings,
        *,
        device: str = "auto",
        dtype: str = "auto",
        beside: Model | None = None,
        int8: bool = False,
    ) -> None:
        """
        Take a checkpoint; the frozen weights are shared with the model `beside` where that is one of this kind.

        With `int8` adapters are tuned on weights in 8 bits where numbers are float32, on a CPU.
        """
        self.checkpoint = checkpoint
        self.settings = settings
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        # Where a processor multiplies bfloat16, that is as fast and closer.
        self.int8 = int8 and self.device.type == "cpu" and self.dtype == torch.float32
        self.base = Base(checkpoint.folder, self.device, self.dtype, checkpoint.trust)
        if isinstance(beside, TransformersModel) and beside.base.same_as(self.base):
            self.base = beside.base
        self.encoder = Encoder(load_tokenizer(checkpoint.folder, checkpoint.trust))
        self.budget = Budget(
            max(settings.max_tokens, tokens_to_train_on(self.device)), "training on", "train.max_tokens"
        )
        self.judging = Budget(4096, "scoring in training", "train.max_tokens")

    def encode(self, example: Example) -> Pair:
        """Return an example as ids; the end of the turn is part of the completion, and so of the loss."""
        completion = self.encoder.completion(example.prompt, example.completion)
        return self.encoder.prompt(example.prompt), [*completion, self.encoder.end]

    def average(self, folders: Sequence[Path], out: Path) -> None:
        """Leave the mean of what trainings left in several folders in the folder `out`, whole when it is there."""
        if self.settings.method == "full":
            write_mean_of_networks(folders, out)
        else:
            self.write_factors(mean_of_adapters(folders), out)

    def write_factors(self, state: dict[str, Tensor], out: Path) -> None:
        """Write the factors of an adapter into a folder that appears only when it is complete."""
        base = str(self.checkpoint.name)
        with appearing(out) as scratch:
            write_adapter(scratch, state, base=base, rank=self.settings.rank, alpha=self.settings.alpha)

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
        learning_rate: float | None = None,
    ) -> Trained:
        """
        Tune for `steps` steps into the folder `out`; goes on from its savepoint beside `out` where there is one.

        Ends sooner where the best step is to be kept and the checks of the held-out samples have turned.
        """
        weights = Weights(self, start, seed)
        rate = self.settings.learning_rate if learning_rate is None else learning_rate
        optimiser = torch.optim.AdamW(weights.trainable(), lr=rate, weight_decay=0.0, fused=True)
        savepoint = Savepoint(out.parent / f"{out.name}.savepoint")
        state = savepoint.load(weights, optimiser)
        pairs = [self.encode(example) for example in examples]
        # The end of the turn is not counted in held-out scores, here as everywhere.
        judged = [(prompt, completion[:-1]) for prompt, completion in map(self.encode, heldout)]
        longest = [len(prompt) + len(completion) for prompt, completion in (*pairs, *judged)]
        most = positions_of(weights.network)
        refuse_beyond(most, longest, "Lower train.max_tokens to that, and set train.overlong='drop'.")
        order = draw_order([example.weight for example in examples], steps * self.settings.batch, seed)
        # Of a large pool few examples are ever drawn, so that only their targets are read.
        soft = {i: taught(examples[i], pairs[i], self.encoder) for i in set(order[state.step * self.settings.batch :])}
        checks = check_steps(steps, self.settings.checks) if judged else frozenset()
        for number in range(state.step + 1, steps + 1):
            drawn = order[(number - 1) * self.settings.batch : number * self.settings.batch]
            set_rate(optimiser, rate * schedule(number, steps))
            loss = weights.step(number, [pairs[i] for i in drawn], optimiser, [soft[i] for i in drawn])
            scores = weights.score(judged, number) if number in checks else None
            state.add(Step(number, steps, loss, scores))
            if self.settings.keep == "best" and state.best_step == number:
                state.best = weights.copy()
            ended = self.settings.keep == "best" and has_turned(state.curve, self.settings.patience)
            if not ended and number % self.settings.checkpoint == 0 and number < steps:
                savepoint.save(weights, optimiser, state)
            watch(state.curve[-1])
            if ended:
                break
        if state.best:
            weights.put(state.best)
        best = state.best_step if self.settings.keep == "best" and checks else steps
        weights.write(out, best)
        savepoint.clear()
        optimiser.zero_grad(set_to_none=True)
        give_back()
        return Trained(state.step, best, tuple(state.curve))


def tokens_to_train_on(device: torch.device) -> int:
    """Return how many tokens to train on at once at first: a GPU needs more of them to be kept busy."""
    return 4096 if device.type == "cpu" else 16384


def taught(example: Example, pair: Pair, encoder: Encoder) -> Soft | None:
    """
    Return what an example teaches in place of its own tokens; None where it has no targets.

    A space in front of an answer is no part of it. What a teacher gave to a first word after one is given to the word:
    where the references begin without it, a model taught otherwise finds each of them unlikely from the start.
    """
    soft = aligned(pair[1], example.targets()) if example.targets is not None else None
    if soft is not None and isinstance(example.prompt, Chat) and not encoder.spaced(example.prompt, ""):
        first = soft[0][0]
        first.copy_(torch.tensor([encoder.unspaced.get(token, token) for token in first.tolist()]))
    return soft


class Weights:
    """The network in training: adapters on a frozen base, or all of it."""

    def __init__(self, trainer: TransformersTrainer, start: Path | None, seed: int) -> None:
        self.trainer = trainer
        self.seed = seed
        self.lora = trainer.settings.method == "lora"
        if self.lora:
            layers = trainer.base.layers()
            rank, alpha = trainer.settings.rank, trainer.settings.alpha
            self.adapted = adapted_layers(layers, rank, alpha, seed, int8=trainer.int8)
            if start is not None:
                load_state(self.adapted, read_state(start))
        else:
            trust = trainer.checkpoint.trust.for_own if start else trainer.checkpoint.trust
            self.whole = load_network(start or trainer.checkpoint.folder, trainer.device, torch.float32, trust)
            self.kept = {name: tensor.detach() for name, tensor in self.whole.named_parameters()}
            if trainer.dtype == torch.bfloat16:
                # The optimiser keeps float32 weights (Micikevicius et al. 2018, arXiv 1710.03740), as in bfloat16 small
                # updates would be rounded away. In float16 gradients would be, so that all is in float32 there.
                self.whole = load_network(start or trainer.checkpoint.folder, trainer.device, trainer.dtype, trust)

    @property
    def network(self) -> Any:
        """The network in training."""
        return self.trainer.base.wearing(self.adapted) if self.lora else self.whole

    def named(self) -> dict[str, Tensor]:
        """Return the tensors in training, by the names they are saved under."""
        if not self.lora:
            return self.kept
        named: dict[str, Tensor] = {}
        for name, layer in self.adapted.items():
            named[f"base_model.model.{name}.lora_A.weight"] = layer.a
            named[f"base_model.model.{name}.lora_B.weight"] = layer.b
        return named

    def trainable(self) -> list[Tensor]:
        """Return the tensors in training, as the optimiser has them."""
        return list(self.named().values())

    def in_use(self) -> list[Tensor]:
        """Return the same tensors as the network has them, in the number format it computes in."""
        return self.trainable() if self.lora else list(self.whole.parameters())

    def take_over(self, done: int) -> None:
        """Give the network the weights that the optimiser keeps after so many steps, where those are another copy."""
        if self.lora or self.whole.dtype == torch.float32:
            return
        # By the steps done, so that the same weights are trained on, judged and written, also after a kill.
        dice = torch.Generator(self.trainer.device).manual_seed(request_seed(self.seed, done))
        with torch.no_grad():
            for own, kept in zip(self.in_use(), self.trainable(), strict=True):
                own.copy_(rounded_at_random(kept, dice))

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
        for name, tensor in self.named().items():
            tensor.copy_(state[name])

    def step(
        self, number: int, batch: Sequence[Pair], optimiser: torch.optim.Optimizer, soft: Sequence[Soft | None]
    ) -> float:
        """Take a step (from 1) on a batch, in as many parts as memory asks for; returns the mean loss per token."""
        self.take_over(number - 1)
        total = sum(len(completion) for _, completion in batch)
        sizes = [len(prompt) + len(completion) for prompt, completion in batch]
        network, tensors, in_use = self.network, self.trainable(), self.in_use()
        losses: list[Tensor] = []
        group: list[int] = []

        def gradients(part: Sequence[int]) -> tuple[Tensor, Sequence[Tensor | None]]:
            inside = [group[place] for place in part]
            loss = packed_loss(network, [batch[i] for i in inside], total, [soft[i] for i in inside])
            return loss.detach(), torch.autograd.grad(loss, in_use, allow_unused=True)

        def accumulate() -> None:
            inside = [sizes[i] for i in group]
            cores = cores_for(sum(inside), _LEAST, network.device)
            # Added up in the same order each time, so that the same batch takes the same step.
            for loss, more in side_by_side(gradients, shares(inside, cores), cores):
                losses.append(loss)
                for tensor, gradient in zip(tensors, more, strict=True):
                    if gradient is not None:
                        tensor.grad = gradient.to(tensor.dtype) if tensor.grad is None else tensor.grad.add_(gradient)

        while True:
            # A part that failed may have left some gradients, so the whole batch is begun again.
            optimiser.zero_grad(set_to_none=True)
            losses.clear()
            for group in grouped(sizes, self.trainer.budget.tokens):
                said = attempt(accumulate)
                if said is not None:
                    self.trainer.budget.shrink([sizes[i] for i in group], said)
                    break
            else:
                break
        # Beside another program that keeps the cores busy, hundreds of factors took a second to update on all of them.
        with on_one_core() if self.lora else nullcontext():
            torch.nn.utils.clip_grad_norm_(tensors, 1.0)
            optimiser.step()
        # Asked for once the step is under way: whoever reads a number of a GPU waits for all that it still has to do.
        return sum(map(float, losses))

    def score(self, pairs: Sequence[Pair], done: int) -> tuple[float, ...]:
        """Return the NLL per token of each completion under the weights after so many steps."""
        self.take_over(done)
        return tuple(likelihood.nll for likelihood in score_encoded(self.network, pairs, self.trainer.judging))

    def write(self, out: Path, done: int) -> None:
        """Leave the weights after so many steps in a folder that appears only when it is complete."""
        if self.lora:
            self.trainer.write_factors(self.copy(), out)
            return
        self.take_over(done)
        with appearing(out) as scratch:
            save_whole(self.network.to(self.trainer.dtype), self.trainer.encoder.tokenizer, scratch)


def packed_loss(network: Any, batch: Sequence[Pair], total: int, soft: Sequence[Soft | None] = ()) -> Tensor:
    """Return the cross-entropy with what the completions teach, summed over their tokens and divided by `total`."""
    logits, targets = completion_logits(network, batch)
    if any(one is not None for one in soft):
        return soft_loss(logits, targets, total, [len(completion) for _, completion in batch], soft)
    return answer_loss(logits, targets, total)


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
