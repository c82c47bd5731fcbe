"""
Which candidates are worth keeping: named rules, each with a score, a threshold and a reason.

A rule looks at a candidate, notes what it measured in the candidate's scores, and returns why to drop it, or None.
Questions are judged before any answer is paid for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara import rouge
from isara.neighbours import Neighbours
from isara.settings import FilterSettings


@dataclass(slots=True)
class Candidate:
    """A sample on its way through the filter."""

    id: str
    round: int
    question: str | None = None
    answer: str | None = None
    question_parents: tuple[str, ...] = ()
    answer_parents: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    """The answers of the demonstrations it was shown when answering."""
    finished: bool = True
    vector: NDArray[np.float32] | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:
        """Ids of every demonstration it was shown, each once."""
        return tuple(dict.fromkeys((*self.question_parents, *self.answer_parents)))

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "round": self.round,
            "parents": list(self.parents),
            "question_parents": list(self.question_parents),
            "answer_parents": list(self.answer_parents),
            "scores": {name: round(score, 6) for name, score in self.scores.items()},
        }


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a candidate was not accepted."""

    rule: str
    reason: str
    score: float | None = None
    threshold: float | None = None
    nearest: str | None = None
    """The id of the sample it collided with."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return {
            "rule": self.rule,
            "reason": self.reason,
            "score": None if self.score is None else round(self.score, 6),
            "threshold": self.threshold,
            "nearest": self.nearest,
        }


Rule = Callable[[Candidate], Drop | None]
"""Notes what it measured and returns why to drop the candidate, or None to let it pass."""

QUESTION_RULES = ("parse", "question_words", "keywords", "topic", "heldout_rouge", "heldout_cosine", "rouge", "cosine")
ANSWER_RULES = (
    "no_answer",
    "truncated",
    "answer_words",
    "repetition",
    "echo",
    "copied",
    "confidence",
    "gain",
    "common",
)
FUNNEL = (*QUESTION_RULES, *ANSWER_RULES, "surplus")
"""Every reason for which a candidate is dropped, in the order in which it is looked at."""


class Sieve:
    """The rules of one round, with what they compare against. Candidates must come in their own order."""

    def __init__(
        self, settings: FilterSettings, known: Neighbours, heldout: Neighbours, seeds: Sequence[str], wanted: int
    ) -> None:
        """Take what questions are compared with, the answers of the seeds, and how many samples are wanted."""
        self._known = known
        self._heldout = heldout
        self._question_rules = question_rules(settings, known, heldout)
        self._accepted: Counter[str] = Counter()
        common = not_common(settings.common, self._accepted, seeds, wanted)
        self._answer_rules = {**answer_rules(settings), "common": common}

    def questions(self, candidates: Sequence[Candidate]) -> dict[str, Drop]:
        """Judge the questions of a batch, one after the other; returns why those that do not pass are dropped."""
        vectors = [candidate.vector for candidate in candidates if candidate.vector is not None]
        self._known.look_ahead(vectors)
        self._heldout.look_ahead(vectors)
        judged = ((candidate.id, self.question(candidate)) for candidate in candidates)
        return {name: drop for name, drop in judged if drop is not None}

    def question(self, candidate: Candidate) -> Drop | None:
        """Judge a candidate's question; from now on later ones are compared with one that passes."""
        drop = first(self._question_rules, candidate)
        if drop is None:
            self.passed(candidate)
        return drop

    def passed(self, candidate: Candidate) -> None:
        """Compare later questions with that of a candidate which has passed."""
        if candidate.question is not None and candidate.vector is not None:
            self._known.add(candidate.id, candidate.question, candidate.vector)

    def answer(self, candidate: Candidate) -> Drop | None:
        """Judge a candidate's answer; from now on one that passes counts among the round's."""
        drop = first(self._answer_rules, candidate)
        if drop is None:
            self.accepted(candidate.answer or "")
        return drop

    def accepted(self, answer: str) -> None:
        """Count an answer among the round's."""
        self._accepted[worded(answer)] += 1


