"""The samples of a run as one JSON text inside the page, no larger than a page can be."""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

from isara.report.load import Run
from isara.report.records import Dropped, Kept, Pair
from isara.report.rows import Rows
from isara.report.text import HIDDEN, clip, reveal, rule_words

BUDGET = 26_000_000
"""Bytes of samples in one page; together with everything else this keeps the file below 30 MB."""

TRIES = 60

COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
MARKUP = re.compile("[<>&\u2028\u2029]")
ESCAPED = re.compile(r"\\[ubfr]")
"""How JSON spells characters that may be hidden ones."""

ROOM = 2.0
"""Rows are written out while their lines in the files take up to this many times what there is room for."""

SCORES = (
    "question_words",
    "answer_words",
    "repetition",
    "echo",
    "copied",
    "rouge",
    "cosine",
    "heldout_rouge",
    "heldout_cosine",
    "confidence",
    "gain",
    "common",
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The samples as text for a `<script type="application/json">`, and how many of how many they are."""

    json: str
    shown: int
    total: int


def embed(run: Run, budget: int = BUDGET) -> Embedded:
    """
    Return the samples of `run` in at most `budget` bytes.

    Seeds and held-out samples come first, because parents and neighbours lead to them, then what was kept, then
    what was dropped; where there is no room for all of these, an even share of each rule in each round.
    """
    given = [_given(sample, "seed") for sample in run.seeds] + [_given(sample, "heldout") for sample in run.heldout]
    seen = _survey(run)
    names = [name for name in SCORES if name in seen.names] + sorted(seen.names.difference(SCORES))
    left = budget
    rows: list[str] = []
    for kind in ("given", "kept", "dropped"):
        groups = {0: given} if kind == "given" else _rendered(run, kind, seen, names, left)
        chosen = _even_share(groups, left)
        rows += chosen
        left -= sum(map(_size, chosen))
    total = len(given) + sum(len(lines) for groups in seen.groups.values() for lines in groups.values())
    head = f'"names":{_dump(names)},"rules":{_dump(_rules(run, seen.rules))},"shown":{len(rows)},"total":{total}'
    return Embedded(f'{{{head},"rows":[\n' + ",\n".join(rows) + "\n]}", len(rows), total)


Group = tuple[int, str]
"""Rows that get their share together: a round's kept samples, or those that one rule dropped in it."""


@dataclass(frozen=True, slots=True)
class _Survey:
    """What is in the rounds' files, without their texts."""

    names: set[str]
    rules: dict[str, int]
    """Numbers of the rules, in the order in which they were met."""
    groups: Mapping[str, dict[Group, array[int]]]
    """For what was kept and what was dropped, by group: the size in bytes of each line."""
    lines: Mapping[int, array[int]]
    """By round: the number of the rule of each line of what was dropped."""


def _survey(run: Run) -> _Survey:
    found = _Survey(set(), {}, {"kept": {}, "dropped": {}}, {n: array("H") for n in range(len(run.rounds))})
    for n, entry in enumerate(run.rounds):
        for number, line in entry.kept.lines():
            found.names.update(_looked_at(entry.kept, number, line).scores)
            found.groups["kept"].setdefault((n, ""), array("I")).append(len(line))
        for number, line in entry.dropped.lines():
            row = _looked_at(entry.dropped, number, line)
            found.names.update(row.scores)
            found.lines[n].append(found.rules.setdefault(row.rule, len(found.rules)))
            found.groups["dropped"].setdefault((n, row.rule), array("I")).append(len(line))
    return found


class _Look(NamedTuple):
    scores: Mapping[str, Any]
    rule: str


def _looked_at(rows: Rows[Any], number: int, line: bytes) -> _Look:
    """Return what a survey wants of a line; most need no check of every field, which takes far longer."""
    try:
        value = json.loads(line)
        if b"\\u" not in line and isinstance(value["scores"], dict):
            return _Look(value["scores"], str(value.get("rule", "")))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    row = rows.record(number, line)
    return _Look(row.scores, row.rule if isinstance(row, Dropped) else "")


def _rendered(run: Run, kind: str, seen: _Survey, names: Sequence[str], budget: int) -> dict[Group, list[str]]:
    """Return the rows of each group, of very many an even share that is still more than there is room for."""
    groups, rules = seen.groups[kind], list(seen.rules)
    share = min(1.0, ROOM * max(0, budget) / max(1, sum(sum(sizes) for sizes in groups.values())))
    wanted = {key: math.ceil(len(sizes) * share) for key, sizes in groups.items()}
    passed = dict.fromkeys(groups, 0)
    found: dict[Group, list[str]] = {key: [] for key in groups}
    for n, entry in enumerate(run.rounds):
        rows: Rows[Any] = entry.kept if kind == "kept" else entry.dropped
        told: Iterable[str] = repeat("") if kind == "kept" else (rules[rule] for rule in seen.lines[n])
        for (number, line), rule in zip(rows.lines(), told, strict=False):
            key = (n, rule)
            place, count = passed.get(key, 0), len(groups.get(key, ()))
            passed[key] = place + 1
            # As many as are wanted, spread evenly, the first one among them; none that came while this was read.
            if place < count and place * wanted[key] // count > (place - 1) * wanted[key] // count:
                row = rows.record(number, line)
                found[key].append(_kept(row, names) if kind == "kept" else _dropped(row, names))
    return found


def _given(sample: Pair, kind: str) -> str:
    return _row([sample.id, kind, 0, _text(sample.question), _text(sample.answer), [[], [], []]])


def _kept(row: Kept, names: Sequence[str]) -> str:
    shown = _shown(row)
    return _row([row.id, "kept", row.round, _text(row.question), _text(row.answer), shown, _values(row.scores, names)])


def _dropped(row: Dropped, names: Sequence[str]) -> str:
    why = [row.rule, _text(row.reason), row.score, row.threshold, row.nearest]
    texts = [_text(row.question), _text(row.answer)]
    return _row([row.id, "dropped", row.round, *texts, _shown(row), _values(row.scores, names), *why])


def _shown(row: Kept | Dropped) -> list[list[str]]:
    """Return ids of the demonstrations: for the question, for the answer, and those of which neither is known."""
    told = {*row.question_parents, *row.answer_parents}
    return [
        list(row.question_parents),
        list(row.answer_parents),
        [parent for parent in row.parents if parent not in told],
    ]


def _values(scores: Mapping[str, float | None], names: Sequence[str]) -> list[float | None]:
    return [None if (value := scores.get(name)) is None else _rounded(value) for name in names]


def _rounded(value: float) -> float:
    rounded = round(value, 4)
    return int(rounded) if rounded.is_integer() else rounded


def _rules(run: Run, found: Iterable[str]) -> dict[str, str]:
    """Return plain words for each rule that dropped something, in the order in which they ran."""
    order = dict.fromkeys(step.rule for entry in run.rounds if entry.facts for step in entry.facts.funnel)
    rules = [rule for rule in order if rule in found] + sorted(set(found).difference(order))
    return {rule: rule_words(rule) for rule in rules}


def _text(text: str | None) -> str | None:
    return None if text is None else clip(text)


def _row(values: list[Any]) -> str:
    return _dump(values)


def _dump(value: Any) -> str:
    text = COMPACT.encode(value)
    # Most texts have nothing to reveal, and finding that out at once is quicker than going through all parts.
    if ESCAPED.search(text) or HIDDEN.search(text):
        text = COMPACT.encode(_revealed(value))
    return script_safe(text)


def _revealed(value: Any) -> Any:
    if isinstance(value, str):
        return reveal(value)
    if isinstance(value, list):
        return [_revealed(part) for part in value]
    if isinstance(value, dict):
        return {reveal(key): _revealed(part) for key, part in value.items()}
    return value


def script_safe(text: str) -> str:
    """Return JSON that cannot end the script element it stands in, nor be read as markup."""
    for character in "<>&\u2028\u2029" if MARKUP.search(text) else "":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _size(row: str) -> int:
    return len(row.encode()) + 2


def _even_share(groups: Mapping[Any, Sequence[str]], budget: int) -> list[str]:
    """Return all rows where they fit; else from each group every so many, so that none is left out altogether."""
    whole = sum(_size(row) for rows in groups.values() for row in rows)
    if whole <= budget:
        return [row for rows in groups.values() for row in rows]
    share = max(0, budget) / whole
    # Each group is rounded up, so that the first share may be a little too much.
    for _ in range(TRIES):
        chosen = [row for rows in groups.values() for row in _spread(rows, math.ceil(len(rows) * share))]
        if sum(map(_size, chosen)) <= budget:
            break
        share *= 0.95
    return list(_while_room(chosen, budget))


def _spread(rows: Sequence[str], wanted: int) -> list[str]:
    return [rows[n * len(rows) // wanted] for n in range(wanted)]


def _while_room(rows: Iterable[str], budget: int) -> Iterable[str]:
    for row in rows:
        budget -= _size(row)
        if budget >= 0:
            yield row
