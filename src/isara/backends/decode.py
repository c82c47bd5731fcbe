"""Decoding a batch, one token for each sequence at a time, each with its own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isara.backends.packing import prefill
from isara.backends.parts import cores_for, side_by_side
from isara.backends.targets import Likely, likeliest_in
from isara.protocols import Completion, Likelihood, Sampling

_LEAST_TOKENS, _LEAST_LANES = 512, 16
"""Fewest prompt tokens, and fewest sequences, that are worth a part of their own."""
_HEAD = 256
"""Most likely tokens looked at first; the nucleus is nearly always among them, so the vocabulary is not sorted."""
_MORE = 4096
"""Those looked at next, where it is not: a twelfth of the vocabulary, and a tenth of the time to sort it."""


@dataclass
class Lane:
    """One sequence on its way."""

    prompt: list[int]
    seed: int
    tokens: list[int] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    likely: list[Likely] = field(default_factory=list)
    """What was likeliest at each place, the end as well, where that is asked for."""
    text: str | None = None
    """Set when a stop string was met: what came before it."""
    ended: bool = False


def decode(
    network: Any,
    lanes: Sequence[Lane],
    sampling: Sampling,
    ends: frozenset[int],
    to_text: Callable[..., str],
) -> list[Completion]:
    """Return the completions of a batch that fits in memory, in order; a CPU's cores have a part of it each."""
    sizes = [len(lane.prompt) for lane in lanes]
    cores = min(cores_for(sum(sizes), _LEAST_TOKENS, network.device), max(1, len(lanes) // _LEAST_LANES))
    # Neighbours in sorted order begin alike, and are read together.
    order = sorted(range(len(lanes)), key=lambda i: lanes[i].prompt)
    some = -(-len(order) // cores)

    def work(part: Sequence[int]) -> None:
        with torch.inference_mode():
            write(network, [lanes[i] for i in part], sampling, ends, to_text)

    side_by_side(work, [order[i : i + some] for i in range(0, len(order), some)], cores)
    return [completion_of(lane, to_text) for lane in lanes]


def write(
    network: Any, lanes: Sequence[Lane], sampling: Sampling, ends: frozenset[int], to_text: Callable[..., str]
) -> None:
    """Let the sequences of a batch grow until each has ended."""
    device = network.device
    forest, layout = prefill([lane.prompt for lane in lanes], device, sampling.max_tokens)
    draws = uniforms(lanes, sampling.max_tokens)
    logits = network(
        input_ids=forest.tokens,
        position_ids=forest.positions,
        logits_to_keep=torch.tensor([rows[-1] for rows in forest.rows], device=device),
        use_cache=False,
        layout=forest,
    ).logits[0]
    going = list(range(len(lanes)))
    for step in range(sampling.max_tokens):
        chosen, logs = pick(logits, sampling, draws[going, step])
        note(lanes, going, logits, sampling.top_tokens)
        alive = []
        for place, (i, token, log) in enumerate(zip(going, chosen.tolist(), logs.tolist(), strict=True)):
            take(lanes[i], token, log, sampling.stop, ends, to_text)
            if not lanes[i].ended:
                alive.append(place)
        if not alive or step + 1 == sampling.max_tokens:
            break
        if len(alive) < len(going):
            kept = torch.tensor(alive, device=device)
            # Copying the cache costs about one step, so lanes are closed when several can go at once.
            if len(alive) <= 0.75 * len(going):
                layout.keep(kept)
                chosen, going = chosen[kept], [going[place] for place in alive]
        positions = layout.decode_step()
        logits = network(input_ids=chosen[None, :], position_ids=positions, use_cache=False, layout=layout).logits[0]
        layout.grew()


def note(lanes: Sequence[Lane], going: Sequence[int], logits: Tensor, k: int) -> None:
    """Note the `k` likeliest tokens of each lane that is going, from its row of logits; nothing where `k` is 0."""
    if k:
        likely = likeliest_in(logits, k)
        for i, ids, probabilities in zip(going, *likely, strict=True):
            if not lanes[i].ended:
                lanes[i].likely.append((ids, probabilities))


def take(
    lane: Lane, token: int, log: float, stops: Sequence[str], ends: frozenset[int], to_text: Callable[..., str]
) -> None:
    """Add a token to a lane, and end the lane where the token or a stop string says so."""
    if lane.ended:
        return
    if token in ends:
        lane.ended = True
        return
    lane.tokens.append(token)
    lane.logs.append(log)
    # A token is a byte at least, so no stop string that ends here begins before these.
    tail = max(16, *(len(stop.encode()) + 3 for stop in stops)) if stops else 0
    if stops and any(stop in to_text(lane.tokens[-tail:]) for stop in stops):
        whole = to_text(lane.tokens)
        cut = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=-1)
        # A tail can show a stop that the whole text does not, when it begins within a character.
        if cut >= 0:
            lane.text, lane.ended = whole[:cut], True


def completion_of(lane: Lane, to_text: Callable[..., str]) -> Completion:
    """Return what a lane wrote, markers left out."""
    text = to_text(lane.tokens, skip_special_tokens=True) if lane.text is None else lane.text
    # The likelihood is that of the text only where no stop string cut it off.
    whole = Likelihood(sum(lane.logs), len(lane.logs)) if lane.text is None else None
    return Completion(text, len(lane.tokens), lane.ended, whole)


def uniforms(lanes: Sequence[Lane], count: int) -> Tensor:
    """Return each lane's random numbers in [0, 1), shape (lanes, count), from its own seed."""
    rows = [
        torch.rand(count, generator=torch.Generator().manual_seed(lane.seed), dtype=torch.float64) for lane in lanes
    ]
    return torch.stack(rows)


def pick(logits: Tensor, sampling: Sampling, draws: Tensor) -> tuple[Tensor, Tensor]:
    """
    Choose a token for each row of logits, shape (rows, vocabulary).

    Returns the tokens and their log-probabilities under the untempered distribution. `draws` has one number in
    [0, 1) for each row; the token is where the nucleus's cumulative probability passes it (Holtzman et al. 2020).
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        tokens = nucleus(logits / sampling.temperature, sampling.top_p, draws.to(logits.device))
    logs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return tokens, logs


def nucleus(logits: Tensor, top_p: float, draws: Tensor) -> Tensor:
    """Sample each row from the smallest set of tokens that holds `top_p` of the probability."""
    total = logits.logsumexp(-1, keepdim=True)
    values, tokens = logits.topk(min(_HEAD, logits.shape[1]), dim=-1)
    shares = (values - total).double().exp()
    chosen = tokens.gather(1, place_in(shares, top_p, draws)[:, None])[:, 0]
    short = (shares.sum(-1) < top_p).nonzero()[:, 0]
    for most in (_MORE, logits.shape[1]):
        if not len(short) or values.shape[1] == logits.shape[1]:
            break
        values, tokens = in_order(logits[short], most)
        shares = (values - total[short]).double().exp()
        chosen[short] = tokens.gather(1, place_in(shares, top_p, draws[short])[:, None])[:, 0]
        # Which of the tokens that are as likely as the last one are there is chance, so the nucleus has to end before.
        within = torch.where(values > values[:, -1:], shares, 0.0).sum(-1) >= top_p
        short = short[~within]
    return chosen


def in_order(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the `most` largest of each row, falling, and their places; of equals the first place first."""
    # Row by row, so that what a row gets does not depend on its neighbours.
    if most >= logits.shape[1]:
        return logits.sort(dim=-1, descending=True, stable=True)
    places = logits.topk(most, dim=-1, sorted=False).indices.sort(dim=-1).values
    values, order = logits.gather(1, places).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(1, order)


def place_in(shares: Tensor, top_p: float, draws: Tensor) -> Tensor:
    """Return where in each row of falling probabilities the draw lands; the first place always counts."""
    before = shares.cumsum(-1) - shares
    shares = torch.where(before < top_p, shares, 0.0)
    shares[:, 0] = shares[:, 0].clamp_min(1e-300)
    ends = shares.cumsum(-1)
    place = (ends <= draws[:, None] * ends[:, -1:]).sum(-1).clamp_max(shares.shape[1] - 1)
    last = (shares > 0).sum(-1) - 1
    return torch.minimum(place, last)
