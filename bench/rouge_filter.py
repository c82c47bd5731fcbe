"""
How fast the near-duplicate filter is: isara's index against rouge_score on every pair.

    python bench/rouge_filter.py --sizes 1000 10000

Each question is looked up among those kept before it (ROUGE-L of at least 0.7) and kept when nothing is that near, as
a run does. The peer would score each new question against every one kept; that is hours at 10,000 questions, so it is
timed on a sample of those pairs and scaled to their number. It is timed twice: as people call it (`score`, which
splits both texts every time), and with every text split once beforehand.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from isara.rouge import Index, f1, tokens

OPENINGS = (
    "what is the", "how does a", "why do", "when should a", "which of the", "is it true that a", "can you explain the",
    "what happens when a", "how many", "describe the", "what are the", "who decides about the",
)  # fmt: skip
SMALL_WORDS = ("of the", "in a", "with the", "for", "and the", "to the", "on a", "from", "by the", "without")
THRESHOLD = 0.7


def questions(count: int, *, seed: int, vocabulary: int = 20_000, repeats: float = 0.15) -> list[str]:
    """Return made-up questions whose words follow Zipf's law; a share of them are an earlier one slightly changed."""
    rng = random.Random(seed)
    words = [_word(rng) for _ in range(vocabulary)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, vocabulary + 1)))
    made: list[str] = []
    while len(made) < count:
        if made and rng.random() < repeats:
            row = rng.choice(made).split()
            for _ in range(rng.randint(1, 4)):
                row[rng.randrange(len(row))] = rng.choices(words, cum_weights=weights)[0]
        else:
            row = [rng.choice(OPENINGS)]
            for word in rng.choices(words, cum_weights=weights, k=rng.randint(2, 8)):
                row += [word] if rng.random() < 0.6 else [rng.choice(SMALL_WORDS), word]
        made.append(" ".join(row))
    return made


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def ours(texts: Sequence[str]) -> tuple[float, list[str], int]:
    """Return the seconds for the whole filter, what it kept, and how many pairs that decides."""
    begun, index, kept, pairs = time.perf_counter(), Index(), list[str](), 0
    for number, text in enumerate(texts):
        pairs += len(index)
        if index.nearest(text, THRESHOLD).id is None:
            index.add(str(number), text)
            kept.append(text)
    return time.perf_counter() - begun, kept, pairs


class SplitBefore:
    """A tokenizer for rouge_score that only looks up what was split beforehand."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._tokens = {text: tokens(text) for text in texts}

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return self._tokens[text]


def peer(scorer: RougeScorer, pairs: Sequence[tuple[str, str]]) -> float:
    """Return the seconds rouge_score takes for one pair; raises AssertionError where its score is not ours."""
    begun = time.perf_counter()
    scores = [scorer.score(a, b)["rougeL"].fmeasure for a, b in pairs]
    seconds = time.perf_counter() - begun
    assert all(math.isclose(score, f1(a, b), abs_tol=1e-9) for score, (a, b) in zip(scores, pairs, strict=True))
    return seconds / len(pairs)


def main() -> None:
    """Print one line for each size."""
    options = argparse.ArgumentParser(description="Time isara's near-duplicate filter against rouge_score.")
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    options.add_argument("--sample", type=int, default=5000, help="pairs on which rouge_score is timed")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    before: tuple[int, float] | None = None
    for size in given.sizes:
        texts = questions(size, seed=given.seed)
        seconds, kept, pairs = ours(texts)
        rng = random.Random(given.seed)
        sample = [(rng.choice(kept), rng.choice(kept)) for _ in range(given.sample)]
        each = peer(RougeScorer(["rougeL"]), sample)
        split = peer(RougeScorer(["rougeL"], tokenizer=SplitBefore(kept)), sample)
        growth = math.log(seconds / before[1]) / math.log(size / before[0]) if before else math.nan
        sys.stdout.write(
            f"{size:>7,} questions, {len(kept):,} kept, {pairs:,} pairs: ours {seconds:.3f} s; "
            f"rouge_score {each * pairs:,.0f} s ({each * 1e6:.1f} us a pair on {given.sample:,} pairs, scaled), "
            f"ratio {each * pairs / seconds:,.0f}x; split beforehand {split * pairs:,.0f} s, "
            f"ratio {split * pairs / seconds:,.0f}x"
            + (f"; time grows as size^{growth:.2f} from the size before\n" if before else "\n")
        )
        before = size, seconds


if __name__ == "__main__":
    main()
