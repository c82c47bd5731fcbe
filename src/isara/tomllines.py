"""On which line of a TOML file each setting stands, which `tomllib` does not tell."""

from __future__ import annotations

import tomllib
from typing import Any

_MOST_DOTS = 200
"""Of a line that is no comment: the time `tomllib` takes for a dotted name grows with its square."""


def toml_table(text: str) -> dict[str, Any]:
    """Return the table of a TOML text; ValueError where it is none, RecursionError where it is nested too deeply."""
    if any(line.count(".") > _MOST_DOTS and not line.lstrip().startswith("#") for line in text.split("\n")):
        raise RecursionError
    return tomllib.loads(text)


def setting_lines(text: str) -> dict[str, int]:
    """Return the first line that sets each dotted name of a valid TOML text, or a part of it."""
    found: dict[str, int] = {}
    rows = text.split("\n")
    header: tuple[str, ...] = ()
    for number, row in enumerate(rows, start=1):
        is_header = row.lstrip().startswith("[")
        parts = _path(row if is_header else row.partition("=")[0] + "= 0")
        # a line that looks like a setting may be inside a multi-line string: then what precedes it is unfinished
        if not parts or (("'''" in text or '"""' in text) and _path("\n".join(rows[: number - 1])) is None):
            continue
        header, full = (parts, parts) if is_header else (header, header + parts)
        for depth in range(len(full)):
            found.setdefault(".".join(full[: depth + 1]), number)
    return found


def _path(toml: str) -> tuple[str, ...] | None:
    """Return the first chain of keys in a piece of TOML, or None where it is not TOML."""
    try:
        table: Any = toml_table(toml)
    except (ValueError, RecursionError):
        return None
    parts = []
    while isinstance(table, dict) and table:
        key, table = next(iter(table.items()))
        parts.append(key)
    return tuple(parts)
