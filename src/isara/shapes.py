"""
What isara itself reads out of the files of a run, and a sentence where something else stands there.

A run directory is opened again after a year, edited by hand, or sent by somebody else. Each record is looked at once,
as it is read, so that what does not fit is named by its file and line, and not by a traceback far from there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Check = Callable[[Any], str]
"""Says what is wrong with a value, beginning with `is`; nothing where it fits."""

_LARGEST = 1e12


def parsed(content: bytes) -> Any:
    """Return the value of a JSON text; ValueError for what isara never writes: no finite number, half a character."""

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number[:20]} is no finite number")
        return value

    value = json.loads(content, parse_float=finite, parse_constant=finite)
    if b"\\u" in content:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def fault(path: Path, value: object) -> str:
    """Return what is wrong with a record of the file at `path`, in words; nothing where it is as isara writes it."""
    in_arm = path.parent.name in _ARMS or path.parent.name.startswith("round-")
    check = (_IN_ARM if in_arm else _IN_RUN).get(path.name)
    wrong = check(value) if check else ""
    return wrong if wrong.startswith("'") or not wrong else f"this {wrong}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        return "is no text"
    return "" if value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value) else "has half a character"


def _number(value: Any) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if fits and math.isfinite(value) and abs(value) < _LARGEST else "is no number, or none that can be right"


def _share(value: Any) -> str:
    return _number(value) or ("" if 0 < value < 1 else "is not between 0 and 1")


def _count(value: Any) -> str:
    fits = isinstance(value, int) and not isinstance(value, bool)
    return "" if fits and 0 <= value < _LARGEST else "is no count"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "is neither true nor false"


def _own_file(value: Any) -> str:
    """Of a journal, which cuts the files it names: they must be in its own folder."""
    return "" if isinstance(value, str) and value == Path(value).name and value != ".." else "is no file of this folder"


def _plain(value: Any) -> str:
    return "" if value is None or isinstance(value, str | int | float) else "is no plain value"


def _or_null(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def _each(check: Check) -> Check:
    def listed(value: Any) -> str:
        if not isinstance(value, list):
            return "is no list"
        wrong = next(filter(None, map(check, value)), "")
        return wrong and f"has one that {wrong}"

    return listed


def _all_of(keys: Check, values: Check) -> Check:
    def mapped(value: Any) -> str:
        if not isinstance(value, Mapping):
            return "is no object"
        for key, held in value.items():
            wrong = keys(key) or values(held)
            if wrong:
                return f"has {str(key)[:40]!r}, which {wrong.removeprefix('is ') if keys(key) else wrong}"
        return ""

    return mapped


def _with(*required: tuple[str, Check], maybe: tuple[tuple[str, Check], ...] = ()) -> Check:
    """Return a check for an object with these fields; others are left alone."""

    def held(value: Any) -> str:
        if not isinstance(value, Mapping):
            return "is no object"
        for name, check in required:
            wrong = check(value[name]) if name in value else "is missing"
            if wrong:
                return f"{name!r} {wrong}" if not wrong.startswith("'") else f"'{name}.{wrong[1:]}"
        for name, check in maybe:
            wrong = check(value[name]) if name in value else ""
            if wrong:
                return f"{name!r} {wrong}"
        return ""

    return held


_IDS = _each(_text)
_section = _all_of(_text, _plain)
_ID = ("id", _text)
_FAMILY = (("parents", _IDS), ("question_parents", _IDS), ("answer_parents", _IDS))
_SAMPLE = _with(_ID, ("question", _text), ("answer", _text), maybe=(("round", _count), *_FAMILY))
_SCORE = _with(_ID, ("nll", _number), maybe=(("shown_nll", _or_null(_number)),))


def _sample_or_score(value: Any) -> str:
    """Check what has the same name in the run and in each arm."""
    return _SCORE(value) if isinstance(value, Mapping) and "nll" in value else _SAMPLE(value)


_MEASURES = ("distinct_1", "distinct_2", "distinct_3", "self_bleu", "spread", "to_seeds", "copy_rate")
_VARIETY = tuple((name, _or_null(_number)) for name in (*_MEASURES, "question_words", "answer_words"))
_INPUT = _or_null(_with(("path", _text), maybe=(("content", _text),)))
_DECIDING = _with(
    ("rounds", _count),
    ("gate", _with(("confidence", _share), ("patience", _count))),
)


def _settings(value: Any) -> str:
    """Check all settings for depth, and those that a summary and a replay read for what they are."""
    return _all_of(_text, lambda held: _section(held) if isinstance(held, dict) else _plain(held))(value) or _DECIDING(
        value
    )


_MANIFEST = _with(
    ("name", _text),
    ("isara", _text),
    ("model", _with(("name", _text))),
    ("embedder", _with(("name", _text))),
    ("inputs", _all_of(_text, _INPUT)),
    ("settings", _settings),
    maybe=(("created", _text),),
)
_ROUND = _with(
    ("round", _count),
    ("accepted", _count),
    ("drafted", _count),
    ("kept", _flag),
    ("diversity", _with(*_VARIETY, ("seeds", _with(*_VARIETY)))),
    maybe=(("why", _text),),
)
_ARMS = ("base", "retrieved", "seeds-only")
_IN_RUN: Mapping[str, Check] = {
    "manifest.json": _MANIFEST,
    "seeds.jsonl": _SAMPLE,
    "heldout.jsonl": _sample_or_score,
    "test.jsonl": _sample_or_score,
}
_IN_ARM: Mapping[str, Check] = {
    "heldout.jsonl": _SCORE,
    "test.jsonl": _SCORE,
    "answers.jsonl": _with(_ID, ("question", _text), ("reference", _text), ("answer", _text), ("finished", _flag)),
    "round.json": _ROUND,
    "prompts.jsonl": _with(_ID, ("stage", _text), ("batch", _count), ("demonstrations", _IDS)),
    "completions.jsonl": _with(_ID, ("stage", _text), ("batch", _count), ("text", _text), ("finished", _flag)),
    "scores.jsonl": _with(_ID, ("batch", _count), ("nll", _number), ("bare_nll", _number)),
    "embedded.jsonl": _with(_ID),
    "kept.jsonl": _SAMPLE,
    "dropped.jsonl": _with(
        _ID,
        ("question", _or_null(_text)),
        ("answer", _or_null(_text)),
        ("rule", _text),
        ("reason", _text),
        maybe=_FAMILY,
    ),
    "journal.jsonl": _with(("step", _text), ("lengths", _all_of(_own_file, _count))),
}
