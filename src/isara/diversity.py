"""
Signs of collapse: how varied a round's samples are, next to the seeds they came from.

No single number says that a model has begun to repeat itself, so there are several: distinct-n (Li, Galley, Brockett,
Gao and Dolan 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models"), self-BLEU (Zhu et al.
2018, "Texygen"), distances between embeddings, copies of seed answers, and lengths. A word here is a token of
`isara.rouge.tokens`.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from isara.rouge import Index, tokens
from isara.samples import Sample

_ORDERS = 8
_MOST_TEXTS = 200
_COPY = 0.9
_BLOCK = 4096

Text = Sequence[str]
"""The tokens of one text."""


class Measures(TypedDict):
    """How varied a set of samples is; None where there is too little to measure."""

    distinct_1: float | None
    """Share of the words that are different ones, over as many words as the smaller of round and seeds has."""
    distinct_2: float | None
    """The same for pairs of words that follow each other."""
    distinct_3: float | None
    """The same for runs of three."""
    self_bleu: float | None
    """Mean BLEU-4 of each text against the others, 0 to 1; higher is more alike."""
    spread: float | None
    """Mean cosine distance between pairs of questions."""
    to_seeds: float | None
    """Mean cosine distance of a question to the nearest seed; of a seed, to the nearest other seed."""
    copy_rate: float | None
    """Share of answers whose ROUGE-L with a seed's answer is 0.9 or more; of a seed, with another seed's."""
    question_words: float | None
    """Mean words in a question."""
    answer_words: float | None
    """Mean words in an answer."""


class Diversity(Measures):
    """The measures of a round, and in `seeds` those of the seeds."""

    seeds: Measures


def measure(
    samples: Sequence[Sample],
    vectors: NDArray[Any] | None,
    seeds: Sequence[Sample],
    seed_vectors: NDArray[Any] | None,
) -> Diversity:
    """
    Return how varied a round's samples are, and how varied the seeds are.

    `vectors` and `seed_vectors` are the embeddings of the questions, shape (samples, dimensions), or None. Longer texts
    repeat more words whoever wrote them, and more texts leave each fewer words of its own. So round and seeds are
    compared on equally many words (distinct-n) and equally many texts (self-BLEU, at most 200): as many as the smaller
    of the two has, a mean over a few fixed random choices. A text is a question with its answer.
    """
    ours, theirs = Texts(samples), Texts(seeds)
    present = [texts for texts in (ours, theirs) if len(texts)]
    words = min((texts.words for texts in present), default=0)
    count = min((len(texts) for texts in present), default=0)
    places, seed_places = _checked(vectors, len(samples)), _checked(seed_vectors, len(seeds))
    answers = [seed.answer for seed in seeds]
    return {
        **_measures(samples, ours, words, count),
        "spread": _spread(places),
        "to_seeds": _to_nearest(places, seed_places, itself=False),
        "copy_rate": _copy_rate([sample.answer for sample in samples], answers),
        "seeds": {
            **_measures(seeds, theirs, words, count),
            "spread": _spread(seed_places),
            "to_seeds": _to_nearest(seed_places, seed_places, itself=True),
            "copy_rate": _copies_within(answers),
        },
    }


def warnings(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """
    Return a sentence for each measure that moved suspiciously from the seeds, or from the round before.

    `rounds` has what `measure` returned for round 1, 2, and so on. How far is suspicious is our judgement, not taken
    from a paper: a sentence is a reason to read some samples, and silence is no proof of variety.
    """
    found = []
    for number, now in enumerate(rounds, start=1):
        others = [("in the seeds", now["seeds"])]
        if number > 1:
            others.append((f"in round {number - 1}", _comparable(rounds[number - 2], now)))
        for sign in _SIGNS:
            sentences = (_sentence(sign, number, now[sign.key], where, other[sign.key]) for where, other in others)
            found += [sentence for sentence in sentences if sentence][:1]
    return found


class _Sign(NamedTuple):
    key: str
    seen: Callable[[float, float], bool]
    words: str


_SIGNS = (
    _Sign("distinct_2", lambda now, was: now < 0.75 * was, "repeats itself: share of different word pairs"),
    _Sign("self_bleu", lambda now, was: now > was + 0.15, "has texts that are more alike: self-BLEU"),
    _Sign("spread", lambda now, was: now < 0.75 * was, "asks about fewer things: mean distance between questions"),
    _Sign("to_seeds", lambda now, was: now < 0.5 * was, "stays close to the seeds: mean distance to the nearest one"),
    _Sign("to_seeds", lambda now, was: now > 1.5 * was, "leaves the seeds: mean distance to the nearest one"),
    _Sign(
        "copy_rate", lambda now, was: now > was + 0.1, "copies seed answers: share of answers nearly the same as one"
    ),
    _Sign("question_words", lambda now, was: now < 0.6 * was, "asks shorter questions: mean words"),
    _Sign("question_words", lambda now, was: now > 1.7 * was, "asks longer questions: mean words"),
    _Sign("answer_words", lambda now, was: now < 0.6 * was, "gives shorter answers: mean words"),
    _Sign("answer_words", lambda now, was: now > 1.7 * was, "gives longer answers: mean words"),
)
_BY_SIZE = ("distinct_1", "distinct_2", "distinct_3", "self_bleu")


def _sentence(sign: _Sign, number: int, now: float | None, where: str, was: float | None) -> str | None:
    if now is None or was is None or not sign.seen(now, was):
        return None
    return f"Round {number} {sign.words} {now:.2f}, {was:.2f} {where}."


def _comparable(before: Mapping[str, Any], now: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out what was measured on another amount of text in the round before: the seeds' own value tells."""
    return {
        key: None if key in _BY_SIZE and before["seeds"][key] != now["seeds"][key] else value
        for key, value in before.items()
    }


