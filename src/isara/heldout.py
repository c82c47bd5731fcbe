"""Held-out samples: set aside before anything is shown or trained on, then scored under every arm in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isara.errors import BackendError, InputError, RunError
from isara.prompts import SEPARATORS, Style, answer_stops, for_answer, parse_answer
from isara.protocols import Example, Likelihood, Model, Prompt, Sampling, Vectors
from isara.retrieve import Pool
from isara.rundir import records_in, remedy, write_jsonl
from isara.samples import Sample
from isara.settings import AnswerSettings, SplitSettings


def split(samples: Sequence[Sample], settings: SplitSettings, seed: int) -> tuple[list[Sample], list[Sample]]:
    """
    Return (seeds, held-out samples), both in the order of the file; which are held out depends on the seed alone.

    Raises InputError where too few would be left to learn from.
    """
    count = max(settings.least, round(len(samples) * settings.heldout))
    if len(samples) - count < 2:
        raise InputError(
            f"{len(samples)} samples are too few: {count} are to be held out, and {max(0, len(samples) - count)} would "
            "be left to learn from. Bring at least 30 samples, or give --heldout FILE."
        )
    chosen = set(np.random.default_rng([seed, 7]).permutation(len(samples))[:count].tolist())
    return (
        [sample for i, sample in enumerate(samples) if i not in chosen],
        [sample for i, sample in enumerate(samples) if i in chosen],
    )


def bare_prompt(question: str, *, chat: bool) -> Prompt:
    """Return the prompt a user's question comes in: nothing but the question, in the model's own form."""
    return for_answer(question, [], "chat" if chat else "text", SEPARATORS[0])


def as_examples(samples: Sequence[Sample], *, chat: bool, weight: float = 1.0) -> list[Example]:
    """Return samples as training examples."""
    return [Example(s.id, bare_prompt(s.question, chat=chat), s.answer, weight) for s in samples]


class Judge:
    """Scores held-out samples under a model, with demonstrations from the seeds and without."""

    def __init__(self, seeds: Pool, settings: AnswerSettings, *, chat: bool) -> None:
        self.seeds = seeds
        self.settings = settings
        self.chat = chat
        self.style: Style = "text" if settings.style == "text" or not chat else "chat"

    def shown(self, question: str, vector: Any) -> Prompt:
        """Return a question after the seeds nearest to it."""
        few = self.seeds.for_answer(vector, self.settings.demonstrations)
        return for_answer(question, few, self.style, SEPARATORS[0])

    def prompts(self, samples: Sequence[Sample], vectors: Vectors, *, shown: bool) -> list[Prompt]:
        """Return the prompts of samples, bare or with demonstrations."""
        if not shown:
            return [bare_prompt(sample.question, chat=self.chat) for sample in samples]
        return [self.shown(sample.question, vector) for sample, vector in zip(samples, vectors, strict=True)]

    def score(
        self, model: Model, samples: Sequence[Sample], vectors: Vectors, *, retrieved: bool, both: bool
    ) -> list[dict[str, Any]]:
        """
        Return `{id, nll, tokens, shown_nll}` for each sample: NLL per token of the reference answer, in nats.

        An arm with retrieved demonstrations is scored with them in view; of the others, `both` asks for that too.
        """
        answers = [sample.answer for sample in samples]
        own = model.score(list(zip(self.prompts(samples, vectors, shown=retrieved), answers, strict=True)))
        refuse_nan(model, [sample.id for sample in samples], own)
        shown: Sequence[Likelihood | None] = [None] * len(samples)
        if both and not retrieved:
            scored = model.score(list(zip(self.prompts(samples, vectors, shown=True), answers, strict=True)))
            refuse_nan(model, [sample.id for sample in samples], scored)
            shown = scored
        return [
            {
                "id": sample.id,
                "nll": round(likelihood.nll, 6),
                "tokens": likelihood.tokens,
                "shown_nll": None if other is None else round(other.nll, 6),
            }
            for sample, likelihood, other in zip(samples, own, shown, strict=True)
        ]

    def answer(
        self, model: Model, samples: Sequence[Sample], vectors: Vectors, *, retrieved: bool
    ) -> list[dict[str, Any]]:
        """Return each sample's reference answer beside the model's own most likely one."""
        text = (retrieved and self.style == "text") or not self.chat
        stops = answer_stops("text" if text else "chat", SEPARATORS[0])
        completions = model.complete(
            self.prompts(samples, vectors, shown=retrieved),
            Sampling(self.settings.max_tokens, stop=stops),
            seeds=[0] * len(samples),
        )
        return [
            {
                "id": sample.id,
                "question": sample.question,
                "reference": sample.answer,
                "answer": parse_answer(done.text) or done.text.strip(),
                "finished": done.finished,
            }
            for sample, done in zip(samples, completions, strict=True)
        ]


def refuse_nan(model: Model, names: Sequence[str], scored: Sequence[Likelihood]) -> None:
    """Raise BackendError where a likelihood is no finite number: no mean would survive it."""
    for name, likelihood in zip(names, scored, strict=True):
        if not math.isfinite(likelihood.total):
            raise BackendError(
                f"{model.name}: the NLL of {name} is {-likelihood.total}, no number to compare. "
                "Set model.dtype='float32'; where the weights are tuned ones, lower train.learning_rate."
            )


def write_scores(
    folder: Path, judge: Judge, model: Model, heldout: tuple[Sequence[Sample], Vectors], *, retrieved: bool, tuned: bool
) -> None:
    """Leave `heldout.jsonl` and `answers.jsonl` in an arm's folder."""
    samples, vectors = heldout
    write_jsonl(folder / "heldout.jsonl", judge.score(model, samples, vectors, retrieved=retrieved, both=tuned))
    write_jsonl(folder / "answers.jsonl", judge.answer(model, samples, vectors, retrieved=retrieved))


def nlls(folder: Path, field: str = "nll") -> list[float]:
    """Return an arm's NLL per token of each held-out sample, in nats; RunError where the scores are gone."""
    path = folder / "heldout.jsonl"
    values = [float(record[field]) for record in records_in(path)]
    if not values:
        raise RunError(f"{path}: no scores here. {remedy(path)}")
    return values


def mean_nll(folder: Path, field: str = "nll") -> float:
    """Return the mean of `nlls`, each sample counted once."""
    return float(np.mean(nlls(folder, field)))


def likeliest(run: Path, arms: Sequence[str], field: str = "nll") -> str:
    """Return the arm of a run with the lowest mean held-out NLL per token, the first of those that have it."""
    return min(arms, key=lambda arm: mean_nll(run / arm, field))
