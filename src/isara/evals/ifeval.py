"""IFEval: whether a response follows each of a prompt's instructions, strictly and loosely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isara.errors import SeedError
from isara.evals.files import Answer, plain, read_rows, records_of
from isara.evals.instructions import KINDS
from isara.evals.rates import Figure, pooled, share


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and the instructions in it that can be verified."""

    prompt: str
    instructions: tuple[str, ...]
    arguments: tuple[Mapping[str, Any], ...]
    """Those of each instruction, in its order."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one instruction after the other was followed."""

    strict: tuple[bool, ...]
    """By the response as it stands."""
    loose: tuple[bool, ...]
    """By the response or by one without asterisks, first line or last line, where models put words around answers."""


def item_from(record: Mapping[str, Any]) -> Item | str:
    """Return a row of the benchmark's data as an item, or a sentence that says what is wrong with it."""
    prompt, names, arguments = (record.get(key) for key in ("prompt", "instruction_id_list", "kwargs"))
    if not isinstance(prompt, str) or not prompt.strip():
        return "no 'prompt' here. Use the benchmark's own data file."
    if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments) or not names:
        return "'instruction_id_list' and 'kwargs' are not two lists of one length. Use the benchmark's own data file."
    cleaned = [{key: value for key, value in (given or {}).items() if value is not None} for given in arguments]
    for name, given in zip(names, cleaned, strict=True):
        if name not in KINDS:
            return f"no check for the instruction '{name}'. isara knows the {len(KINDS)} kinds of the benchmark."
        missing = [key for key in KINDS[name].needs if key not in given]
        if missing:
            return f"'{name}' has no {' and no '.join(missing)} in 'kwargs'. Use the benchmark's own data file."
    return Item(prompt, tuple(names), tuple(cleaned))


def judge(item: Item, response: str) -> Verdict:
    """Return what the official strict and loose checks say of a response; an empty one follows nothing."""
    pairs = list(zip(item.instructions, item.arguments, strict=True))
    variants = [variant for variant in looser(response) if variant.strip()]
    return Verdict(
        tuple(bool(response.strip()) and KINDS[name].check(response, given) for name, given in pairs),
        tuple(any(KINDS[name].check(variant, given) for variant in variants) for name, given in pairs),
    )


def looser(response: str) -> Iterator[str]:
    """Yield the response, those without its first line, last line or both, and each of them without asterisks."""
    lines = response.split("\n")
    trimmed = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    for variant in (response, *trimmed):
        yield variant
        yield variant.replace("*", "")


def read_items(source: str) -> dict[str, Item]:
    """Return the benchmark's items by their prompts; raises SeedError with every row that is none."""
    items, mistakes = {}, []
    for where, record in records_of(read_rows(source)):
        item = item_from(record)
        if isinstance(item, str):
            mistakes.append(f"{where}: {item}")
        else:
            items[plain(item.prompt)] = item
    if mistakes:
        raise SeedError(mistakes)
    return items


def score(answers: Sequence[Answer], items: Mapping[str, Item]) -> list[dict[str, Any]]:
    """
    Return `{id, prompt, strict, loose, instructions, strict_each, loose_each}` for each answer.

    `strict` and `loose` say whether every instruction was followed; every prompt must be one of the items.
    """
    rows = []
    for answer in answers:
        item = items[plain(answer.prompt)]
        verdict = judge(item, answer.response)
        rows.append(
            {
                "id": answer.id,
                "prompt": answer.prompt,
                "strict": all(verdict.strict),
                "loose": all(verdict.loose),
                "instructions": list(item.instructions),
                "strict_each": list(verdict.strict),
                "loose_each": list(verdict.loose),
            }
        )
    return rows


def figures(rows: Sequence[Mapping[str, Any]], confidence: float = 0.95) -> list[Figure]:
    """Return the four numbers that the benchmark reports: prompts and instructions, strict and loose."""
    found = []
    for way in ("strict", "loose"):
        found.append(Figure(f"prompts followed, {way}", share([row[way] for row in rows], confidence)))
        found.append(Figure(f"instructions followed, {way}", pooled([row[f"{way}_each"] for row in rows], confidence)))
    return found
