"""
A model on OpenVINO: completes prompts, and says how likely given completions are.

Sequences join and leave a running batch at any step, and what prompts begin with in common is computed once. The loop
around the compiled graph is isara's own and not that of OpenVINO GenAI, whose sampler has one random generator for all
requests, so that a completion would depend on its neighbours. Here each has its own, the same as on transformers.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from isara.backends.adapter import PARTS, read_scale, read_state
from isara.backends.checkpoints import Checkpoint, configured_ends
from isara.backends.decode import Lane, completion_of, pick, take, uniforms
from isara.backends.hf import Tokenized, checked, choose_dtype
from isara.backends.openvino_export import FILE, export, exported
from isara.backends.openvino_graph import Batch, Factors, Graph, Runner, add_adapter, compress, read_graph
from isara.backends.openvino_pages import Lease, Pages
from isara.backends.targets import likeliest
from isara.errors import BackendError
from isara.protocols import Completion, Likelihood, Prompt, Sampling, Targets

_FORMATS = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
_MOST_TOKENS = 2048
"""Tokens computed at once; more would fill memory with what is between the layers, and win nothing."""
_MOST_LOGITS = 1 << 26
"""Logits made at once (256 MiB)."""


class Session:
    """A compiled graph, its pages, and whose adapter it wears."""

    def __init__(self, runner: Runner, batch_tokens: int) -> None:
        self.runner = runner
        self.batch_tokens = batch_tokens
        self.pages = Pages(0, runner.page_size)
        self.worn: object = None

    def fits(self, batch: Batch) -> bool:
        """Whether a batch can take in another sequence."""
        return len(batch.tokens) < _MOST_TOKENS and len(batch.places) * self.runner.vocabulary < _MOST_LOGITS

    def begin(self, longest: int) -> None:
        """
        Begin a call: with enough pages for its longest sequence, and none of them known.

        What is shared is shared within a call. Were it kept, a run that goes on after a kill would begin with other
        pages than one that was never stopped, and might round in another way.
        """
        self.pages.forget()
        wanted = self.pages.needed(max(self.batch_tokens, longest))
        if wanted > self.pages.count:
            self.runner.make_room(wanted)
            self.pages = Pages(wanted, self.runner.page_size)

    def abandon(self, leases: Iterable[Lease]) -> None:
        """Give back what is still in use after an error; nothing that it may have left half computed stays known."""
        for lease in list(leases):
            self.pages.give_back(lease)
            self.pages.forget()

    def wear(self, owner: object, factors: Mapping[str, Factors]) -> None:
        """Put an adapter on where another one is worn."""
        if self.worn is not owner:
            self.runner.wear(factors)
            self.worn = owner


class Opened:
    """A converted checkpoint, compiled when it is first used: bare, and once more with a place for adapters."""

    def __init__(self, checkpoint: Checkpoint, number_format: str, batch_tokens: int, *, int8: bool = False) -> None:
        self.file = exported(checkpoint)
        self.number_format = number_format
        self.int8 = int8
        self.batch_tokens = batch_tokens
        self._sessions: dict[frozenset[tuple[str, tuple[int, int]]], Session] = {}

    def session(self, layers: Mapping[str, tuple[int, int]]) -> Session:
        """Return the session with places for an adapter on those layers."""
        key = frozenset(layers.items())
        if key not in self._sessions:
            graph = read_graph(self.file)
            self._sessions[key] = self.compiled(graph, layers)
        return self._sessions[key]

    def tuned(self, folder: Path) -> Session:
        """Return a session with the fully tuned weights in a folder: converted for this once, and not kept."""
        with tempfile.TemporaryDirectory(prefix="isara-openvino-") as scratch:
            export(folder, Path(scratch))
            graph = read_graph(Path(scratch) / FILE)
        return self.compiled(graph, {})

    def compiled(self, graph: Graph, layers: Mapping[str, tuple[int, int]]) -> Session:
        """Return a graph made ready to run."""
        if self.int8:
            compress(graph)
        if layers:
            add_adapter(graph, layers)
        return Session(Runner(graph, self.number_format), self.batch_tokens)


class OpenVinoModel(Tokenized):
    """A checkpoint on OpenVINO, bare or tuned. Satisfies the `Model` protocol."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "auto",
        batch_tokens: int = 16384,
        int8: bool = False,
        adapter: Path | None = None,
        opened: Opened | None = None,
    ) -> None:
        super().__init__(checkpoint)
        self.dtype = choose_dtype(dtype, torch.device("cpu"))
        self.adapter = adapter
        self.opened = opened or Opened(checkpoint, _FORMATS[self.dtype], batch_tokens, int8=int8)
        self._tuned: Session | None = None
        self._factors: Mapping[str, Factors] | None = None

    def with_adapter(self, adapter: Path | None) -> OpenVinoModel:
        """Return the same checkpoint wearing the adapter in that folder, loaded when first used."""
        if adapter == self.adapter:
            return self
        dtype = str(self.dtype).removeprefix("torch.")
        return OpenVinoModel(self.checkpoint, dtype=dtype, adapter=adapter, opened=self.opened)

    def session(self) -> Session:
        """Return the compiled graph with this model's weights."""
        if self.adapter is None:
            return self.opened.session({})
        if (self.adapter / "config.json").exists():
            self._tuned = self._tuned or self.opened.tuned(self.adapter)
            return self._tuned
        if self._factors is None:
            self._factors = read_factors(self.adapter)
        session = self.opened.session({name: (a.shape[1], b.shape[0]) for name, (a, b) in self._factors.items()})
        session.wear(self, self._factors)
        return session

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order; each has its own random seed, whatever its neighbours."""
        lanes = [Lane(self.encoder.prompt(prompt), seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        decode(self.session(), lanes, sampling, self.ends(), self.tokenizer.decode)
        return [
            checked(self.encoder, prompt, lane, completion_of(lane, self.tokenizer.decode))
            for prompt, lane in zip(prompts, lanes, strict=True)
        ]

    def ends(self) -> frozenset[int]:
        """Return every token that ends a completion."""
        return self.encoder.ends(configured_ends(self.checkpoint.folder))

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt, in order."""
        encoded = [
            (self.encoder.prompt(prompt), self.encoder.completion(prompt, completion)) for prompt, completion in pairs
        ]
        scored = [Likelihood(0.0, 0)] * len(pairs)

        def look(i: int, logits: Tensor) -> None:
            logs = token_logs(logits, encoded[i][1])
            scored[i] = Likelihood(float(logs.sum()), len(logs))

        look_at(self.session(), encoded, look)
        return scored

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets]:
        """Return the `k` likeliest tokens at each place of each completion, in order."""
        encoded = self.encoder.with_ends(pairs)
        # A completion of no tokens has no places, and is not looked at.
        nothing = torch.empty(0, self.session().runner.vocabulary)
        found = {i: likeliest([], nothing, k) for i, (_, completion) in enumerate(encoded) if not completion}

        def look(i: int, logits: Tensor) -> None:
            found[i] = likeliest(encoded[i][1], logits, k)

        look_at(self.session(), encoded, look)
        return [found[i] for i in range(len(pairs))]


