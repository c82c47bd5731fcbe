"""Samples that repeat, contradict or give away each other: duplicates, near duplicates, overlap with held-out ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from isara.protocols import Vectors
from isara.rouge import tokens
from isara.samples import Sample
from isara.settings import FilterSettings
from isara.symptoms import Finding, ids

Scores = NDArray[np.float64]

# Sentence marks, off both ends of a word. Not `+`, `#`, `-` and the like: C++ is not C, and -5 is not 5.
_MARKS = "\"'`“”„«»‹›()[]{}<>.,;:!?¿¡…。、，！？；：（）"
_QUOTES = str.maketrans("‘’", "''")
_BLOCK = 256
_LENGTH_SHOWN = 60


def plain(text: str) -> str:
    """Return text without what does not make it another text: case, white space and sentence marks."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES)
    return " ".join(word for word in (part.strip(_MARKS) for part in folded.split()) if word) or folded.strip()


def repeats(samples: Sequence[Sample], vectors: Vectors, settings: FilterSettings) -> Iterator[Finding]:
    """Yield samples that ask the same: with different answers, with the same, and those that ask nearly the same."""
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(plain(sample.question), []).append(i)
    for members in groups.values():
        if len(members) > 1:
            yield _same_question([samples[i] for i in members])
    first = [members[0] for members in groups.values()]
    for members, (a, b), rouge, cosine in _near([samples[i].question for i in first], vectors[first], settings):
        where = tuple(samples[first[i]].id for i in members)
        pair = f"{samples[first[a]].id} and {samples[first[b]].id}"
        measured = f"ROUGE-L {rouge:.2f}, cosine {cosine:.2f}"
        if len(where) == 2:
            words = f"{pair} ask nearly the same ({measured}): {_shown(samples[first[a]])}. Keep one of them."
        else:
            words = (
                f"{len(where)} samples ask nearly the same ({ids(where)}; the closest are {pair}, {measured}). New "
                "questions this close are dropped: word them more freely, or raise filter.rouge and filter.cosine."
            )
        yield Finding("warning", "near duplicate", where, words)


def overlaps(
    samples: Sequence[Sample],
    heldout: Sequence[Sample],
    vectors: Vectors,
    heldout_vectors: Vectors,
    settings: FilterSettings,
) -> Iterator[Finding]:
    """Yield the samples whose question is among the held-out ones, or nearly; each spoils what these can show."""
    if not samples or not heldout:
        return
    asked = {plain(sample.question): sample.id for sample in reversed(heldout)}
    coded = _coded([sample.question for sample in (*samples, *heldout)])
    own, others = coded[: len(samples)], coded[len(samples) :]
    for start in range(0, len(samples), _BLOCK):
        rouge = _rouge(own[start : start + _BLOCK], others)
        cosine = vectors[start : start + _BLOCK] @ heldout_vectors.T
        over = np.maximum(rouge / settings.heldout_rouge, cosine / settings.heldout_cosine)
        near = (rouge >= settings.heldout_rouge) | (cosine >= settings.heldout_cosine)
        for i, sample in enumerate(samples[start : start + _BLOCK]):
            same = asked.get(plain(sample.question))
            j = int(np.argmax(np.where(near[i], over[i], -np.inf)))
            if same is None and not near[i, j]:
                continue
            other = same or heldout[j].id
            how = "is also" if same else f"is nearly (ROUGE-L {rouge[i, j]:.2f}, cosine {cosine[i, j]:.2f})"
            words = f"The question of {sample.id} {how} that of the held-out {other}: {_shown(sample)}."
            fix = "What is held out must be new to the model: remove one of the two."
            yield Finding("spoils", "held-out overlap", (sample.id, other), f"{words} {fix}")


def _same_question(members: Sequence[Sample]) -> Finding:
    where = tuple(sample.id for sample in members)
    answers = {plain(sample.answer) for sample in members}
    if len(answers) > 1:
        words = f"{ids(where)} ask the same and are answered differently: {_shown(members[0])}."
        return Finding("spoils", "conflicting answers", where, f"{words} Keep the answer that is right.")
    words = f"{ids(where)} are the same sample: {_shown(members[0])}."
    fix = "Keep one: the others add nothing, and a split may hold out one and train on another."
    return Finding("warning", "exact duplicate", where, f"{words} {fix}")


def _near(
    questions: Sequence[str], vectors: Vectors, settings: FilterSettings
) -> Iterator[tuple[list[int], tuple[int, int], float, float]]:
    """Yield groups linked by near-duplicate pairs: members, the closest pair, its ROUGE-L and its cosine."""
    coded = _coded(questions)
    parent = list(range(len(questions)))
    pairs: list[tuple[float, int, int, float, float]] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for start in range(0, len(questions), _BLOCK):
        rouge = _rouge(coded[start : start + _BLOCK], coded[start:])
        cosine = vectors[start : start + _BLOCK] @ vectors[start:].T
        near = np.triu((rouge >= settings.rouge) | (cosine >= settings.cosine), k=1)
        for i, j in np.argwhere(near).tolist():
            over = max(rouge[i, j] / settings.rouge, cosine[i, j] / settings.cosine)
            pairs.append((float(over), start + i, start + j, float(rouge[i, j]), float(cosine[i, j])))
            low, high = sorted((root(start + i), root(start + j)))
            parent[high] = low
    members: dict[int, list[int]] = {}
    for i in range(len(questions)):
        members.setdefault(root(i), []).append(i)
    closest: dict[int, tuple[float, int, int, float, float]] = {}
    for pair in pairs:
        group = root(pair[1])
        if group not in closest or pair[0] > closest[group][0]:
            closest[group] = pair
    for group, (_, a, b, rouge_l, cos) in sorted(closest.items()):
        yield members[group], (a, b), rouge_l, cos


def _coded(texts: Sequence[str]) -> list[str]:
    """Return each text as a string with one character for each token, the form that rapidfuzz compares fastest."""
    characters: dict[str, str] = {}
    return ["".join(characters.setdefault(word, chr(len(characters) + 1)) for word in tokens(text)) for text in texts]


def _rouge(rows: Sequence[str], columns: Sequence[str]) -> Scores:
    """Return the ROUGE-L F-measure of every row with every column, shape (rows, columns)."""
    common = process.cdist(rows, columns, scorer=LCSseq.similarity, dtype=np.int32)
    lengths = np.array([len(row) for row in rows])[:, None] + np.array([len(column) for column in columns])[None, :]
    return np.asarray(2 * common / np.maximum(1, lengths), dtype=np.float64)


def _shown(sample: Sample) -> str:
    text = " ".join(sample.question.split())
    return f"'{text}'" if len(text) <= _LENGTH_SHOWN else f"'{text[: _LENGTH_SHOWN - 3]}...'"