def first(rules: Mapping[str, Rule], candidate: Candidate) -> Drop | None:
    """Return the reason of the first rule that a candidate fails, or None."""
    for rule in rules.values():
        drop = rule(candidate)
        if drop is not None:
            return drop
    return None


def question_rules(settings: FilterSettings, known: Neighbours, heldout: Neighbours) -> dict[str, Rule]:
    """Return the rules for questions, by name, in the order in which they run."""
    return {
        "parse": no_question,
        "question_words": word_count("question", settings.question_words_min, settings.question_words_max),
        "keywords": without(settings.keywords),
        "topic": on_topic(settings.topic, known),
        "heldout_rouge": alike("heldout_rouge", settings.heldout_rouge, heldout, "a held-out question"),
        "heldout_cosine": alike("heldout_cosine", settings.heldout_cosine, heldout, "a held-out question"),
        "rouge": alike("rouge", settings.rouge, known, "a question already there"),
        "cosine": alike("cosine", settings.cosine, known, "a question already there"),
    }


def answer_rules(settings: FilterSettings) -> dict[str, Rule]:
    """Return the rules for answers, by name, in the order in which they run."""
    return {
        "no_answer": no_answer,
        "truncated": truncated,
        "answer_words": word_count("answer", settings.answer_words_min, settings.answer_words_max),
        "repetition": at_most("repetition", settings.repetition, repeated, "of its word 3-grams repeat earlier ones"),
        "echo": at_most("echo", settings.echo, echoed, "ROUGE-L with its own question"),
        "copied": at_most("copied", settings.copied, copied, "ROUGE-L with the answer of a demonstration"),
        "confidence": likely(settings.confidence),
        "gain": helped(settings.gain),
    }


def not_common(share: float, accepted: Mapping[str, int], seeds: Sequence[str], wanted: int) -> Rule:
    """
    Drop an answer that enough samples of the round have already, word for word.

    `accepted` counts those by their words. An answer that a larger share of the seeds has may be as frequent as there:
    a model that has found one answer that is never wrong gives it to everything, and the others are no longer taught.
    """
    of_seeds = Counter(map(worded, seeds))

    def rule(candidate: Candidate) -> Drop | None:
        words = worded(candidate.answer or "")
        count = accepted.get(words, 0) + 1
        limit = max(share, of_seeds[words] / max(1, len(seeds)))
        candidate.scores["common"] = score = min(1.0, count / wanted)
        if count == 1 or score <= limit:
            return None
        return Drop("common", f"{score:.2f} of the round would have this answer, limit {limit:g}", score, limit)

    return rule


def worded(text: str) -> str:
    """Return the words of a text as ROUGE-L compares them, whatever their case and the punctuation between them."""
    return " ".join(rouge.tokens(text))


def no_question(candidate: Candidate) -> Drop | None:
    """Drop what no question could be read from."""
    return Drop("parse", "no question could be read from the completion") if candidate.question is None else None


def no_answer(candidate: Candidate) -> Drop | None:
    """Drop what no answer could be read from."""
    return Drop("no_answer", "no answer could be read from the completion") if candidate.answer is None else None


def truncated(candidate: Candidate) -> Drop | None:
    """Drop an answer that had not ended when the token limit came."""
    return None if candidate.finished else Drop("truncated", "the answer had not ended at answers.max_tokens")


def word_count(part: str, least: int, most: int) -> Rule:
    """Drop a question or an answer that is too short or too long."""
    name = f"{part}_words"

    def rule(candidate: Candidate) -> Drop | None:
        text = candidate.question if part == "question" else candidate.answer
        words = len(rouge.words(text or ""))
        candidate.scores[name] = words
        if words < least:
            return Drop(name, f"the {part} has {words} words, fewer than {least}", words, least)
        if words > most:
            return Drop(name, f"the {part} has {words} words, more than {most}", words, most)
        return None

    return rule