class _OfTexts(TypedDict):
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    self_bleu: float | None
    question_words: float | None
    answer_words: float | None


def _measures(samples: Sequence[Sample], texts: Texts, words: int, count: int) -> _OfTexts:
    return {
        "distinct_1": _distinct(texts, 1, words),
        "distinct_2": _distinct(texts, 2, words),
        "distinct_3": _distinct(texts, 3, words),
        "self_bleu": _self_bleu(texts, min(count, _MOST_TEXTS)),
        "question_words": _mean([len(tokens(sample.question)) for sample in samples]),
        "answer_words": _mean([len(tokens(sample.answer)) for sample in samples]),
    }


class Texts:
    """The texts of samples, those without a word left out; they are taken apart when they are wanted, not kept so."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        sizes = [len(self._tokens(sample)) for sample in samples]
        self._places = array("I", (place for place, size in enumerate(sizes) if size))
        self.words = sum(sizes)
        """How many words there are in all of them."""

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Text]:
        return (self._tokens(self._samples[place]) for place in self._places)

    def shuffled(self) -> Iterator[Iterator[Text]]:
        """Yield the texts in a few random orders, always the same ones."""
        for order in range(_ORDERS):
            drawn = random.Random(order).sample(range(len(self)), len(self))
            yield (self._tokens(self._samples[self._places[i]]) for i in drawn)

    def _tokens(self, sample: Sample) -> Text:
        return tokens(f"{sample.question}\n{sample.answer}")


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _ngrams(text: Text, n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _distinct(texts: Texts, n: int, words: int) -> float | None:
    shares = []
    for order in texts.shuffled():
        grams, left = [], words
        for text in order:
            grams += _ngrams(text[:left], n)
            left -= min(left, len(text))
            if not left:
                break
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return _mean(shares)


def _self_bleu(texts: Texts, count: int) -> float | None:
    if count < 2:
        return None
    orders = [iter(texts)] if count == len(texts) else texts.shuffled()
    return _mean([score for order in orders for score in _bleu_with_others(list(islice(order, count)))])


def _bleu_with_others(texts: Sequence[Text]) -> list[float]:
    """
    Return the BLEU-4 of each text, with all the others as its references.

    Papineni, Roukos, Ward and Zhu (2002); an n-gram order without a match counts as 0.1 matches (method 1 of Chen and
    Cherry 2014), and a text without a single common word scores 0.
    """
    matches = [_matches([Counter(_ngrams(text, n)) for text in texts]) for n in (1, 2, 3, 4)]
    lengths = Counter(map(len, texts))
    scores = []
    for i, text in enumerate(texts):
        size = len(text)
        closest = min((abs(other - size), other) for other in lengths if other != size or lengths[size] > 1)[1]
        logs = [math.log((row[i] or 0.1) / max(1, size - n)) for n, row in enumerate(matches)]
        brevity = min(0.0, 1 - closest / size)
        scores.append(math.exp(brevity + math.fsum(logs) / 4) if matches[0][i] else 0.0)
    return scores


def _matches(counts: Sequence[Counter[tuple[str, ...]]]) -> list[int]:
    """Return how many n-grams of each text the others have, each counted as often as the one that has it most."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for row in counts:
        for gram, times in row.items():
            second, first = most.get(gram, (0, 0))
            most[gram] = (max(second, min(first, times)), max(first, times))
    # Where a text itself has it most, the others' most is the second; else it has all its own matched.
    return [sum(most[gram][0] if times == most[gram][1] else times for gram, times in row.items()) for row in counts]


