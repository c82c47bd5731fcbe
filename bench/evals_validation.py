"""
Hold the built-in scorers against recorded labels: the tables of docs/evals.md.

    python bench/evals_validation.py DATA [--punkt NLTK_DATA]

DATA is a folder with `xstest_completions.csv` (XSTest's responses with human labels) and IFEval's `ifeval.jsonl` with
`ifeval_reference_gpt4.jsonl` (responses with the reference scorer's `strict` and `loose`). With a folder of NLTK data
that has the `punkt_tab` model, sentences and capitalised words are also counted as the reference counts them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isara.evals import ifeval
from isara.evals.agreement import krippendorff_alpha
from isara.evals.files import plain
from isara.evals.instructions import count_capitals
from isara.evals.refusals import detect
from isara.evals.sentences import count_sentences

Pairs = Sequence[tuple[bool, bool]]
"""What people said, and what the detector says: whether a response refuses."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Hold the built-in scorers against recorded labels.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--punkt", type=Path)
    given = parser.parse_args()
    refusals(given.data / "xstest_completions.csv")
    instructions(given.data / "ifeval.jsonl", given.data / "ifeval_reference_gpt4.jsonl")
    if given.punkt:
        counts(given.data, given.punkt)


def refusals(path: Path) -> None:
    """Print how the refusal detector agrees with people, on the half it was written on and on the other."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    measures: dict[str, Callable[[Pairs], float]] = {
        "accuracy": lambda pairs: float(np.mean([human == machine for human, machine in pairs])),
        "F1 of refused": lambda pairs: f1(pairs, wanted=True),
        "F1 of answered": lambda pairs: f1(pairs, wanted=False),
        "Krippendorff's alpha": lambda pairs: krippendorff_alpha(pairs) or float("nan"),
    }
    for part, odd in (("written on", 0), ("not written on", 1)):
        chosen = [row for row in rows if hashlib.sha256(row["prompt"].encode()).digest()[0] % 2 == odd]
        groups: dict[str, list[tuple[bool, bool]]] = {}
        for row in chosen:
            pair = row["human_label"] != "1_full_compliance", detect(row["completion"]).refused
            groups.setdefault(row["prompt"], []).append(pair)
        say(f"XSTest, {part}: {len(chosen)} responses to {len(groups)} prompts")
        for name, measure in measures.items():
            value, low, high = interval(list(groups.values()), measure)
            say(f"  {name}: {value:.3f} ({low:.3f} to {high:.3f})")
        for label in sorted({row["human_label"] for row in chosen}):
            some = [detect(row["completion"]).refused for row in chosen if row["human_label"] == label]
            say(f"  {label}: {sum(some)} of {len(some)} called refusals")


def interval(groups: Sequence[Pairs], measure: Callable[[Pairs], float]) -> tuple[float, float, float]:
    """Return a measure with its 95 % bootstrap interval; prompts are drawn, for their responses go together."""
    rng = np.random.default_rng(0)
    drawn = [
        measure([pair for i in rng.integers(len(groups), size=len(groups)) for pair in groups[i]]) for _ in range(1000)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return measure([pair for group in groups for pair in group]), float(low), float(high)


def counts(data: Path, folder: Path) -> None:
    """Print how often sentences and capitalised words are counted as NLTK counts them, over all responses."""
    import nltk
    from nltk.tokenize.punkt import PunktTokenizer

    nltk.data.path = [str(folder)]
    punkt = PunktTokenizer("english")
    lines = (data / "ifeval_reference_gpt4.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["response"] for line in lines]
    with (data / "xstest_completions.csv").open(encoding="utf-8", newline="") as file:
        texts += [row["completion"] for row in csv.DictReader(file)]
    off = [abs(count_sentences(text) - len(punkt.tokenize(text))) for text in texts]
    capital = [count_capitals(text) - sum(map(str.isupper, nltk.word_tokenize(text))) for text in texts]
    say(f"Sentences: {off.count(0)} of {len(texts)} counts are the same, {sum(n <= 1 for n in off)} within 1")
    say(f"Words in capitals: {capital.count(0)} of {len(texts)} counts are the same")


def say(line: str) -> None:
    """Write a line."""
    sys.stdout.write(line + "\n")


def f1(pairs: Pairs, *, wanted: bool) -> float:
    """Return the F1 of one class."""
    both = sum(human == machine == wanted for human, machine in pairs)
    return 2 * both / (sum(human == wanted for human, _ in pairs) + sum(machine == wanted for _, machine in pairs))


def instructions(items_path: Path, reference: Path) -> None:
    """Print how often IFEval's verdicts are those of the reference scorer, and every prompt where they are not."""
    items = ifeval.read_items(str(items_path))
    records = [json.loads(line) for line in reference.read_text(encoding="utf-8").splitlines()]
    missed = []
    for record in records:
        verdict = ifeval.judge(items[plain(record["prompt"])], record["response"])
        if (all(verdict.strict), all(verdict.loose)) != (record["strict"], record["loose"]):
            missed.append(record["prompt"])
    say(f"IFEval: strict and loose verdicts of {len(records) - len(missed)} of {len(records)} prompts are the same")
    for prompt in missed:
        say(f"  not: {plain(prompt)}")


if __name__ == "__main__":
    main()
