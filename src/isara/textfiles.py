"""Text files as records: bytes to text, and JSONL, JSON and CSV to rows that know their line."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping

from isara.errors import SeedError
from isara.fields import Choice, Row, Rows, Twice, find_layout, keeping_count, may_hold, not_too_many, repeated
from isara.values import kind_of

UNNAMED = 0
"""Stands for the line number where a table has no line that names its columns."""

_OBJECT = '{"question": "...", "answer": "..."}'
_ONE_EACH = f"Write one object on each line, such as {_OBJECT}, or one list of them."
_TRIED = 1000
"""Lines that are tried, to tell one object on each line from one object on several."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def decode(data: bytes, name: str) -> str:
    """Return the text of a UTF-8 file, or of a UTF-16 one with a byte order mark; SeedError with the first fault."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise SeedError([f"{name}: this is UTF-32. Save the file as UTF-8."])
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if wide else "UTF-8"
        line = data[: error.start].decode("utf-16" if wide else "utf-8", errors="replace").count("\n") + 1
        raise SeedError(
            [
                f"{name}:{line}: byte 0x{data[error.start]:02x} at offset {error.start} is not {encoding}. "
                "Save the file as UTF-8."
            ]
        ) from None
    if "\0" in text:
        raise _nul(text, data, name, wide)
    return text.removeprefix("\ufeff")


def _nul(text: str, data: bytes, name: str, wide: bool) -> SeedError:
    before = text[: text.index("\0")]
    place = f"{name}:{before.count(chr(10)) + 1}"
    start = data[:200]
    if not wide and start.count(0) * 3 > len(start):
        return SeedError([f"{place}: every other byte is NUL, as in UTF-16 without a mark. Save the file as UTF-8."])
    offset = len(before.encode("utf-16-le")) + 2 if wide else data.index(0)
    return SeedError([f"{place}: a NUL byte at offset {offset}, which no text has. Remove it."])


def json_rows(text: str, name: str, choice: Choice, *, by_line: bool) -> Rows:
    """
    Return the objects of a JSON or JSONL text; `by_line` says which of the two to expect when it is neither.

    One whole document is a list of objects, an object with one such list inside, or a single sample.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        document = _load(text)
    except json.JSONDecodeError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        some = lines[:_TRIED]
        alone = sum(_is_object(line) for line in some)
        if alone * 2 >= len(some) or (by_line and lines[0].strip() != "{" and not lines[0].lstrip().startswith("[")):
            not_too_many(len(lines), name)
            return _line_rows(text, name)
        words = f"{name}:{error.lineno}: not JSON: {error.msg} at column {error.colno}. {_ONE_EACH}"
        return Rows([], [(error.lineno, words)])
    return _document_rows(document, text, name, choice)


def csv_rows(text: str, name: str, choice: Choice, *, first: str = ",") -> Rows:
    """
    Return the records of a table whose first line names its columns, delimited by `,`, `;` or a tab.

    The delimiter is the one that gives most columns with a name that is known; of equals, `first`.
    """
    headers = {delimiter: _header(text, delimiter) for delimiter in (first, *(d for d in _DELIMITERS if d != first))}
    delimiter = max(headers, key=lambda d: (sum(may_hold(cell, choice) for cell in headers[d]), len(headers[d])))
    header: list[str] | None = None
    found, heading = Rows([]), f"{name}:1"
    for count, (line, cells) in enumerate(_csv_records(text, delimiter)):
        not_too_many(count, name)
        if isinstance(cells, str):
            found.mistakes.append((line, f"{name}:{line}: {cells}"))
        elif header is None:
            header, heading = [cell.strip() for cell in cells], f"{name}:{line}"
            found.mistakes.extend((line, f"{heading}: {words}") for words in repeated(header, choice))
        elif any(cell.strip() for cell in cells[len(header) :]):
            words = f"{len(cells)} columns, and the first line names {len(header)}."
            fix = f"Put quotes around a field that contains {_DELIMITERS[delimiter]}."
            found.mistakes.append((line, f"{name}:{line}: {words} {fix}"))
        else:
            padded = [*cells, *[""] * (len(header) - len(cells))]
            found.rows.append(Row(line, f"{name}:{line}", dict(zip(header, padded, strict=False))))
    if header is not None and not any(may_hold(column, choice) for column in header):
        found.mistakes.append((UNNAMED, _unnamed(header, heading, choice)))
        found.rows.clear()
    return Rows(found.rows, found.mistakes, heading)


def _load(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=keeping_count)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("Brackets nested too deep", text, 0) from None
    except ValueError:  # CPython refuses to convert a number of more than 4300 digits
        raise json.JSONDecodeError("A number with too many digits", text, 0) from None


