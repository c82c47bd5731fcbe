"""How likely completions are after their prompts; what prompts and completions share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isara.backends.forest import Forest, cut, fresh, shared
from isara.backends.loss import log_probabilities
from isara.backends.memory import Budget, attempt
from isara.backends.packing import Layout
from isara.backends.parts import cores_for, side_by_side
from isara.protocols import Likelihood

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt, and of the completion after it."""

_LEAST = 256
"""Fewest tokens that are worth a part of their own."""
_MOST = 4096
"""Most tokens at once on a core."""


def score_encoded(network: Any, pairs: Sequence[Pair], budget: Budget) -> list[Likelihood]:
    """Return the likelihood of each completion (ids) after its prompt (ids), in order."""
    scored = [Likelihood(0.0, 0)] * len(pairs)
    left = [i for i, (_, completion) in enumerate(pairs) if completion]
    while left:
        rows = [fed(pairs[i]) for i in left]
        group = [left[place] for place in cut(rows, tokens_to_score(budget, network.device))[0]]
        said = attempt(lambda: divided(network, pairs, group, scored))  # noqa: B023  (called at once)
        if said is None:
            done = set(group)
            left = [i for i in left if i not in done]
        else:
            budget.shrink(fresh([fed(pairs[i]) for i in group]), said)
    return scored


def tokens_to_score(budget: Budget, device: torch.device) -> int:
    """Return how many tokens to score at once: more than a few thousand gain nothing on a CPU, and keep logits."""
    return min(budget.tokens, _MOST * torch.get_num_threads()) if device.type == "cpu" else budget.tokens


def divided(network: Any, pairs: Sequence[Pair], group: Sequence[int], scored: list[Likelihood]) -> None:
    """Score a group of pairs, a part of it on each core, into their places."""
    rows = [fed(pairs[i]) for i in group]
    total = sum(fresh(rows))
    cores = cores_for(total, _LEAST, network.device)

    def work(part: Sequence[int]) -> None:
        inside = [group[place] for place in part]
        for i, likelihood in zip(inside, likelihoods(network, [pairs[i] for i in inside]), strict=True):
            scored[i] = likelihood

    side_by_side(work, cut(rows, -(-total // cores)), cores)


def likelihoods(network: Any, pairs: Sequence[Pair]) -> list[Likelihood]:
    """Return the likelihoods of completions that fit in memory together."""
    with torch.inference_mode():
        logs = completion_logs(network, pairs).double().cpu()
    counts = [len(completion) for _, completion in pairs]
    return [Likelihood(float(part.sum()), len(part)) for part in torch.split(logs, counts)]


def completion_logs(network: Any, pairs: Sequence[Pair]) -> Tensor:
    """Return the log-probability of every completion token, end to end."""
    device = network.device
    forest = Forest([fed(pair) for pair in pairs], device)
    places = before_completions(forest.rows, pairs)
    asked = sorted(set(places))
    at = {row: i for i, row in enumerate(asked)}
    logits = network(
        input_ids=forest.tokens,
        position_ids=forest.positions,
        logits_to_keep=torch.tensor(asked, device=device),
        use_cache=False,
        layout=forest,
    ).logits.squeeze(0)
    targets = torch.tensor([token for _, completion in pairs for token in completion], device=device)
    if asked != places:
        logits = logits[torch.tensor([at[row] for row in places], device=device)]
    return log_probabilities(logits, targets)


def completion_logits(network: Any, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return the logits before every completion token, end to end, and the tokens; for training."""
    device = network.device
    tokens, rows = shared([fed(pair) for pair in pairs])
    layout = Layout([len(row) for row in rows], device, rows)
    places = before_completions(rows, pairs)
    logits = network(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=layout.positions,
        logits_to_keep=torch.tensor(places, device=device),
        use_cache=False,
        layout=layout,
    ).logits.squeeze(0)
    return logits, torch.tensor([token for _, completion in pairs for token in completion], device=device)


def before_completions(rows: Sequence[Sequence[int]], pairs: Sequence[Pair]) -> list[int]:
    """Return the rows before the tokens of every completion, end to end, where each pair stands in some rows."""
    return [row for own, (prompt, _) in zip(rows, pairs, strict=True) for row in own[len(prompt) - 1 :]]


def fed(pair: Pair) -> list[int]:
    """Return the tokens that have to be read: nothing follows from the last one."""
    prompt, completion = pair
    return [*prompt, *completion[:-1]]
