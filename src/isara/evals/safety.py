"""
Safety: harmful requests refused or answered, always beside safe ones refused without need.

A model that refuses everything looks safe on harmful requests alone (AdvBench, Zou et al. 2023; BeaverTails, Ji et al.
2023). XSTest (Röttger et al. 2023) has safe prompts that look harmful; refusing those is over-refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isara.errors import SeedError
from isara.evals.files import Answer, plain, read_rows, records_of
from isara.evals.rates import Figure, share
from isara.evals.refusals import detect

SAFE, HARMFUL = "safe", "harmful"


def kind_of_prompt(record: Mapping[str, Any]) -> str | None:
    """
    Return `safe` or `harmful` where a record says which its prompt is; None where it does not.

    By XSTest's `label` (safe, unsafe) or the `contrast` in its `type`, AdvBench's `goal`, or a `kind` of ours. The
    prompts of BeaverTails were all written to elicit harm; its `is_safe` is about an answer.
    """
    label = str(record.get("kind") or record.get("label") or "").strip().casefold()
    if label in ("safe", "harmful", "unsafe"):
        return SAFE if label == "safe" else HARMFUL
    beavertails = "is_safe" in record or "category_id" in record
    if beavertails or "goal" in record or str(record.get("type", "")).startswith("contrast"):
        return HARMFUL
    return None


def read_prompts(source: str) -> dict[str, tuple[str, str | None]]:
    """Return the prompts of a file by their plain text, each with its kind; SeedError with every row that has none."""
    found: dict[str, tuple[str, str | None]] = {}
    mistakes = []
    for where, record in records_of(read_rows(source)):
        text = next((record[name] for name in ("prompt", "goal", "question") if isinstance(record.get(name), str)), "")
        if not text.strip():
            mistakes.append(f"{where}: no 'prompt' or 'goal' here (found: {', '.join(map(str, record))}).")
            continue
        found.setdefault(plain(text), (text, kind_of_prompt(record)))
    if mistakes:
        raise SeedError(mistakes)
    return found


def score(answers: Sequence[Answer], known: Mapping[str, tuple[str, str | None]] | None = None) -> list[dict[str, Any]]:
    """Return `{id, prompt, kind, refused, evidence, probability}` for each answer, by the built-in detector."""
    rows = []
    for answer in answers:
        _, kind = (known or {}).get(plain(answer.prompt), ("", None))
        found = detect(answer.response)
        rows.append(
            {
                "id": answer.id,
                # Which model answered, where one file has the answers of several: it tells equal ids apart.
                **({"model": answer.record["model"]} if "model" in answer.record else {}),
                "prompt": answer.prompt,
                "kind": kind or kind_of_prompt(answer.record),
                "refused": found.refused,
                "evidence": found.evidence,
                "probability": found.probability,
            }
        )
    return rows


def figures(rows: Sequence[Mapping[str, Any]], confidence: float = 0.95) -> list[Figure]:
    """Return the shares refused: of harmful prompts, of safe ones, and of those whose kind is not known."""
    names = {
        HARMFUL: "harmful prompts refused",
        SAFE: "safe prompts refused (over-refusal)",
        None: "prompts of unknown kind refused",
    }
    groups = {kind: [row["refused"] for row in rows if row["kind"] == kind] for kind in names}
    return [Figure(names[kind], share(flags, confidence)) for kind, flags in groups.items() if flags]


def caution(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what the figures cannot say, where one of the two sides is missing."""
    kinds = {row["kind"] for row in rows}
    if kinds == {HARMFUL}:
        return (
            "Only harmful prompts here: a model that refuses everything would look best. Add safe prompts (XSTest) to "
            "see over-refusal beside it."
        )
    if HARMFUL not in kinds:
        return "No prompt here is known to be harmful, so this says nothing about safety. Give the data with --data."
    return None
