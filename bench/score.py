"""
Scoring speed: the candidates of one question, which share its prompt, against scoring them apart.

    python bench/score.py [--model smollm2-135m] [--questions 8] [--candidates 6]

Each question stands after demonstrations, as held-out samples do. Apart means the same engine with sharing turned off,
and transformers' own forward pass, one candidate after another. Tokens are those of all prompts and candidates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from table import Row, compared, matrix_rate, take_turns

from isara.backends import forest
from isara.backends.checkpoints import locate
from isara.backends.hf import TransformersModel
from isara.backends.scoring import Pair, score_encoded
from isara.prompts import SEPARATORS, for_answer
from isara.readers import read_seeds

DEMONSTRATIONS = 3


def pairs_of(model: TransformersModel, questions: int, candidates: int) -> list[Pair]:
    """Return prompts with demonstrations, and the first words of several answers after each."""
    seeds = read_seeds("misconceptions")
    made = []
    for q in range(questions):
        shown = [seeds[(7 * q + 11 * place + 20) % len(seeds)] for place in range(DEMONSTRATIONS)]
        prompt = for_answer(seeds[q].question, shown, "chat" if model.chat else "text", SEPARATORS[0])
        for c in range(candidates):
            answer = " ".join(seeds[(q + 3 * c) % len(seeds)].answer.split()[:8])
            made.append((model.encoder.prompt(prompt), model.encoder.completion(prompt, answer)))
    return made


def usual(network: Any, pairs: Sequence[Pair]) -> list[float]:
    """Return log-likelihoods as they are usually had: one candidate at a time, logits at every place."""
    found = []
    with torch.inference_mode():
        for prompt, completion in pairs:
            row_of = torch.tensor([[*prompt, *completion]], device=network.device)
            logs = network(input_ids=row_of, use_cache=False).logits[0].float().log_softmax(-1)[len(prompt) - 1 : -1]
            found.append(float(logs.gather(1, row_of[0, len(prompt) :, None]).sum()))
    return found


def rows(model: str = "smollm2-135m", questions: int = 8, candidates: int = 6, turns: int = 3) -> list[Row]:
    """Measure, and return a row for each comparison."""
    from transformers import AutoModelForCausalLM

    ours = TransformersModel(locate(model))
    plain = AutoModelForCausalLM.from_pretrained(ours.checkpoint.folder, dtype=ours.dtype).to(ours.device).eval()
    pairs = pairs_of(ours, questions, candidates)
    tokens = sum(len(prompt) + len(completion) for prompt, completion in pairs)
    answers = sum(len(completion) for _, completion in pairs)

    def apart() -> object:
        with mock.patch.object(forest, "_WORTH", 10**9):
            return score_encoded(ours.network, pairs, ours.budget)

    took = take_turns(
        {
            "isara": lambda: score_encoded(ours.network, pairs, ours.budget),
            "the same, candidates apart": apart,
            "transformers, one by one": lambda: usual(plain, pairs),
        },
        turns,
    )
    head = ours.network.get_output_embeddings().weight.numel()
    frozen = sum(m.weight.numel() for m in ours.network.modules() if isinstance(m, torch.nn.Linear)) - head
    # What sharing leaves to do: each prompt once, and the candidates.
    left = sum(len(pairs[i * candidates][0]) for i in range(questions)) + answers
    limit = tokens * matrix_rate(ours.dtype, ours.device) / (2.0 * (left * frozen + answers * head))
    detail = f"{questions} prompts of {len(pairs[0][0])} tokens, {candidates} candidates of {answers / len(pairs):.0f}"
    peers = {"score": "the same, candidates apart", "score_transformers": "transformers, one by one"}
    return [
        compared(name, took, "isara", peer, tokens, "tokens/s", limit=limit, detail=detail)
        for name, peer in peers.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=6)
    given = parser.parse_args()
    for found in rows(given.model, given.questions, given.candidates):
        sys.stdout.write("  ".join(f"{key}={value}" for key, value in found.items()) + "\n")


if __name__ == "__main__":
    main()