def _checked(vectors: NDArray[Any] | None, samples: int) -> NDArray[Any] | None:
    if vectors is None or not samples:
        return None
    if len(vectors) != samples:
        raise ValueError(f"{len(vectors)} vectors for {samples} samples: there must be one for each, in order.")
    return vectors


def _directions(vectors: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield the vectors at length 1 exactly, some at a time; half-precision files bring them a little off."""
    for start in range(0, len(vectors), _BLOCK):
        wide = np.asarray(vectors[start : start + _BLOCK], dtype=np.float64)
        norms = np.linalg.norm(wide, axis=1, keepdims=True)
        yield wide / np.where(norms > 0, norms, 1.0)


def _spread(vectors: NDArray[Any] | None) -> float | None:
    if vectors is None or len(vectors) < 2:
        return None
    # The squared length of the sum holds the products of all pairs, and those with itself.
    total, own = np.zeros(vectors.shape[1]), 0.0
    for part in _directions(vectors):
        total += part.sum(axis=0)
        own += float(np.sum(part**2))
    return max(0.0, 1 - float(np.sum(total**2) - own) / (len(vectors) * (len(vectors) - 1)))


def _to_nearest(vectors: NDArray[Any] | None, others: NDArray[Any] | None, *, itself: bool) -> float | None:
    if vectors is None or others is None or (itself and len(others) < 2):
        return None
    nearest, start = 0.0, 0
    for part in _directions(vectors):
        likest = np.full(len(part), -np.inf)
        place = 0
        for other in _directions(others):
            cosines = part @ other.T
            if itself and place == start:
                np.fill_diagonal(cosines, -np.inf)
            likest = np.maximum(likest, cosines.max(axis=1))
            place += len(other)
        nearest += float(likest.sum())
        start += len(part)
    return max(0.0, 1 - nearest / len(vectors))


def _copy_rate(answers: Sequence[str], sources: Sequence[str]) -> float | None:
    if not answers or not sources:
        return None
    index = Index((("seed", source) for source in sources), floor=_COPY)
    return _mean([index.nearest(answer, _COPY).id is not None for answer in answers])


def _copies_within(answers: Sequence[str]) -> float | None:
    """Return the share of answers that are nearly another one: looked up among those before it, and those after."""
    if len(answers) < 2:
        return None
    copies: set[int] = set()
    for order in (range(len(answers)), reversed(range(len(answers)))):
        index = Index(floor=_COPY)
        for i in order:
            if index.nearest(answers[i], _COPY).id is not None:
                copies.add(i)
            index.add(str(i), answers[i])
    return len(copies) / len(answers)
