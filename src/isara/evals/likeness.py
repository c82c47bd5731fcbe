"""Answers held against reference answers: words in common, and likeness of meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isara import rouge
from isara.evals.files import Answer, plain
from isara.evals.rates import Figure
from isara.protocols import Embedder
from isara.samples import Sample
from isara.stats import mean_interval


def references(samples: Sequence[Sample]) -> dict[str, list[str]]:
    """Return the reference answers of each question, by its plain text."""
    found: dict[str, list[str]] = {}
    for sample in samples:
        found.setdefault(plain(sample.question), []).append(sample.answer)
    return found


def score(answers: Sequence[Answer], wanted: Mapping[str, Sequence[str]], embedder: Embedder) -> list[dict[str, Any]]:
    """
    Return `{id, prompt, response, reference, rouge_l, similarity}` for each answer, against its most alike reference.

    `rouge_l` is the F-measure (Lin 2004), `similarity` the cosine of the two embeddings. Every prompt must have a
    reference.
    """
    rows: list[dict[str, Any]] = []
    for answer in answers:
        scored = [(rouge.f1(answer.response, reference), reference) for reference in wanted[plain(answer.prompt)]]
        best = max(scored, key=lambda each: each[0])
        rows.append({"id": answer.id, "prompt": answer.prompt, "response": answer.response, "reference": best[1]})
        rows[-1]["rouge_l"] = round(best[0], 6)
    vectors = embedder.embed([row[name] for name in ("response", "reference") for row in rows]).astype(np.float64)
    cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1)
    for row, cosine in zip(rows, cosines, strict=True):
        # An empty answer means nothing, whatever an embedder makes of it.
        row["similarity"] = round(float(cosine), 6) if row["response"].strip() else 0.0
    return rows


def figures(rows: Sequence[Mapping[str, Any]], confidence: float = 0.95) -> list[Figure]:
    """Return the means over the answers; higher is more alike."""
    names = {"rouge_l": "ROUGE-L with the reference", "similarity": "embedding similarity with the reference"}
    means = {name: mean_interval([row[field] for row in rows], confidence=confidence) for field, name in names.items()}
    return [Figure(name, mean) for name, mean in means.items()]
