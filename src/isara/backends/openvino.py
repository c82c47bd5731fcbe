"""
A model on OpenVINO: completes prompts, and says how likely given completions are.

Sequences join and leave a running batch at any step, and what prompts begin with in common is computed once. The loop
around the compiled graph is isara's own and not that of OpenVINO GenAI, whose sampler has one random generator for all
requests, so that a completion would depend on its neighbours. Here each has its own, the same as on transformers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from isara.backends.checkpoints import Checkpoint, configured_ends, hash_of
from isara.backends.decode import Lane, completion_of, note, pick, take, uniforms
from isara.backends.hf import Tokenized, checked, choose_dtype, lengths
from isara.backends.openvino_graph import Batch
from isara.backends.openvino_pages import Lease
from isara.backends.openvino_session import Opened, Session
from isara.backends.openvino_stems import Stems
from isara.backends.positions import refuse_beyond
from isara.backends.targets import likeliest
from isara.protocols import Completion, Likelihood, Prompt, Sampling, Targets

_FORMATS = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


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
        self._content = ""

    def with_adapter(self, adapter: Path | None) -> OpenVinoModel:
        """Return the same checkpoint wearing the adapter in that folder, loaded when first used."""
        if adapter == self.adapter:
            return self
        dtype = str(self.dtype).removeprefix("torch.")
        return OpenVinoModel(self.checkpoint, dtype=dtype, adapter=adapter, opened=self.opened)

    def session(self) -> Session:
        """Return the compiled graph with this model's weights."""
        if self.adapter is None:
            return self.opened.bare()
        # Where there is no folder, what reads it says so.
        if not self._content and self.adapter.exists():
            self._content = hash_of(self.adapter)
        return self.opened.tuned(self.adapter, self._content)

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order; each has its own random seed, whatever its neighbours."""
        lanes = [Lane(self.encoder.prompt(prompt), seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        session = self.session()
        refuse_beyond(session.runner.positions, [len(lane.prompt) + sampling.max_tokens for lane in lanes])
        decode(session, lanes, sampling, self.ends(), self.tokenizer.decode)
        return [
            checked(self.encoder, prompt, lane, completion_of(lane, self.tokenizer.decode))
            for prompt, lane in zip(prompts, lanes, strict=True)
        ]

    def ends(self) -> frozenset[int]:
        """Return every token that ends a completion."""
        return self.encoder.ends(configured_ends(self.checkpoint.folder))

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt, in order; and what is likely at its places."""
        encoded = self.encoder.pairs(pairs)
        ended = self.encoder.with_ends(pairs, encoded) if top_tokens else encoded
        scored = [Likelihood(0.0, 0)] * len(pairs)

        def look(i: int, logits: Tensor) -> None:
            own = encoded[i][1]
            logs = token_logs(logits[: len(own)], own)
            targets = likeliest(ended[i][1], logits, top_tokens) if top_tokens else None
            scored[i] = Likelihood(float(logs.sum()), len(logs), targets)

        look_at(self.session(), ended, look)
        return scored

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets]:
        """Return the `k` likeliest tokens at each place of each completion, in order."""
        encoded = self.encoder.with_ends(pairs, self.encoder.pairs(pairs))
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
    """
    Let lanes write to their ends; one joins as soon as there are pages for the longest it may become.

    They join in sorted order, so that what begins alike is under way together and is not forgotten in between.
    """
    draws = uniforms(lanes, sampling.max_tokens)

    def finish(lane: Lane, token: int, log: float) -> None:
        take(lane, token, log, sampling.stop, ends, to_text)

    def write(waiting: deque[int], leases: dict[int, Lease]) -> None:
        for i in waiting:
            # Of what was under way when memory ran out.
            lanes[i].tokens.clear()
            lanes[i].logs.clear()
            lanes[i].likely.clear()
        stems = Stems(session, [lanes[i].prompt for i in waiting])
        while waiting or leases:
            step(session, stems, lanes, waiting, leases, draws, sampling, finish)

    order = sorted(range(len(lanes)), key=lambda i: lanes[i].prompt)
    session.work({i: len(lanes[i].prompt) + sampling.max_tokens for i in order}, write)


def step(
    session: Session,
    stems: Stems,
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
    for i in admitted(session, stems, lanes, waiting, leases, sampling.max_tokens, len(batch.tokens)):
        fresh = lanes[i].prompt[leases[i].known :]
        batch.add(fresh, leases[i].known, leases[i].pages, [len(fresh) - 1])
    going = list(leases)
    logits = torch.from_numpy(session.runner.run(batch))
    chosen, logs = pick(logits, sampling, draws[going, [len(lanes[i].tokens) for i in going]])
    note(lanes, going, logits, sampling.top_tokens)
    for i, token, log in zip(going, chosen.tolist(), logs.tolist(), strict=True):
        finish(lanes[i], token, log)
        if lanes[i].ended or len(lanes[i].tokens) == sampling.max_tokens:
            session.pages.give_back(leases.pop(i))


def admitted(
    session: Session,
    stems: Stems,
    lanes: Sequence[Lane],
    waiting: deque[int],
    leases: dict[int, Lease],
    most: int,
    tokens: int,
) -> list[int]:
    """Lease pages to the lanes that come next, as far as pages and the size of a batch allow; returns which."""
    joined = []
    stems.prepare()
    while waiting and (not tokens or tokens < session.most_tokens):
        prompt = lanes[waiting[0]].prompt
        lease = stems.lease(prompt, len(prompt) + most, alone=not leases)
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

    def joined(stems: Stems, waiting: deque[int], leases: dict[int, Lease]) -> Batch:
        batch = Batch()
        stems.prepare()
        while waiting and (not leases or session.fits(batch)):
            prompt, completion = pairs[waiting[0]]
            lease = stems.lease(prompt, len(prompt) + len(completion) - 1, alone=not leases)
            if lease is None:
                break
            leases[waiting.popleft()] = lease
            fresh = [*prompt[lease.known :], *completion[:-1]]
            batch.add(fresh, lease.known, lease.pages, range(len(fresh) - len(completion), len(fresh)))
        return batch

    def read(waiting: deque[int], leases: dict[int, Lease]) -> None:
        stems = Stems(session, [pairs[i][0] for i in waiting])
        while waiting:
            rows = torch.from_numpy(session.runner.run(joined(stems, waiting, leases)))
            for i, logits in zip(list(leases), torch.split(rows, [len(pairs[i][1]) for i in leases]), strict=True):
                look(i, logits)
                session.pages.give_back(leases.pop(i))

    sizes = lengths(pairs)
    refuse_beyond(session.runner.positions, sizes)
    order = sorted((i for i, (_, completion) in enumerate(pairs) if completion), key=lambda i: pairs[i][0])
    session.work({i: sizes[i] for i in order}, read)


def token_logs(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Return the log-probability of each target under its row of logits."""
    return (logits.gather(1, torch.tensor(targets)[:, None])[:, 0] - logits.logsumexp(-1)).double()