def decode(
    session: Session, lanes: Sequence[Lane], sampling: Sampling, ends: frozenset[int], to_text: Callable[..., str]
) -> None:
    """Let lanes write to their ends; one joins as soon as there are pages for the longest it may become."""
    draws = uniforms(lanes, sampling.max_tokens)
    session.begin(max((len(lane.prompt) for lane in lanes), default=0) + sampling.max_tokens)
    waiting, leases = deque(range(len(lanes))), dict[int, Lease]()

    def finish(lane: Lane, token: int, log: float) -> None:
        take(lane, token, log, sampling.stop, ends, to_text)

    try:
        while waiting or leases:
            step(session, lanes, waiting, leases, draws, sampling, finish)
    finally:
        session.abandon(leases.values())


def step(
    session: Session,
    lanes: Sequence[Lane],
    waiting: deque[int],
    leases: dict[int, Lease],
    draws: Tensor,
    sampling: Sampling,
    finish: Callable[[Lane, int, float], None],
) -> None:
    """Compute the next token of every lane under way, and the first one of those that can join."""
    batch = Batch()
    for i, lease in leases.items():
        batch.add(lanes[i].tokens[-1:], len(lanes[i].prompt) + len(lanes[i].tokens) - 1, lease.pages, [0])
    for i in admitted(session, lanes, waiting, leases, sampling.max_tokens, len(batch.tokens)):
        fresh = lanes[i].prompt[leases[i].known :]
        batch.add(fresh, leases[i].known, leases[i].pages, [len(fresh) - 1])
    going = list(leases)
    logits = torch.from_numpy(session.runner.run(batch))
    chosen, logs = pick(logits, sampling, draws[going, [len(lanes[i].tokens) for i in going]])
    for i, token, log in zip(going, chosen.tolist(), logs.tolist(), strict=True):
        finish(lanes[i], token, log)
        if lanes[i].ended or len(lanes[i].tokens) == sampling.max_tokens:
            session.pages.give_back(leases.pop(i))


