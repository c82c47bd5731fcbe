"""Which rows of a file count: those with given values in given fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isara.errors import InputError
from isara.fields import Row

Value = str | bool | int | float
Where = Mapping[str, Value | Sequence[Value]]
"""Fields of a record, and for each of them the value, or the values, that it has to have."""

_SHOWN = 8


def picked(rows: Sequence[Row], where: Where, unless: Where, name: str) -> list[Row]:
    """
    Return the rows that have the values of `where` and not those of `unless`, in their order.

    Case and outer spaces do not matter. Raises InputError for a field that no row has and for a value that none has,
    which would otherwise leave out everything, or nothing, without a word; and where no row is left.
    """
    refuse_unknown(rows, {**where, **unless}, name)
    kept = [row for row in rows if matches(row.record, where) and not (unless and matches(row.record, unless))]
    if not kept:
        raise InputError(f"{name}: no row is left of {len(rows)}. Ask for fewer values at once.")
    return kept


def matches(record: object, where: Where) -> bool:
    """Whether a record has one of the wanted values in every field that is named."""
    return isinstance(record, Mapping) and all(
        field in record and plain(record[field]) in wanted(values) for field, values in where.items()
    )


def wanted(values: Value | Sequence[Value]) -> dict[str, Value]:
    """Return the values of a field, by what they are compared as."""
    each = [values] if isinstance(values, str | bool | int | float) else values
    return {plain(value): value for value in each}


def plain(value: object) -> str:
    """Return a value as it is compared: a table holds text only, where JSON has numbers and truth values."""
    return str(value).strip().casefold()


def refuse_unknown(rows: Sequence[Row], where: Where, name: str) -> None:
    """Raise InputError for a field that no row has, or a value that no row has in it."""
    records = [row.record for row in rows if isinstance(row.record, Mapping)]
    for field, values in where.items():
        there = {plain(record[field]): record[field] for record in records if field in record}
        if not there:
            fields = list(dict.fromkeys(str(key) for record in records for key in record))
            raise InputError(f"{name}: no field '{field}' here (found: {shown(fields)}). Name one of these.")
        missing = [str(value) for key, value in wanted(values).items() if key not in there]
        if missing:
            found = shown([str(value) for value in there.values()])
            raise InputError(f"{name}: no row whose {field} is '{missing[0]}' (found: {found}). Name one of these.")


def shown(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:40] for name in names[:_SHOWN]) + more
