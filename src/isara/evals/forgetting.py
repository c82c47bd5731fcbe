"""
Forgetting: how likely a model finds text outside the domain, before and after it was tuned.

Perplexity is e to the mean negative log-likelihood per token over passages, each passage counted once. It can be
compared between arms of one model, never between models with different tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from isara.errors import InputError
from isara.evals.benchmark import Benchmark, Measure, Rows
from isara.heldout import refuse_nan
from isara.protocols import Model
from isara.rundir import fingerprint
from isara.textfiles import decode

_WORDS = 150
_LEAST = 5


def passages(text: str, words: int = _WORDS) -> list[str]:
    """Return a text in passages of whole paragraphs up to so many words; longer paragraphs are cut between words."""
    found: list[str] = []
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        parts = paragraph.split()
        if held and sum(len(p.split()) for p in held) + len(parts) > words:
            found.append("\n\n".join(held))
            held = []
        while len(parts) > words:
            found.append(" ".join(parts[:words]))
            parts = parts[words:]
        if parts:
            held.append(" ".join(parts))
    return [*found, *(["\n\n".join(held)] if held else [])]


def read_passages(source: str | None) -> list[str]:
    """Return the passages of a plain text file, or those that ship; InputError where there is no text."""
    if source is None:
        text = resources.files("isara").joinpath("evals", "passages.txt").read_text(encoding="utf-8")
        return [part.strip() for part in text.strip().split("\n\n")]
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}). Give the path of a plain text file.") from error
    found = [passage for passage in passages(decode(data, source)) if len(passage.split()) >= _LEAST]
    if not found:
        raise InputError(f"{source}: no passage of {_LEAST} words or more. Give a plain text file.")
    return found


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
    items = read_passages(source)[:limit]
    return Benchmark(
        "forgetting",
        items,
        {"items": fingerprint(items)},
        score,
        (Measure("perplexity", "nll", "lower", perplexity=True), Measure("NLL per token", "nll", "lower")),
        notes=(f"{len(items)} passages of {source or 'text that ships with isara'}.",),
    )