def admitted(
    session: Session, lanes: Sequence[Lane], waiting: deque[int], leases: dict[int, Lease], most: int, tokens: int
) -> list[int]:
    """Lease pages to the lanes that come next, as far as pages and the size of a batch allow; returns which."""
    joined = []
    while waiting and (not tokens or tokens < _MOST_TOKENS):
        prompt = lanes[waiting[0]].prompt
        lease = session.pages.lease(prompt, len(prompt) + most)
        if lease is None:
            break
        leases[waiting[0]] = lease
        joined.append(waiting.popleft())
        tokens += len(prompt) - lease.known
    return joined


def look_at(
    session: Session, pairs: Sequence[tuple[list[int], list[int]]], look: Callable[[int, Tensor], None]
) -> None:
    """Call `look` for each completion (ids) with the logits before its tokens; what prompts share is computed once."""
    waiting = deque(i for i, (_, completion) in enumerate(pairs) if completion)
    session.begin(max((len(prompt) + len(completion) for prompt, completion in pairs), default=0))
    while waiting:
        batch, leases = Batch(), dict[int, Lease]()
        try:
            while waiting and (not leases or session.fits(batch)):
                prompt, completion = pairs[waiting[0]]
                lease = session.pages.lease(prompt, len(prompt) + len(completion) - 1)
                if lease is None:
                    break
                leases[waiting.popleft()] = lease
                fresh = [*prompt[lease.known :], *completion[:-1]]
                batch.add(fresh, lease.known, lease.pages, range(len(fresh) - len(completion), len(fresh)))
            rows = torch.from_numpy(session.runner.run(batch))
            for i, logits in zip(list(leases), torch.split(rows, [len(pairs[i][1]) for i in leases]), strict=True):
                look(i, logits)
                session.pages.give_back(leases.pop(i))
        finally:
            session.abandon(leases.values())


def token_logs(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Return the log-probability of each target under its row of logits."""
    return (logits.gather(1, torch.tensor(targets)[:, None])[:, 0] - logits.logsumexp(-1)).double()


def read_factors(folder: Path) -> dict[str, Factors]:
    """Return the factors of the adapter in a folder by the names of their layers; raises BackendError."""
    rank, alpha = read_scale(folder)
    state = read_state(folder)
    names = sorted({key.removeprefix("base_model.model.").rpartition(".lora_")[0] for key in state})
    try:
        pairs = {name: [state[f"base_model.model.{name}.{part}.weight"].float() for part in PARTS] for name in names}
    except KeyError as error:
        raise BackendError(f"{folder}: this adapter has more or less than A and B for a layer ({error}).") from error
    return {name: ((a * (alpha / rank)).numpy(), b.numpy()) for name, (a, b) in pairs.items()}
