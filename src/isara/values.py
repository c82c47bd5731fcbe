"""Values that somebody wrote: what they are in words, and whether they are text that can be used."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from isara.errors import SeedError

_BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that leave no mark: the fillers of Hangul, and braille without a dot."""
LONGEST = 100_000
"""Characters of one text: more than any model here takes in at once."""


def kind_of(value: object) -> str:
    """Return what a value is, in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, Mapping):
        return "an object"
    return f"a value of type {type(value).__name__}"


def told(value: Any) -> str:
    """Return a value as a person would read it in the file, cut where it is long."""
    if isinstance(value, Mapping | list):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and abs(value) > 10**15:
        digits = int(value.bit_length() * math.log10(2)) + 1
        return f"{'minus ' if value < 0 else ''}a whole number of about {digits} digits"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f"{value} (not a finite number)"
    written = (
        f'"{printable(value)}"' if isinstance(value, str) else toml(value) if isinstance(value, bool) else str(value)
    )
    return written if len(written) <= 60 else written[:57] + "..."


def printable(text: str) -> str:
    """Return text that cannot steer the terminal that shows it."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    # JSON's literals are TOML's, except that TOML wants DEL escaped as well.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def texts(named: Iterable[tuple[str, object]]) -> list[str]:
    """Return named values as clean text; SeedError with one sentence for each that is not usable text."""
    clean, mistakes = [], []
    for name, value in named:
        wrong = _fault(value)
        if wrong is not None:
            mistakes.append(f"{name} {wrong}")
        else:
            clean.append(str(value).replace("\r\n", "\n").replace("\r", "\n").strip())
    if mistakes:
        raise SeedError(mistakes)
    return clean


def visible(text: str) -> bool:
    """Return whether a text has a character that leaves a mark: not a space, a control or a format character."""
    return any(char not in _BLANK and unicodedata.category(char) not in ("Cc", "Cf", "Zs", "Zl", "Zp") for char in text)


def _fault(value: object) -> str | None:
    if not isinstance(value, str):
        fix = "Write it, or remove the sample." if value is None else "Write it as text."
        return f"is {kind_of(value)}. {fix}"
    if len(value) > LONGEST:
        return f"has {len(value):,} characters, and {LONGEST:,} is the most. Shorten it, or remove the sample."
    surrogate = next((place for place, char in enumerate(value) if "\ud800" <= char <= "\udfff"), None)
    if surrogate is not None:
        code = f"\\u{ord(value[surrogate]):04x}"
        return (
            f"has half a character ({code}, a lone surrogate) at position {surrogate + 1}. Write the whole character."
        )
    if "\0" in value:
        return f"has a NUL character at position {value.index(chr(0)) + 1}. Remove it."
    return None if visible(value) else "is empty. Write it, or remove the sample."
