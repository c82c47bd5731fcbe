"""
Training speed: isara's trainer against a plain PEFT loop, PEFT's layers in isara's loop, and TRL's SFTTrainer.

    python bench/train.py [--model smollm2-135m] [--turns 4] [--length 40]

Samples are shipped questions with answers cut so that each sample has `length` tokens. All train adapters of rank 16
on every linear layer, 16 samples a step, and take turns, so that a noisy machine is noisy for all; TRL's trainer owns
its loop, and takes its steps in between. Tokens are those of isara's encoding for all of them (TRL's template adds a
system prompt to each sample, which is not counted). The limit is the measured matrix rate over the operations that one
token needs. Where the tool would tune on weights in 8 bits on this machine, that is what is timed as isara's, beside
isara's own with full weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from table import Row, compared, matrix_rate, row, take_turns, unmeasured

from isara.backends.adapter import adapt
from isara.backends.checkpoints import Checkpoint, locate
from isara.backends.hf import choose_device, choose_dtype, load_network, load_tokenizer
from isara.backends.openvino_choice import in_8_bits
from isara.backends.scoring import Pair
from isara.backends.template import Encoder
from isara.backends.training import TransformersTrainer, Weights, packed_loss
from isara.heldout import bare_prompt
from isara.protocols import Example
from isara.readers import read_seeds
from isara.settings import ModelSettings, TrainSettings

RANK, ALPHA, BATCH = 16, 32.0, 16


def examples_of(encoder: Encoder, count: int, length: int) -> list[Example]:
    """Return shipped samples, each answer cut so that the whole has `length` tokens."""
    made = []
    for sample in read_seeds("misconceptions"):
        prompt = bare_prompt(sample.question, chat=encoder.template is not None)
        room = length - len(encoder.prompt(prompt)) - 1
        ids = encoder.completion(prompt, sample.answer)
        if 4 <= room <= len(ids):
            made.append(Example(sample.id, prompt, encoder.tokenizer.decode(ids[:room])))
    if not made:
        raise SystemExit(f"no shipped question leaves room for an answer in {length} tokens")
    return [made[i % len(made)] for i in range(count)]


def padded_loss(network: Any, batch: Sequence[Pair]) -> torch.Tensor:
    """Return the loss as a plain loop computes it: padded to the longest, logits at every position."""
    longest = max(len(prompt) + len(completion) for prompt, completion in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long, device=network.device)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for place, (prompt, completion) in enumerate(batch):
        end = len(prompt) + len(completion)
        ids[place, :end] = torch.tensor([*prompt, *completion])
        labels[place, len(prompt) : end] = torch.tensor(completion)
        mask[place, :end] = 1
    loss: torch.Tensor = network(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def loop(
    network: Any, loss: Callable[[Any, Sequence[Pair]], torch.Tensor], batch: Sequence[Pair]
) -> Callable[[], None]:
    """Return one step of a plain training loop."""
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimiser.zero_grad()
        loss(network, batch).backward()
        optimiser.step()

    return step


def ours(checkpoint: Checkpoint, batch: Sequence[Pair], *, int8: bool) -> Callable[[], None]:
    """Return one step of isara's trainer."""
    trainer = TransformersTrainer(checkpoint, TrainSettings(rank=RANK, alpha=ALPHA, batch=BATCH), int8=int8)
    weights = Weights(trainer, None, 0)
    optimiser = torch.optim.AdamW(weights.trainable(), lr=1e-4, weight_decay=0.0, fused=True)
    return lambda: void(weights.step(1, batch, optimiser, [None] * len(batch)))


def void(value: object) -> None:
    """Forget a value."""


def with_peft(network: Any) -> Any:
    """Return a network with PEFT's adapters."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        network, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def sft(checkpoint: Checkpoint, examples: Sequence[Example], steps: int) -> float:
    """Return the seconds of one step of TRL's SFTTrainer with its defaults, the first steps left out."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *unused: Any, **more: Any) -> None:
            times.append(time.perf_counter())

    device = choose_device("auto")
    rows = [
        {
            "prompt": [{"role": "user", "content": e.prompt.turns[0].text}],  # type: ignore[union-attr]
            "completion": [{"role": "assistant", "content": e.completion}],
        }
        for e in examples
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=choose_dtype("auto", device)),
            processing_class=AutoTokenizer.from_pretrained(checkpoint.folder),
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                use_cpu=device.type == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(rows * steps),
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Clock()],
        )
        trainer.train()
    return (times[-1] - times[0]) / (steps - 1)


