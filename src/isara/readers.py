"""
Seeds in: question/answer samples from whatever file, dataset or list they are in.

Every mistake in a source is found and raised at once, because a person who mends a file line by line, one error at a
time, gives up.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

from isara import columns
from isara.errors import InputError, SeedError
from isara.fields import Choice, Layout, Row, Rows, exchange, find_layout, not_too_many, twice
from isara.picking import Where, picked
from isara.rawfiles import is_folder, read_plain
from isara.samples import Sample
from isara.textfiles import UNNAMED, csv_rows, decode, json_rows
from isara.values import kind_of

SHIPPED = ("misconceptions", "supportdesk")
"""Names of the seed sets that come with isara."""

Record = Mapping[str, Any] | Sequence[str] | Sample
"""A sample in memory: a dictionary with the fields of a file, a pair of question and answer, or one read before."""


class Fields(TypedDict, total=False):
    """The fields that hold question and answer, where they cannot be told."""

    question_field: str | None
    answer_field: str | None


_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?")
_PATH_LENGTH = 4096
_FORMATS = "JSONL, JSON, CSV, TSV or Parquet"
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip (as Excel files are)",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
"""What is unpacked by nobody here, so that a small file cannot become a large one."""


def read_seeds(
    source: str | Path,
    *,
    question_field: str | None = None,
    answer_field: str | None = None,
    prefix: str = "seed",
    where: Where | None = None,
    unless: Where | None = None,
) -> list[Sample]:
    """
    Return the samples of a file, a dataset or a shipped seed set, with the ids `seed-1`, `seed-2` and so on.

    `source` is a JSONL, JSON, CSV, TSV or Parquet file; a folder that the datasets library saved, or the
    `owner/name` of a dataset on the Hugging Face hub, either with `:split` after it; or one of `SHIPPED`. The fields
    are detected by their names unless `question_field` and `answer_field` say which they are. Only rows count that
    have the values of `where` in their fields, and not those of `unless`.

    Raises SeedError with every mistake in it, and InputError when there is nothing to read or a library is missing.
    """
    choice, name = _choice(question_field, answer_field), _printable(str(source))
    if not where and not unless:
        return _samples(_rows(str(source), choice), choice, prefix, name)
    choice = Choice(choice.question, choice.answer, (*(where or ()), *(unless or ())))
    found = _rows(str(source), choice)
    rows = picked(found.rows, where or {}, unless or {}, name)
    return _samples(Rows(rows, found.mistakes, found.heading), choice, prefix, name)


def from_records(
    records: Iterable[Record],
    *,
    question_field: str | None = None,
    answer_field: str | None = None,
    prefix: str = "seed",
) -> list[Sample]:
    """
    Return the samples in a list of dictionaries, of pairs of question and answer, or of samples; these are renumbered.

    Errors as in `read_seeds`.
    """
    choice = _choice(question_field, answer_field)
    named = (_named(record, choice) for record in records)
    rows = [Row(number, f"record {number}", record) for number, record in enumerate(named, start=1)]
    return _samples(Rows(rows), choice, prefix, "the list of records")


def sha256_of(
    source: str | Path | Iterable[Record], *, question_field: str | None = None, answer_field: str | None = None
) -> str:
    """
    Return the SHA-256 (hex) of a file's bytes; of a dataset or a list in memory, that of its canonical JSON.

    Of a dataset, only the columns that can hold a question or an answer count: those with a name that is known, and
    those that the two options name. Raises InputError as `read_seeds`.
    """
    if isinstance(source, (str, Path)):
        file = _file(str(source))
        if file is not None:
            return hashlib.sha256(file[1]).hexdigest()
        choice = _choice(question_field, answer_field)
        records: list[object] = [row.record for row in _rows(str(source), choice).rows]
    else:
        records = list(source)
    try:
        canonical = json.dumps(records, sort_keys=True, separators=(",", ":"), default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the records cannot be written as JSON ({error}). Leave text and numbers in them.") from error
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _choice(question: str | None, answer: str | None) -> Choice:
    if question is not None and question == answer:
        raise InputError(f"question_field and answer_field are both '{question}'. Name two fields.")
    return Choice(question, answer)


def _named(record: object, choice: Choice) -> object:
    if isinstance(record, Sample):
        record = (record.question, record.answer)
    if isinstance(record, (Mapping, str)) or not isinstance(record, Sequence) or len(record) != 2:
        return record
    return dict(zip((choice.question or "question", choice.answer or "answer"), record, strict=True))


def _rows(source: str, choice: Choice) -> Rows:
    if not source.strip():
        raise InputError(f"No seeds were named. Give the path of a {_FORMATS} file.")
    if "\0" in source:
        raise InputError(_printable(f"{source}: a path with a NUL character. Check it."))
    if len(source) > _PATH_LENGTH:
        raise InputError(_printable(f"{source[:40]}...: a path of {len(source)} characters. Check it."))
    file = _file(source)
    if file is not None:
        suffix, data = file
        return _file_rows(_printable(source), suffix, data, choice)
    path, split = Path(source), None
    base, colon, last = source.rpartition(":")
    if base and colon and not is_folder(path) and (is_folder(Path(base)) or _HUB.fullmatch(source)):
        path, split = Path(base), last
    if is_folder(path):
        if not columns.is_saved(path):
            raise InputError(_no_dataset(path))
        return columns.saved_rows(path, split, choice)
    if _HUB.fullmatch(source) and path.suffix.lower() not in _SUFFIXES and not is_folder(path.parent):
        return columns.hub_rows(path.as_posix(), split, choice)
    raise InputError(_no_file(Path(source)))


def _file(source: str) -> tuple[str, bytes] | None:
    """Return the suffix and the bytes of a file or of a shipped seed set; None when `source` is neither."""
    path = Path(source)
    try:
        if path.exists():
            return None if path.is_dir() else (path.suffix.lower(), read_plain(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            _printable(f"{source}: cannot be read ({reason}). Check the path and its permissions.")
        ) from error
    shipped = resources.files("isara").joinpath("seeds", f"{source}.jsonl") if source in SHIPPED else None
    return (".jsonl", shipped.read_bytes()) if shipped is not None and shipped.is_file() else None


def _file_rows(name: str, suffix: str, data: bytes, choice: Choice) -> Rows:
    packed = next((kind for magic, kind in _PACKED.items() if data.startswith(magic)), None)
    if packed is not None:
        raise SeedError([f"{name}: this is packed with {packed}. Save it as {_FORMATS}."])
    if data and (suffix == ".parquet" or data.startswith(b"PAR1")):
        return columns.parquet_rows(data, name, choice)
    text = decode(data, name)
    if not text.strip():
        raise SeedError([f"{name}: the file is empty. Write one question and answer on each line, as JSON."])
    if suffix in (".jsonl", ".ndjson", ".json"):
        return json_rows(text, name, choice, by_line=suffix != ".json")
    if suffix in (".csv", ".tsv", ".tab"):
        return csv_rows(text, name, choice, first="," if suffix == ".csv" else "\t")
    if text.lstrip().startswith(("{", "[")):
        return json_rows(text, name, choice, by_line=True)
    found = csv_rows(text, name, choice)
    if any(line == UNNAMED for line, _ in found.mistakes):
        raise SeedError([f"{name}: neither JSON nor a table that names its columns. Save it as {_FORMATS}."])
    return found


def _samples(found: Rows, choice: Choice, prefix: str, name: str) -> list[Sample]:
    """Turn records into samples; a fault that all of them share is told once."""
    not_too_many(len(found.rows), name)
    mistakes, pairs = list(found.mistakes), []
    layouts: dict[tuple[str, ...], Layout | str] = {}
    unfit: dict[str, list[Row]] = {}
    for row in found.rows:
        if not isinstance(row.record, Mapping):
            words = f"{kind_of(row.record)} here. Write an object with a question and an answer."
            mistakes.append((row.number, f"{row.where}: {words}"))
            continue
        mistakes += [(row.number, f"{row.where}: {words}") for words in twice(row.record, choice)]
        record = {str(key): value for key, value in row.record.items()}
        names = tuple(record)
        if names not in layouts:
            layouts[names] = _layout(names, choice)
        layout = layouts[names]
        if isinstance(layout, str):
            unfit.setdefault(layout, []).append(row)
            continue
        try:
            pairs.append(exchange(record, layout))
        except SeedError as error:
            mistakes += [(row.number, f"{row.where}: {words}") for words in error.mistakes]
    for words, rows in unfit.items():
        if found.heading:
            mistakes.append((rows[0].number, f"{found.heading}: {words}"))
        elif len(rows) == len(found.rows) > 1:
            mistakes.append((rows[0].number, f"{rows[0].where}: {words} All {len(rows)} are so."))
        else:
            mistakes += [(row.number, f"{row.where}: {words}") for row in rows]
    if mistakes:
        raise SeedError([_printable(words) for _, words in sorted(mistakes, key=lambda mistake: mistake[0])])
    if not pairs:
        raise SeedError([f"{name}: no samples here. Write at least a handful of questions and answers."])
    return [Sample(f"{prefix}-{row}", *pair) for row, pair in enumerate(pairs, start=1)]


def _layout(names: tuple[str, ...], choice: Choice) -> Layout | str:
    try:
        return find_layout(names, choice)
    except SeedError as error:
        return error.mistakes[0]


def _printable(text: str) -> str:
    """Write what a terminal cannot show as escapes, so that a message is one line whatever the file holds."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def _data_files(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    except OSError:
        return []


def _no_dataset(folder: Path) -> str:
    files = _data_files(folder)
    words = f"{folder}: a folder, and not a dataset that was saved with save_to_disk."
    if files:
        return _printable(f"{words} Name a file in it (found: {', '.join(files[:8])}).")
    return _printable(f"{words} Give the path of a {_FORMATS} file.")


def _no_file(path: Path) -> str:
    if not is_folder(path.parent):
        return _printable(f"{path}: no such file, and no folder '{path.parent}'. Check the path.")
    siblings = _data_files(path.parent)
    close = difflib.get_close_matches(path.name, [*siblings, *SHIPPED], n=1)
    if close:
        meant = str(path.parent / close[0]) if close[0] in siblings else close[0]
        return _printable(f"{path}: no such file. Did you mean '{meant}'?")
    there = f" (found there: {', '.join(siblings[:8])})" if siblings else ""
    return _printable(f"{path}: no such file{there}. Give the path of a {_FORMATS} file, or one of {_shipped()}.")


def _shipped() -> str:
    return " and ".join(f"'{name}'" for name in SHIPPED)