def without(listed: str) -> Rule:
    """Drop a question with one of the words (or phrases) listed, separated by commas."""
    words = [worded(word) for word in listed.split(",")]

    def rule(candidate: Candidate) -> Drop | None:
        text = f" {worded(candidate.question or '')} "
        found = next((word for word in words if word and f" {word} " in text), None)
        return None if found is None else Drop("keywords", f"the question has {found!r}, one of filter.keywords")

    return rule


def alike(name: str, threshold: float, others: Neighbours, what: str) -> Rule:
    """Drop a question too close to another, by ROUGE-L or by the cosine of embeddings as the name says."""
    measure = "ROUGE-L" if name.endswith("rouge") else "cosine"

    def rule(candidate: Candidate) -> Drop | None:
        score: float | None
        if measure == "ROUGE-L":
            nearest, score = others.by_words(candidate.question or "", threshold)
        else:
            if candidate.vector is None:
                return None
            nearest, score = others.by_meaning(candidate.vector)
        if score is None:
            return None
        candidate.scores[name] = score
        if score < threshold:
            return None
        return Drop(
            name, f"{measure} {score:.2f} with {what} ({nearest}), limit {threshold:g}", score, threshold, nearest
        )

    return rule


def on_topic(threshold: float, known: Neighbours) -> Rule:
    """Drop a question that is like nothing there is: it would teach another domain."""

    def rule(candidate: Candidate) -> Drop | None:
        if candidate.vector is None:
            return None
        # Not of those added in this round: one step off topic after another would lead anywhere.
        nearest, score = known.by_meaning(candidate.vector, added=False)
        candidate.scores["topic"] = score
        if score >= threshold:
            return None
        reason = f"cosine {score:.2f} with the nearest question there is ({nearest}), asked {threshold:g}"
        return Drop("topic", reason, score, threshold, nearest)

    return rule


def at_most(name: str, threshold: float, measure: Callable[[Candidate], float], words: str) -> Rule:
    """Drop a candidate of which something is too much."""

    def rule(candidate: Candidate) -> Drop | None:
        score = measure(candidate)
        candidate.scores[name] = score
        return Drop(name, f"{score:.2f} {words}, limit {threshold:g}", score, threshold) if score > threshold else None

    return rule


def repeated(candidate: Candidate) -> float:
    """Return the share of an answer's word 3-grams that are repeats of an earlier one; short answers use words."""
    words = rouge.words((candidate.answer or "").lower())
    size = 3 if len(words) >= 6 else 1
    grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    total = sum(grams.values())
    return (total - len(grams)) / total if total else 0.0


def echoed(candidate: Candidate) -> float:
    """Return the ROUGE-L of an answer with its own question."""
    return rouge.f1(candidate.answer or "", candidate.question or "")


def copied(candidate: Candidate) -> float:
    """Return the largest ROUGE-L of an answer with the answers it was shown; word for word is 1."""
    return max((rouge.f1(candidate.answer or "", answer) for answer in candidate.shown), default=0.0)


def likely(threshold: float) -> Rule:
    """Drop an answer that its own writer finds unlikely, demonstrations in view."""

    def rule(candidate: Candidate) -> Drop | None:
        nll = candidate.scores.get("confidence")
        if nll is None or nll <= threshold:
            return None
        return Drop("confidence", f"NLL per token {nll:.2f}, limit {threshold:g}", nll, threshold)

    return rule


def helped(threshold: float) -> Rule:
    """Drop an answer that the demonstrations did not make likelier."""

    def rule(candidate: Candidate) -> Drop | None:
        gain = candidate.scores.get("gain")
        if gain is None or gain >= threshold:
            return None
        return Drop("gain", f"demonstrations gain {gain:.2f} nats per token, asked {threshold:g}", gain, threshold)

    return rule
