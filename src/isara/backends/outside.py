"""A checkpoint as somebody else uses it: transformers alone, its own attention, the chat template in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isara.backends.hf import choose_device, load_tokenizer
from isara.backends.merged import number_format, ordinary, stored_format
from isara.backends.template import Encoder
from isara.errors import BackendError
from isara.protocols import Prompt


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to a checkpoint, the answer it should know, and one that the tuned model gave."""

    prompt: Prompt
    """Without demonstrations."""
    question: str
    reference: str
    said: str
    finished: bool
    """Whether that answer ended by itself."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a checkpoint makes of a question."""

    nll: float
    """Negative log-likelihood per token of the reference answer, in nats."""
    first: int
    """Tokens of the other model's answer that are this one's first choice, given those before them."""
    agreeing: int
    """The same with the tokens that rounding alone could have put in the place of the first choice."""
    tokens: int
    """Tokens of that answer, the end of the turn included where it ended by itself."""
    answer: str
    """This checkpoint's own most likely answer."""


def hear(
    folder: Path, asked: Sequence[Asked], *, max_tokens: int, device: str = "auto", rounded: str = "float32"
) -> list[Heard]:
    """
    Ask the checkpoint in a folder, one question at a time, as its users would.

    An answer's tokens count as its own to within the rounding of the number format `rounded`. Raises BackendError where
    its chat template does not give the prompt that it was tuned on.
    """
    dtype = stored_format(folder) or torch.float32
    network = ordinary(folder, dtype).to(choose_device(device))
    tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer)
    spacing = torch.finfo(number_format(rounded)).eps
    heard = []
    for item in asked:
        prompt = encoder.prompt(item.prompt)
        if prompt != as_users_do(tokenizer, item):
            raise BackendError(f"{folder}: its chat template does not give the prompt that the weights were tuned on.")
        reference = encoder.completion(item.prompt, item.reference)
        answer = greedy(network, tokenizer, encoder, prompt, max_tokens)
        said = [*encoder.completion(item.prompt, item.said), *([encoder.end] if item.finished else [])]
        # A text that is no whole characters cannot be turned back into its tokens; one that came out again needs not.
        first, close = (len(said),) * 2 if answer == item.said else agreement(network, prompt, said, spacing)
        heard.append(Heard(-float(logs(network, prompt, reference).mean()), first, close, len(said), answer))
    return heard


def coarser(*formats: str) -> str:
    """Return the number format that rounds the most."""
    return max(formats, key=lambda name: torch.finfo(number_format(name)).eps)


def as_users_do(tokenizer: Any, item: Asked) -> list[int]:
    """Return the ids of a question by the means that come with the checkpoint, and nothing of isara's."""
    if isinstance(item.prompt, str):
        return [int(token) for token in tokenizer(item.prompt).input_ids]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": item.question}], tokenize=False, add_generation_prompt=True
    )
    return [int(token) for token in tokenizer(text, add_special_tokens=False).input_ids]


def after(network: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Return the logits before each token of a completion, shape (tokens, vocabulary), on the CPU."""
    ids = torch.tensor([[*prompt, *completion]], device=network.device)
    with torch.inference_mode():
        rows: torch.Tensor = network(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return rows.float().cpu()


def logs(network: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """Return the log-probability of each token of a completion."""
    rows = after(network, prompt, completion).log_softmax(-1)
    return rows.gather(1, torch.tensor(completion)[:, None])[:, 0]


def agreement(network: Any, prompt: Sequence[int], completion: Sequence[int], spacing: float) -> tuple[int, int]:
    """
    Return how many tokens of a completion are the most likely one, given those before them, and how many are about it.

    About it is a logit no further from the largest than numbers of that size lie apart: `spacing` times the largest.
    """
    if not completion:
        return 0, 0
    rows, said = after(network, prompt, completion), torch.tensor(completion)
    best = rows.max(-1).values
    behind = best - rows.gather(1, said[:, None])[:, 0]
    return int((rows.argmax(-1) == said).sum()), int((behind <= spacing * best.abs()).sum())


def greedy(network: Any, tokenizer: Any, encoder: Encoder, prompt: Sequence[int], max_tokens: int) -> str:
    """Return the most likely answer, as `generate` writes it."""
    ids = torch.tensor([list(prompt)], device=network.device)
    with torch.inference_mode():
        row = network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=encoder.end,
            pad_token_id=encoder.end,
        )[0, len(prompt) :]
    return str(tokenizer.decode(row, skip_special_tokens=True)).strip()
