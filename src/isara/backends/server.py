"""A model behind an OpenAI-compatible server: completes there, and scores there where all arms can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from isara.backends.checkpoints import hash_of
from isara.backends.dialect import Dialect, Written, read_completion, read_likelihood, rendered, trimmed
from isara.backends.endpoint import Endpoint, RefusedError
from isara.backends.hf import TransformersModel
from isara.backends.pacing import Call, Pace, gather
from isara.backends.probing import Served, load
from isara.errors import BackendError
from isara.protocols import Completion, Likelihood, Prompt, Sampling, Targets

Read = Callable[[Any], Any]
"""Makes something of the JSON of an answer."""


@dataclass
class Line:
    """What all models behind one server share: the way there, what it can do, how much it takes, what it was given."""

    endpoint: Endpoint
    served: Served
    pace: Pace
    loaded: set[str] = field(default_factory=set)
    """Names of the adapters that it has."""


class ServerModel:
    """The model that a server serves, bare or with an adapter loaded into it. Satisfies the `Model` protocol."""

    def __init__(self, line: Line, local: TransformersModel, adapter: Path | None = None) -> None:
        """Take the same weights on this machine as `local`: they do what the server cannot, loaded when first used."""
        self.line = line
        self.local = local
        self.adapter = adapter

    @property
    def name(self) -> str:
        """What a person calls this model."""
        return self.local.name

    @property
    def chat(self) -> bool:
        """Whether it has a chat template."""
        return self.local.chat

    def with_adapter(self, adapter: Path | None) -> ServerModel | TransformersModel:
        """Return the same model with tuned weights: in the server where it takes them, else on this machine."""
        if adapter == self.adapter:
            return self
        if adapter is None:
            return ServerModel(self.line, self.local.with_adapter(None))
        tuned = self.local.with_adapter(adapter)
        if not self.line.served.adapters or (adapter / "config.json").exists():
            return tuned
        return ServerModel(self.line, tuned, adapter)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in tokens."""
        return self.local.count(texts)

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order; what the server cannot be asked is completed locally."""
        served, dialect = self.line.served, self.dialect
        drawn = sampling.temperature > 0
        contents = [rendered(self.local.encoder, prompt, dialect.form) for prompt in prompts]
        there = [i for i, content in enumerate(contents) if content is not None and (served.draws or not drawn)]
        # Only likelihoods of greedy completions: with a temperature, servers differ in what they call the probability.
        bodies = [
            dialect.body(content, sampling, seeds[i], logs=served.adapters and not drawn)
            for i in there
            if (content := contents[i]) is not None
        ]
        written = self.ask(bodies, [read_completion] * len(bodies))
        done = {i: self.completion(prompts[i], sampling, one) for i, one in zip(there, written, strict=True)}
        left = [i for i in range(len(prompts)) if i not in done]
        if left:
            mine = self.local.complete([prompts[i] for i in left], sampling, seeds=[seeds[i] for i in left])
            # Likelihoods are compared, so all of them come from where `score` takes them.
            mine = [replace(one, likelihood=None) for one in mine] if served.adapters else mine
            done |= dict(zip(left, mine, strict=True))
        return [done[i] for i in range(len(prompts))]

    def completion(self, prompt: Prompt, sampling: Sampling, written: Written) -> Completion:
        """Return what the server wrote as a completion."""
        text, cut = trimmed(written.text, sampling.stop)
        tokens = written.tokens if written.tokens is not None else self.count([text])[0]
        likelihood = None if cut else self.likelihood(prompt, written)
        return Completion(text, tokens, written.finished or cut, likelihood)

    def likelihood(self, prompt: Prompt, written: Written) -> Likelihood | None:
        """Return how likely a completion was, where the server said so and its text is scored as the same tokens."""
        if not written.logs:
            return None
        own = self.local.encoder.completion(prompt, written.text)
        ends = written.ids[len(own) :]
        if not own or list(written.ids[: len(own)]) != own or not set(ends) <= set(self.dialect.stops):
            return None
        return Likelihood(sum(written.logs[: len(own)]), len(own))

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt, in order: all arms by the same engine."""
        if not self.line.served.adapters:
            return self.local.score(pairs, top_tokens=top_tokens)
        encoded = self.local.encoder.pairs(pairs)
        asked = [i for i, (_, completion) in enumerate(encoded) if completion]
        bodies = [self.dialect.scoring(*encoded[i]) for i in asked]
        # One at a time: several at once bring vLLM 0.32 down where it runs on a CPU with adapters (docs/log.md).
        found = self.ask(bodies, [reader(*encoded[i]) for i in asked], Pace(1))
        scored = [Likelihood(0.0, 0)] * len(pairs)
        for i, likelihood in zip(asked, found, strict=True):
            scored[i] = likelihood
        return scored

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets] | None:
        """Return the `k` likeliest tokens at each place of each completion, by the model on this machine."""
        return self.local.distributions(pairs, k)

    @cached_property
    def dialect(self) -> Dialect:
        """Return how to ask, by the name of the adapter where there is one."""
        dialect = self.line.served.dialect
        return dialect if self.adapter is None else replace(dialect, model=name_of(self.adapter))

    def ask(self, bodies: Sequence[dict[str, Any]], reads: Sequence[Read], pace: Pace | None = None) -> list[Any]:
        """Send requests, as many at once as the server gains by; return what is read from the answers, in order."""
        endpoint, path = self.line.endpoint, self.dialect.path
        pace = pace or self.line.pace

        def work(i: int, call: Call) -> Any:
            return endpoint.post(path, bodies[i], reads[i], halt=call.halt, pressed=call.pressed)

        if not bodies:
            return []
        self.bring()
        try:
            return gather(len(bodies), work, pace, time.monotonic)
        except RefusedError as error:
            if error.status != 404 or self.adapter is None:
                raise
        # A server that was started again has forgotten what it was given.
        self.line.loaded.discard(self.dialect.model)
        self.bring()
        return gather(len(bodies), work, pace, time.monotonic)

    def bring(self) -> None:
        """Load the adapter into the server, where it does not have it; raises BackendError where it refuses."""
        name = self.dialect.model
        if self.adapter is None or name in self.line.loaded:
            return
        folder = self.adapter.resolve()
        try:
            load(self.line.endpoint, name, folder)
        except RefusedError as error:
            raise BackendError(
                f"{self.line.endpoint.url}: it took an adapter of another folder, and not {folder} (status "
                f"{error.status}, {error.words!r}). Give --out a folder that the server can read under the same path, "
                "or set server.adapters=false to have tuned models answer on this machine."
            ) from error
        self.line.loaded.add(name)


def reader(prompt: list[int], completion: list[int]) -> Read:
    """Return what reads the likelihood of a completion from an answer."""
    return lambda answer: read_likelihood(answer, [*prompt, *completion], len(completion))


def name_of(adapter: Path) -> str:
    """Return a name for an adapter in a server: by its content, so that no other weights are taken for it."""
    return f"isara-{hash_of(adapter)[:16]}"
