"""
Training speed: isara's adapters against PEFT's, in the same packed loop on the same model, and a plain padded loop.

    python bench/train.py [--model smollm2-135m] [--steps 6]

Prints trained tokens per second of each and the ratio; the runs take turns, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from isara.backends.adapter import adapt
from isara.backends.checkpoints import locate
from isara.backends.hf import choose_device, choose_dtype, load_network, load_tokenizer
from isara.backends.template import Encoder
from isara.backends.training import Pair, packed_loss
from isara.heldout import as_examples
from isara.readers import read_seeds

RANK, ALPHA = 16, 32.0


def pairs_of(folder: Any, count: int) -> list[Pair]:
    """Return the token ids of seeds that ship, prompt and completion apart."""
    encoder = Encoder(load_tokenizer(folder))
    return [
        (encoder.prompt(e.prompt), [*encoder.completion(e.prompt, e.completion), encoder.end])
        for e in as_examples(read_seeds("misconceptions")[:count], chat=encoder.template is not None)
    ]


def padded_loss(network: Any, batch: list[Pair], total: int) -> torch.Tensor:
    """Return the loss as a plain loop computes it: padded to the longest, logits at every position."""
    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long, device=network.device)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor([*prompt, *completion])
        labels[row, len(prompt) : end] = torch.tensor(completion)
        mask[row, :end] = 1
    loss: torch.Tensor = network(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def stepper(network: Any, loss: Callable[..., torch.Tensor]) -> Callable[[list[Pair]], int]:
    """Return a function that takes one optimiser step and says how many tokens it trained on."""
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step(batch: list[Pair]) -> int:
        optimiser.zero_grad()
        loss(network, batch, sum(len(completion) for _, completion in batch)).backward()
        optimiser.step()
        return sum(len(prompt) + len(completion) for prompt, completion in batch)

    return step


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=6)
    arguments = parser.parse_args()
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    folder = locate(arguments.model).folder
    batch = pairs_of(folder, 16)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    ours = load_network(folder, device, dtype)
    adapt(ours, RANK, ALPHA, 0)
    peft = get_peft_model(load_network(folder, device, dtype), lora)
    plain = get_peft_model(load_network(folder, device, dtype), lora)
    plain.set_attn_implementation("sdpa")
    runs = {
        "isara": stepper(ours, packed_loss),
        "PEFT layers, same packed loop": stepper(peft, packed_loss),
        "PEFT layers, padded loop": stepper(plain, padded_loss),
    }
    tokens, seconds = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0.0)
    for turn in range(arguments.steps + 1):
        for name, step in runs.items():
            started = time.perf_counter()
            done = step(batch)
            # The first turn warms up.
            if turn:
                tokens[name] += done
                seconds[name] += time.perf_counter() - started
    rates = {name: tokens[name] / seconds[name] for name in runs}
    for name, rate in rates.items():
        sys.stdout.write(f"{name:32} {rate:8.0f} tokens/s   isara is {rates['isara'] / rate:.2f} times this\n")


if __name__ == "__main__":
    main()
