"""
Whether a network gives texts that share a row the numbers that each gets alone: asked once, when it is loaded.

Packing rests on two things that an architecture may not grant: that nothing but attention mixes tokens, and that all
of its attention goes through transformers' interface. Where either fails, scores would be wrong and nothing would
look wrong, so a few tokens are run both ways before anything else is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isara.backends.packing import IMPLEMENTATION, Layout, prefill
from isara.backends.quiet import quiet_loading
from isara.errors import BackendError

_LENGTHS = (8, 6)

_checked: set[tuple[str, torch.device, torch.dtype]] = set()
"""What has passed in this process: the same weights are loaded for every arm of a run."""


def check_packing(network: Any, folder: Path) -> None:
    """Raise BackendError where a network does not give packed texts the numbers that transformers gives each alone."""
    asked = (str(folder), network.device, network.dtype)
    if asked in _checked:
        return
    sequences = probes(network.get_input_embeddings().num_embeddings)
    try:
        with torch.inference_mode():
            wanted = alone(network, sequences)
            found, windows = packed(network, sequences)
            found += in_a_row(network, sequences)
            distances = [distance(*pair) for pair in zip(found, [*wanted, *wanted[:-1]], strict=True)]
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise BackendError(refusal(folder, f"it stops with {type(error).__name__}: {error}")) from error
    # In bfloat16 two right ways of adding up differ by up to 0.04 on a 135M model.
    limit = 2e-3 if network.dtype == torch.float32 else 0.2
    if max(distances) > limit:
        raise BackendError(
            refusal(folder, f"next-token probabilities move by {max(distances):.3f}, and {limit:g} is rounding")
        )
    if window_missed(network.config.get_text_config().to_dict(), windows):
        raise BackendError(refusal(folder, "its sliding or chunked window never reaches the attention"))
    _checked.add(asked)


def refusal(folder: Path, why: str) -> str:
    """Return the sentence that says which model cannot be used, why, and what can."""
    return (
        f"{folder}: this architecture does not work here: texts packed into one row come out wrong ({why}). "
        "Use a model whose attention is transformers' own, such as Llama, Mistral, Qwen, Gemma, Phi, OLMo or GPT-OSS."
    )


def probes(vocabulary: int) -> list[list[int]]:
    """Return two short sequences of token ids; the ends of the vocabulary, where markers are, are left out."""
    ids = [vocabulary // 4 + (31 * i * i + 7 * i) % (vocabulary // 2) for i in range(sum(_LENGTHS))]
    return [ids[: _LENGTHS[0]], ids[_LENGTHS[0] :]]


def alone(network: Any, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the logits of each sequence by transformers' own attention; the last places of all come at the end."""
    with quiet_loading():
        network.set_attn_implementation("eager")
        try:
            rows = [
                network(input_ids=torch.tensor([sequence], device=network.device), use_cache=False).logits[0]
                for sequence in sequences
            ]
        finally:
            network.set_attn_implementation(IMPLEMENTATION)
    return [*(row[:-1] for row in rows), torch.stack([row[-1] for row in rows])]


def packed(network: Any, sequences: Sequence[Sequence[int]]) -> tuple[list[Tensor], set[int | None]]:
    """Return the same logits as decoding makes them, the last places in a further step, and the windows asked for."""
    starts = [list(sequence[:-1]) for sequence in sequences]
    forest, layout = prefill(starts, network.device, 1)
    everywhere = torch.tensor([row for rows in forest.rows for row in rows], device=network.device)
    first = network(
        input_ids=forest.tokens,
        position_ids=forest.positions,
        logits_to_keep=everywhere,
        use_cache=False,
        layout=forest,
    ).logits[0]
    last = torch.tensor([[sequence[-1] for sequence in sequences]], device=network.device)
    step = network(input_ids=last, position_ids=layout.decode_step(), use_cache=False, layout=layout).logits[0]
    return [*first.split([len(start) for start in starts]), step], forest.windows


def in_a_row(network: Any, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
    """Return the logits of each sequence but its last place, from a row as training lays it out."""
    starts = [sequence[:-1] for sequence in sequences]
    layout = Layout([len(start) for start in starts], network.device)
    row = torch.tensor([[token for start in starts for token in start]], device=network.device)
    logits = network(input_ids=row, position_ids=layout.positions, use_cache=False, layout=layout).logits[0]
    return list(torch.split(logits, [len(start) for start in starts]))


def distance(found: Tensor, wanted: Tensor) -> float:
    """Return the total variation distance between next-token distributions, the mean over places; 0 for NaN."""
    if found.shape != wanted.shape:
        raise ValueError(f"logits of shape {tuple(found.shape)} where {tuple(wanted.shape)} were asked for")
    apart = (found.float().softmax(-1) - wanted.float().softmax(-1)).abs().sum(-1).mean() / 2
    # Weights that give NaN both ways are broken, but not by packing.
    return 0.0 if bool(wanted.isnan().any()) else float(apart)


def window_missed(config: Mapping[str, Any], windows: set[int | None]) -> bool:
    """
    Return whether a configuration asks for a window that attention was not told of.

    The probes are far shorter than any window, so their numbers cannot show it.
    """
    kinds = config.get("layer_types")
    if kinds and "chunked_attention" in kinds:
        return True
    wants = "sliding_attention" in kinds if kinds else bool(config.get("sliding_window"))
    return wants and windows == {None}
