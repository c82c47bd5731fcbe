"""
How fast the near-duplicate filter is: isara's index against rouge_score on every pair.

    python bench/rouge_filter.py --sizes 1000 10000 100000 1000000 [--growing]

Each question is looked up among those kept before it (ROUGE-L of at least 0.7) and kept when nothing is that near, as
a run does. The peer would score each new question against every one kept; that is hours at 10,000 questions, so it is
timed on a sample of those pairs and scaled to their number. It is timed twice: as people call it (`score`, which
splits both texts every time), and with every text split once beforehand. Seconds are those of the processor, so that
other work on the machine counts for little.

By default the words are drawn from 20,000, however many questions there are. That is the harder case: pairs of words do
not get rarer. With `--growing` the vocabulary follows Heaps' law, as that of real text does: 44 times the number of
words written so far, to the power of 0.49, which is what Manning, Raghavan and Schütze (2008, "Introduction to
Information Retrieval", section 5.1.1) fitted to a million news articles.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import random
import sys
import time
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer
from table import Row, row

from isara.rouge import Index, f1, tokens

OPENINGS = (
    "what is the", "how does a", "why do", "when should a", "which of the", "is it true that a", "can you explain the",
    "what happens when a", "how many", "describe the", "what are the", "who decides about the",
)  # fmt: skip
SMALL_WORDS = ("of the", "in a", "with the", "for", "and the", "to the", "on a", "from", "by the", "without")
THRESHOLD = 0.7
SIZES = (1_000, 10_000, 100_000, 1_000_000)
"""The largest takes about four minutes."""
GROWING = (10_000, 100_000)
HEAPS = 44, 0.49


def questions(
    count: int, *, seed: int, vocabulary: int = 20_000, growing: bool = False, repeats: float = 0.15
) -> list[str]:
    """
    Return made-up questions whose words follow Zipf's law; a share of them are an earlier one slightly changed.

    Where the vocabulary is `growing`, only its most frequent words are in use at first, as many as Heaps' law says.
    """
    rng = random.Random(seed)
    written, total = 0, 12 * count
    words = _distinct(rng, heaps(total)) if growing else [_word(rng) for _ in range(vocabulary)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    made: list[str] = []
    while len(made) < count:
        used = min(len(words), heaps(written)) if growing else len(words)

        def drawn(used: int = used) -> str:
            return words[bisect.bisect(weights, rng.random() * weights[used - 1], 0, used - 1)]

        if made and rng.random() < repeats:
            row = rng.choice(made).split()
            for _ in range(rng.randint(1, 4)):
                row[rng.randrange(len(row))] = drawn()
        else:
            row = [rng.choice(OPENINGS)]
            for word in [drawn() for _ in range(rng.randint(2, 8))]:
                row += [word] if rng.random() < 0.6 else [rng.choice(SMALL_WORDS), word]
        made.append(" ".join(row))
        written += len(made[-1].split())
    return made


def heaps(written: int) -> int:
    """Return how many different words there are in a text of so many, at least 100."""
    factor, exponent = HEAPS
    return max(100, round(factor * written**exponent))


def _distinct(rng: random.Random, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[_word(rng)] = None
    return list(found)


def _word(rng: random.Random) -> str:
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


def ours(texts: Sequence[str]) -> tuple[float, list[str], int]:
    """Return the processor seconds for the whole filter, what it kept, and how many pairs that decides."""
    begun, index, kept, pairs = time.process_time(), Index(), list[str](), 0
    for number, text in enumerate(texts):
        pairs += len(index)
        if index.nearest(text, THRESHOLD).id is None:
            index.add(str(number), text)
            kept.append(text)
    return time.process_time() - begun, kept, pairs


class SplitBefore:
    """A tokenizer for rouge_score that only looks up what was split beforehand."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._tokens = {text: tokens(text) for text in texts}

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        return self._tokens[text]


def peer(scorer: RougeScorer, pairs: Sequence[tuple[str, str]]) -> float:
    """Return the processor seconds rouge_score takes for one pair; AssertionError where its score is not ours."""
    begun = time.process_time()
    scores = [scorer.score(a, b)["rougeL"].fmeasure for a, b in pairs]
    seconds = time.process_time() - begun
    assert all(math.isclose(score, f1(a, b), abs_tol=1e-9) for score, (a, b) in zip(scores, pairs, strict=True))
    return seconds / len(pairs)


def measured(size: int, *, seed: int = 0, growing: bool = False, pairs: int = 5000) -> dict[str, float]:
    """Return what one size takes: seconds of ours, and of rouge_score as called and with texts split beforehand."""
    texts = questions(size, seed=seed, growing=growing)
    seconds, kept, decided = ours(texts)
    rng = random.Random(seed)
    sample = [(rng.choice(kept), rng.choice(kept)) for _ in range(pairs)]
    each = peer(RougeScorer(["rougeL"]), sample)
    split = peer(RougeScorer(["rougeL"], tokenizer=SplitBefore([text for pair in sample for text in pair])), sample)
    return {"kept": len(kept), "pairs": decided, "ours": seconds, "each": each, "split": split}


def rows(sizes: Sequence[int] = SIZES) -> list[Row]:
    """
    Return a row for each size, with the exponent of the growth from the size before as its last field.

    Once with as many words at every size, and for the sizes in `GROWING` with a vocabulary that grows.
    """
    return _rows(sizes, growing=False) + _rows([size for size in sizes if size in GROWING], growing=True)


def _rows(sizes: Sequence[int], *, growing: bool) -> list[Row]:
    found: list[Row] = []
    before: tuple[int, float] | None = None
    for size in sizes:
        took = measured(size, growing=growing)
        theirs = took["each"] * took["pairs"]
        grown = math.log(took["ours"] / before[1]) / math.log(size / before[0]) if before else None
        name = f"rouge_filter_{size // 1000}k" + ("_growing" if growing else "")
        peer_name = "rouge_score on every pair, timed on 5,000 of them"
        more = {} if grown is None else {"growth": round(grown, 2)}
        found.append(row(name, took["ours"], theirs, peer_name, "processor s", **more))
        before = size, took["ours"]
    return found


def main() -> None:
    """Print one line for each size."""
    options = argparse.ArgumentParser(description="Time isara's near-duplicate filter against rouge_score.")
    options.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--growing", action="store_true", help="a vocabulary that follows Heaps' law")
    given = options.parse_args()
    before: tuple[int, float] | None = None
    for size in given.sizes:
        took = measured(size, seed=given.seed, growing=given.growing)
        theirs, split = took["each"] * took["pairs"], took["split"] * took["pairs"]
        growth = math.log(took["ours"] / before[1]) / math.log(size / before[0]) if before else math.nan
        sys.stdout.write(
            f"{size:>9,} questions, {took['kept']:,} kept, {took['pairs']:,} pairs: ours {took['ours']:.2f} s; "
            f"rouge_score {theirs:,.0f} s ({took['each'] * 1e6:.1f} us a pair, scaled), "
            f"ratio {theirs / took['ours']:,.0f}x; split beforehand {split:,.0f} s, ratio {split / took['ours']:,.0f}x"
            + (f"; time grows as size^{growth:.2f} from the size before\n" if before else "\n")
        )
        sys.stdout.flush()
        before = size, took["ours"]


if __name__ == "__main__":
    main()