def _is_object(line: str) -> bool:
    try:
        return isinstance(_load(line), Mapping)
    except json.JSONDecodeError:
        return False


def _line_rows(text: str, name: str) -> Rows:
    found = Rows([])
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.rows.append(Row(number, f"{name}:{number}", _load(line.lstrip("\ufeff"))))
        except json.JSONDecodeError as error:
            words = f"not JSON: {error.msg} at column {error.colno}. Write one object, such as {_OBJECT}."
            found.mistakes.append((number, f"{name}:{number}: {words}"))
    return found


def _document_rows(document: object, text: str, name: str, choice: Choice) -> Rows:
    start = _skip(text, 0)
    line = text.count("\n", 0, start) + 1
    if isinstance(document, list):
        return _list_rows(document, text, start, name)
    if not isinstance(document, Mapping):
        return Rows([], [(line, f"{name}:{line}: {kind_of(document)} and no object. {_ONE_EACH}")])
    single = Rows([Row(line, f"{name}:{line}", document)])
    lists = [key for key, value in document.items() if isinstance(value, list)]
    times = document.times if isinstance(document, Twice) else {}
    lost = [key for key in times if key in lists]
    if lost:
        words = f"'{lost[0]}' stands {times[lost[0]]} times in one object. Join its lists."
        return Rows([], [(line, f"{name}:{line}: {words}")])
    try:
        layout = find_layout(list(document), choice)
    except SeedError:
        if len(lists) > 1:
            keys = ", ".join(f"'{key}'" for key in lists)
            words = f"{len(lists)} lists in one object ({keys}). Leave the one that holds the samples."
            return Rows([], [(line, f"{name}:{line}: {words}")])
        return _list_rows(document[lists[0]], text, _values(text, start)[lists[0]], name) if lists else single
    if layout.question not in lists:
        return single
    held = document[layout.question]
    if layout.answer is None:
        samples = any(isinstance(item, Mapping) and not {"role", "from"} & set(item) for item in held)
        return _list_rows(held, text, _values(text, start)[layout.question], name) if samples else single
    if held and not isinstance(held[0], Mapping):
        words = f"'{layout.question}' is a list of {len(held)}. {_ONE_EACH}"
        return Rows([], [(line, f"{name}:{line}: {words}")])
    return single


def _list_rows(items: list[object], text: str, start: int, name: str) -> Rows:
    """Return the elements of the list that opens at `start`, each with the line on which it begins."""
    not_too_many(len(items), name)
    found, line, counted = Rows([]), 1, 0
    for item, place in zip(items, _elements(text, start), strict=True):
        line, counted = line + text.count("\n", counted, place), place
        found.rows.append(Row(line, f"{name}:{line}", item))
    return found


def _skip(text: str, at: int) -> int:
    match = re.compile(r"[ \t\n\r,:]*").match(text, at)
    return match.end() if match else at


def _elements(text: str, start: int) -> Iterator[int]:
    """Yield where each element of a well-formed list begins."""
    decoder = json.JSONDecoder()
    at = _skip(text, start + 1)
    while text[at] != "]":
        yield at
        at = _skip(text, decoder.raw_decode(text, at)[1])


def _values(text: str, start: int) -> dict[str, int]:
    """Return where the value of each key of a well-formed object begins."""
    decoder, places = json.JSONDecoder(), {}
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, end = decoder.raw_decode(text, at)
        places[key] = _skip(text, end)
        at = _skip(text, decoder.raw_decode(text, places[key])[1])
    return places


def _header(text: str, delimiter: str) -> list[str]:
    for _, cells in _csv_records(text, delimiter):
        return [] if isinstance(cells, str) else [cell.strip() for cell in cells]
    return []


def _csv_records(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the line on which each record begins and its cells, or what is wrong with it; blank ones are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, _csv_fault(str(error))
            continue
        if any(cell.strip() for cell in cells):
            yield line, cells


def _csv_fault(error: str) -> str:
    if "field limit" in error:
        return (
            f"a field of more than {csv.field_size_limit():,} characters, or a quoted one that does not end. "
            "Shorten it, or close the quote."
        )
    if "unexpected end" in error:
        return "a quoted field begins in this record and does not end. Close the quote."
    return 'text follows a closing quote. Write a quote inside a quoted field twice ("").'


def _unnamed(header: list[str], heading: str, choice: Choice) -> str:
    try:
        find_layout(header, choice)
    except SeedError as error:
        return f"{heading}: {error.mistakes[0]} The first line of a table names its columns."
    return f"{heading}: the first line of a table names its columns."
