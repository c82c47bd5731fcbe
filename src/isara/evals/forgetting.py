"""
Forgetting: how likely a model finds text outside the domain, before and after it was tuned.

Perplexity is e to the mean negative log-likelihood per token over passages, each passage counted once. It can be
compared between arms of one model, never between models with different tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from isara.evals.benchmark import Benchmark, Measure, Rows
from isara.heldout import refuse_nan
from isara.passages import read_passages
from isara.protocols import Model
from isara.rundir import fingerprint


def shipped() -> list[str]:
    """Return the passages that ship."""
    text = resources.files("isara").joinpath("evals", "passages.txt").read_text(encoding="utf-8")
    return [part.strip() for part in text.strip().split("\n\n")]


def score(model: Model, some: Sequence[str]) -> Rows:
    """Return `{id, passage, nll, tokens}` for each passage, read after nothing."""
    scored = model.score([("", passage) for passage in some])
    names = [fingerprint(passage)[:8] for passage in some]
    refuse_nan(model, names, scored)
    return [
        {"id": name, "passage": passage, "nll": round(likelihood.nll, 6), "tokens": likelihood.tokens}
        for name, passage, likelihood in zip(names, some, scored, strict=True)
    ]


def benchmark(source: str | None, limit: int | None) -> Benchmark:
    """Return the benchmark on a text file, or on the passages that ship."""
    items = (read_passages(source) if source else shipped())[:limit]
    return Benchmark(
        "forgetting",
        items,
        {"items": fingerprint(items)},
        score,
        (Measure("perplexity", "nll", "lower", perplexity=True), Measure("NLL per token", "nll", "lower")),
        notes=(f"{len(items)} passages of {source or 'text that ships with isara'}.",),
    )
