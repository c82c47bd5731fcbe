"""Rows of a benchmark's data and recorded answers, from a file or the Hugging Face hub; mistakes told all at once."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara import columns
from isara.errors import InputError, SeedError
from isara.fields import Row, not_too_many
from isara.rawfiles import read_plain, stands
from isara.textfiles import decode
from isara.values import kind_of

Record = Mapping[str, Any]

_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+){0,2}")
_PROMPTS = ("prompt", "question", "instruction")
_RESPONSES = ("response", "completion", "output", "answer")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to a prompt, as it was recorded."""

    id: str
    """The record's own, or its number in the file."""
    prompt: str
    response: str
    where: str
    """What stands before a message about it, such as `answers.jsonl:7`."""
    record: Record


def read_rows(source: str) -> list[Row]:
    """
    Return the rows of a JSONL, JSON, CSV, TSV or Parquet file, or of a dataset `owner/name:split` on the hub.

    `owner/name:config:split` names a configuration too. Raises SeedError with every line that cannot be read, and
    InputError where there is nothing.
    """
    path = Path(source)
    if not stands(path):
        if path.suffix.lower() not in (".jsonl", ".json", ".csv", ".tsv", ".parquet") and _HUB.fullmatch(source):
            return columns.hub_records(source)
        raise InputError(f"{source}: no such file. Give the path of a JSONL, JSON, CSV, TSV or Parquet file.")
    try:
        data = read_plain(path)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error}). Check the path.") from error
    if path.suffix.lower() == ".parquet":
        return columns.parquet_records(data, source)
    text = decode(data, source)
    if path.suffix.lower() in (".csv", ".tsv"):
        found, mistakes = _table(text, source, "," if path.suffix.lower() == ".csv" else "\t")
    else:
        found, mistakes = _document(text, source) if path.suffix.lower() == ".json" else _lines(text, source)
    not_too_many(len(found) + len(mistakes), source)
    mistakes += [
        f"{row.where}: {kind_of(row.record)} here. Write an object." for row in found if not _is_record(row.record)
    ]
    if mistakes:
        raise SeedError(mistakes)
    if not found:
        raise InputError(f"{source}: nothing in it. Write one JSON object on each line.")
    return found


def records_of(rows: Sequence[Row]) -> Iterator[tuple[str, Record]]:
    """Yield the place and the content of each row."""
    for row in rows:
        if isinstance(row.record, Mapping):
            yield row.where, row.record


def read_answers(source: str, known: Container[str] | None = None, data: str = "") -> list[Answer]:
    """
    Return recorded answers; the fields are `prompt`, `response` and, where there is one, `id`.

    `question` or `instruction`, and `completion`, `output` or `answer` do as well. Raises SeedError with every row
    that has no prompt or no response, or whose prompt is not among the `known` ones, which are those of `data`.
    """
    mistakes, found = [], []
    for number, (where, record) in enumerate(records_of(read_rows(source)), start=1):
        prompt = _text(record, _PROMPTS)
        response = _text(record, _RESPONSES)
        lacking = [name for name, value in (("prompt", prompt), ("response", response)) if value is None]
        if lacking or prompt is None or response is None:
            there = ", ".join(map(str, record)) or "nothing"
            words = " and no ".join(f"'{name}'" for name in lacking)
            mistakes.append(f"{where}: no {words} here, as text (found: {there}). Write it, or rename the field.")
            continue
        if known is not None and plain(prompt) not in known:
            mistakes.append(f"{where}: its prompt is not in {data}: {excerpt(prompt)!r}.")
        given = record.get("id", record.get("key"))
        found.append(Answer(str(number) if given is None else str(given), prompt, response, where, record))
    if mistakes:
        raise SeedError(mistakes)
    return found


def plain(prompt: str) -> str:
    """Return a prompt without its spacing, for finding it again."""
    return " ".join(prompt.split())


def missing(answers: Sequence[Answer], known: Mapping[str, str]) -> list[str]:
    """Return the known prompts, by their whole text, that nothing answers."""
    answered = {plain(answer.prompt) for answer in answers}
    return [text for key, text in known.items() if key not in answered]


def excerpt(text: str, most: int = 70) -> str:
    """Return the beginning of a text, on one line."""
    line = plain(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _is_record(record: object) -> bool:
    return isinstance(record, Mapping)


def _text(record: Record, names: Sequence[str]) -> str | None:
    named = {str(name).strip().casefold(): value for name, value in record.items()}
    value = next((named[name] for name in names if name in named), None)
    return value if isinstance(value, str) and (names is _RESPONSES or value.strip()) else None


def _lines(text: str, source: str) -> tuple[list[Row], list[str]]:
    """Return the value on each line, and what is wrong with the others."""
    found, mistakes = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                found.append(Row(number, f"{source}:{number}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                mistakes.append(f"{source}:{number}: not JSON ({error}). Write one object on this line.")
    return found, mistakes


def _document(text: str, source: str) -> tuple[list[Row], list[str]]:
    """Return the elements of a list, of the one list of objects in an object, or the object alone."""
    try:
        document = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        if len(found := _lines(text, source)[0]) > 1:
            return found, _lines(text, source)[1]
        return [], [f"{source}: not JSON ({error}). Write a list of objects."]
    if isinstance(document, Mapping):
        inner = [value for value in document.values() if isinstance(value, list) and value and _is_record(value[0])]
        document = inner[0] if len(inner) == 1 else [document]
    items = document if isinstance(document, list) else [document]
    return [Row(number, f"{source}, record {number}", item) for number, item in enumerate(items, start=1)], []


def _table(text: str, source: str, delimiter: str) -> tuple[list[Row], list[str]]:
    """Return the rows of a table whose first line names its columns, and what is wrong with the others."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: list[Row] = []
    mistakes: list[str] = []
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return found, mistakes
        except csv.Error as error:
            mistakes.append(f"{source}:{line}: {error}. Check the quotes of this record.")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
        elif len(cells) != len(header):
            words = f"{len(cells)} columns, and the first line names {len(header)}. Put quotes around the fields."
            mistakes.append(f"{source}:{line}: {words}")
        else:
            found.append(Row(line, f"{source}:{line}", dict(zip(header, cells, strict=True))))