def operations(network: Any, batch: Sequence[Pair], rank: int = RANK) -> float:
    """Return the operations of one step: a frozen weight is used forward and back to its input, a factor once more."""
    head = network.get_output_embeddings().weight.numel()
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear) and m.weight.numel() != head]
    frozen = sum(m.weight.numel() for m in linear)
    factors = sum(rank * (m.in_features + m.out_features) for m in linear)
    tokens = sum(len(prompt) + len(completion) - 1 for prompt, completion in batch)
    answers = sum(len(completion) for _, completion in batch)
    return 2.0 * (tokens * (2 * frozen + 3 * factors) + answers * 2 * head)


def on_a_gpu() -> Row:
    """Return how much of the matrix rate training reaches on a GPU, with a model of 1.2B parameters and no training."""
    peer = "the matrix rate measured here"
    if not torch.cuda.is_available():
        return unmeasured("train_gpu", peer, "TFLOP/s", "there is no GPU here")
    from transformers import AutoModelForCausalLM, LlamaConfig

    from isara.backends.packing import IMPLEMENTATION, register

    register()
    device, dtype = torch.device("cuda"), choose_dtype("auto", torch.device("cuda"))
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8
    )
    network = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=IMPLEMENTATION).to(device)
    adapt(network, RANK, ALPHA, 0)
    # No two begin alike: what samples have in common is read once, and would be counted for each.
    drawn = torch.randint(100, 30_000, (16, 512), generator=torch.Generator().manual_seed(0)).tolist()
    batch = [(ids[:256], ids[256:]) for ids in drawn]
    needed = operations(network, batch)
    total = sum(len(completion) for _, completion in batch)
    step = loop(network, lambda net, pairs: packed_loss(net, pairs, total), batch)

    def waited() -> None:
        step()
        torch.cuda.synchronize()

    rate = needed / take_turns({"step": waited}, 8)["step"].seconds
    return row("train_gpu", rate / 1e12, matrix_rate(dtype, device, 8192, 8192) / 1e12, peer, "TFLOP/s", limit=1.0)


def rows(model: str = "smollm2-135m", turns: int = 4, length: int = 40) -> list[Row]:
    """Measure, and return a row for each comparison."""
    checkpoint = locate(model)
    encoder = Encoder(load_tokenizer(checkpoint.folder))
    examples = examples_of(encoder, BATCH, length)
    batch = [(encoder.prompt(e.prompt), [*encoder.completion(e.prompt, e.completion), encoder.end]) for e in examples]
    tokens = sum(len(prompt) + len(completion) for prompt, completion in batch)
    total = sum(len(completion) for _, completion in batch)
    device = choose_device("auto")
    bare = [load_network(checkpoint.folder, device, choose_dtype("auto", device)) for _ in range(2)]
    needed = operations(bare[0], batch)
    plain, packed = (with_peft(network) for network in bare)
    plain.set_attn_implementation("sdpa")
    small = in_8_bits(ModelSettings())
    ways = {
        "isara": ours(checkpoint, batch, int8=small),
        "a plain PEFT loop": loop(plain, padded_loss, batch),
        "PEFT's layers, packed": loop(packed, lambda net, pairs: packed_loss(net, pairs, total), batch),
    }
    peers = {"train": "a plain PEFT loop", "train_packed": "PEFT's layers, packed"}
    if small:
        ways["isara, full weights"] = ours(checkpoint, batch, int8=False)
        peers["train_int8"] = "isara, full weights"
    took = take_turns(ways, turns)
    limit = matrix_rate(choose_dtype("auto", device), device) / needed * tokens
    detail = f"{len(batch)} samples of {tokens / len(batch):.0f} tokens, {total / len(batch):.0f} of them answers"
    found = [
        compared(name, took, "isara", peer, tokens, "tokens/s", limit=limit, detail=detail)
        for name, peer in peers.items()
    ]
    if importlib.util.find_spec("trl") is None:
        found.append(unmeasured("train_trl", "TRL SFTTrainer", "tokens/s", "trl is not installed (extra `bench`)"))
    else:
        theirs = tokens / sft(checkpoint, examples, turns + 1)
        again = tokens / take_turns({"isara": ours(checkpoint, batch, int8=small)}, turns)["isara"].seconds
        found.append(row("train_trl", again, theirs, "TRL SFTTrainer", "tokens/s", limit=limit, detail=detail))
    return [*found, on_a_gpu()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--length", type=int, default=40, help="tokens of a sample")
    given = parser.parse_args()
    for found in rows(given.model, given.turns, given.length):
        sys.stdout.write("  ".join(f"{key}={value}" for key, value in found.items()) + "\n")


if __name__ == "__main__":
    main()
