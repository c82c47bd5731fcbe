"""The three slow things (a model, an embedder, a trainer) and all that isara asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Role = Literal["user", "assistant"]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Turn:
    """One finished turn of a conversation."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation whose next turn the model is to write, through its own chat template."""

    turns: tuple[Turn, ...]
    opens: Role = "assistant"
    """Who speaks next. `user` lets the model write a question."""


Prompt = str | Chat
"""Plain text to continue, or a conversation to go on with."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn."""

    max_tokens: int
    temperature: float = 0.0
    """0 takes the most likely token each time."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """A completion ends before the first of these; the end of a turn always ends it."""
    top_tokens: int = 0
    """Tell that many of the likeliest tokens at each place, where a model can (temperature and `top_p` left out)."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds a given completion."""

    total: float
    """Sum of the natural-log probabilities of its tokens (nats, at most 0)."""
    tokens: int
    targets: Targets | None = field(default=None, compare=False)
    """What was likely at each place of the completion, where that was asked for and the engine tells it."""

    @property
    def nll(self) -> float:
        """Negative log-likelihood per token, in nats; lower is more likely."""
        return -self.total / max(1, self.tokens)


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    tokens: int
    finished: bool
    """Whether it ended by itself (a stop string or the end of a turn) and not at `max_tokens`."""
    likelihood: Likelihood | None = None
    """How likely the text was to the model that wrote it, where that was known at no cost."""
    targets: Targets | None = field(default=None, compare=False)
    """What was likely at each place of the text, space around it aside, where that was asked for and noted."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Which tokens a model found likeliest at each place of a completion."""

    tokens: tuple[int, ...]
    """The completion in the model's own tokens; after a `Chat`, the end of the turn is the last of them."""
    ids: NDArray[np.int32]
    """The likeliest tokens at each of these places, shape (places, k)."""
    probabilities: NDArray[np.float16]
    """Their probabilities, the same shape."""


class Model(Protocol):
    """Anything that completes text and says how likely a given completion is."""

    @property
    def name(self) -> str:
        """What a person calls this model."""
        ...

    @property
    def chat(self) -> bool:
        """Whether it has a chat template, and so takes a `Chat` as prompt."""
        ...

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order; `seeds` has one random seed for each."""
        ...

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """
        Return the likelihood of each completion after its prompt, in order; the end of the turn not counted.

        With it that many of the likeliest tokens at each place, where they are at hand at no cost.
        """
        ...

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets] | None:
        """Return the `k` likeliest tokens at each place of each completion, in order; None where that is not told."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in this model's tokens."""
        ...

    def with_adapter(self, adapter: Path | None) -> Model:
        """Return the same base model with the tuned weights in that folder, or bare for None."""
        ...


class Embedder(Protocol):
    """Anything that turns texts into vectors whose inner product says how alike they are."""

    @property
    def name(self) -> str:
        """What a person calls this embedder."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of length 1, shape (texts, dimensions)."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """One training example; the loss is on the completion and on the end of the turn after it."""

    id: str
    prompt: Prompt
    completion: str
    weight: float = 1.0
    """How often it is drawn, against the others."""
    targets: Callable[[], Targets] | None = None
    """Reads what the loss compares with in place of the completion's own tokens, where the tokens are the same."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a trainer tells while it works."""

    number: int
    """Optimiser steps done."""
    of: int
    loss: float
    """Mean training loss of this step, nats per token."""
    heldout: tuple[float, ...] | None = None
    """NLL per token of each held-out example after this step, where they were scored."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The outcome of a training."""

    steps: int
    """Steps done, fewer than asked for where the trainer saw that more would be of no use."""
    best_step: int
    """The step whose weights were kept."""
    curve: tuple[Step, ...]


class Trainer(Protocol):
    """Anything that fits a model to examples."""

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
        Tune for up to `steps` optimiser steps into the folder `out`, with a peak learning rate (None: its usual one).

        The weights begin as those in `start` (None: the base model). Called again after a crash with the same
        arguments, it goes on from its last checkpoint or starts over, and ends with the same weights. `out` is complete
        when this returns.
        """
        ...

    def average(self, folders: Sequence[Path], out: Path) -> None:
        """Leave the mean of what trainings left in several folders in the folder `out`, whole when it is there."""
        ...

    def lengths(self, examples: Sequence[Example]) -> list[int]:
        """Return the training length of each example in tokens: template, prompt, completion and end of turn."""
        ...
