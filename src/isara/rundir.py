"""The run directory: what is complete, what is not, and writing that a kill at any moment cannot spoil."""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from isara.errors import RunError
from isara.rawfiles import read_plain, stands
from isara.samples import to_lines
from isara.shapes import fault, parsed

T = TypeVar("T")


def write_text(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader, or a run that goes on, sees the old content or the new, never a part."""
    # Half a character, which a damaged file of a run can hold, is no UTF-8; in JSON its escape says the same.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file as a whole; the content is on the disk when this returns. RunError: it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.writing")
        # Made anew: what somebody put in its place, such as a link to another file, is not written through.
        scratch.unlink(missing_ok=True)
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        sync_folder(path.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing a file of a run into a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}). Check the folder, its permissions and the space left; "
            "what is complete is kept."
        ) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Replace a file by the JSON of a value."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file by records, one a line."""
    write_text(path, to_lines(records))


def read_json(path: Path) -> Any:
    """Return what a JSON file of a run holds; raises RunError where it is missing or damaged."""
    content = content_of(path)
    if content is None:
        raise RunError(f"{path}: not here. Is this a run directory? It should hold manifest.json.")
    try:
        value = parsed(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not valid JSON ({error}). {remedy(path)}") from error
    wrong = fault(path, value)
    if wrong:
        raise RunError(f"{path}: {wrong}. {remedy(path)}")
    return value


def records_in(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file of a run; raises RunError with the line where it is damaged."""
    return records_from(content_of(path) or b"", path)


def content_of(path: Path) -> bytes | None:
    """Return the bytes of a file of a run, None where it is not there; raises RunError where it cannot be read."""
    try:
        return read_plain(path, most=None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunError(f"{path}: cannot be read ({why}). Check the folder and its permissions.") from error


def records_from(content: bytes, path: Path) -> list[dict[str, Any]]:
    """Return the records in the content of a JSONL file; raises RunError with the line of the first damaged one."""
    lines = enumerate(content.split(b"\n"), start=1)
    return [record_from(line, path, number) for number, line in lines if line.strip()]


def record_from(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """Return the record on a line of a JSONL file; raises RunError where it is damaged."""
    try:
        record: dict[str, Any] = parsed(line)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}:{number}: a damaged line ({error}). {remedy(path)}") from error
    wrong = fault(path, record)
    if wrong:
        raise RunError(f"{path}:{number}: a damaged line ({wrong}). {remedy(path)}")
    return record


def opened(path: Path) -> BinaryIO:
    """Return a file of a run, open to be read; raises RunError where that cannot be."""
    try:
        return path.open("rb")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Check the folder and its permissions.") from error


def look_up(records: Mapping[Any, T], key: object, path: Path) -> T:
    """Return what a file of a run has of something that another one names; raises RunError where it has nothing."""
    try:
        return records[key]
    except KeyError as error:
        told = " ".join(map(str, key)) if isinstance(key, tuple) else key
        raise RunError(f"{path}: nothing here of {told!r}, which another file names. {remedy(path)}") from error


def remedy(path: Path) -> str:
    """Say what to do about a file of a run that was changed from outside."""
    return f"Restore it, or remove the folder {path.parent} and start the run again: what is not there is computed."


def fingerprint(value: Any) -> str:
    """Return a short hash of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


class Events:
    """The event log: one line for each thing that happened, with the time. Nothing is decided by it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, kind: str, **data: Any) -> None:
        """Append an event; raises RunError where it cannot be written."""
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "kind": kind, **data}
        # A line cut off by a kill is closed first, so that it cannot swallow this one.
        with writing(self.path):
            torn = self.path.exists() and not ends_with_newline(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if torn else "") + to_lines([record]))

    def read(self) -> list[dict[str, Any]]:
        """Return the events, leaving out a line that a kill cut off."""
        events = []
        # As bytes, since a line can be cut off within a character, and its text can hold line breaks of other kinds.
        for line in (content_of(self.path) or b"").split(b"\n"):
            try:
                events.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
        return [event for event in events if isinstance(event, dict)]


def ends_with_newline(path: Path) -> bool:
    """Whether a file ends in a newline; an empty one does."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def steps_in(journal: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the committed steps of a journal, and the bytes they take: what lies beyond was cut off by a kill."""
    content = content_of(journal) or b""
    whole = content.rfind(b"\n") + 1
    return records_from(content[:whole], journal), whole


def refuse_gap(path: Path, size: int, length: int) -> None:
    """Raise RunError where a file is shorter than what was written to it."""
    if size < length:
        raise RunError(f"{path}: {size} bytes here, {length} were written. {remedy(path)}")


def step_hash(before: str, step: str, lengths: Mapping[str, int], contents: Iterable[bytes]) -> str:
    """Return the SHA-256 that ties a step, with all it appended, to the hash of the step before it."""
    digest = hashlib.sha256(before.encode("ascii"))
    digest.update(to_lines([{"step": step, "lengths": lengths}]).encode("utf-8"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the finished steps of a round have written, as of one moment; a run may be at work on the files."""

    folder: Path
    lengths: Mapping[str, int]

    def content(self, name: str) -> bytes:
        """Return the bytes of a file; raises RunError where some are gone."""
        path, length = self.folder / name, self.lengths.get(name, 0)
        content = (content_of(path) or b"")[:length]
        refuse_gap(path, len(content), length)
        return content

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the records of a file; raises RunError where one is damaged."""
        return list(self.each(name))

    def each(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the records of a file, read as they are wanted; raises RunError where one is damaged."""
        path, left = self.folder / name, self.lengths.get(name, 0)
        refuse_gap(path, path.stat().st_size if stands(path) else 0, left)
        with opened(path) if left else nullcontext(()) as lines:
            for number, line in enumerate(lines, start=1):
                content, left = line[:left], max(0, left - len(line))
                if content.strip():
                    yield record_from(content, path, number)
                if not left:
                    return


def snapshot(folder: Path) -> Snapshot:
    """Return what a round has written so far, and change nothing, not even what a kill left behind."""
    lengths: dict[str, int] = {}
    for step in steps_in(folder / "journal.jsonl")[0]:
        lengths |= step["lengths"]
    return Snapshot(folder, lengths)


class Journal:
    """
    Files that grow together in committed steps.

    A step appends records to some files, then one line to `journal.jsonl` with the length of every file. What
    lies beyond the last such line was cut off by a kill; opening the journal takes it away.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "journal.jsonl"
        # Of each step its place in `_spans`: the number of files, and for each of them which, from where and to where.
        # A long round has thousands of steps, and as objects these would take more room than what was accepted.
        self._steps: dict[str, int] = {}
        self._spans = array("Q")
        self._names: list[str] = []
        self._lengths: dict[str, int] = {}
        self._hash = ""
        self._size = 0
        self._open()

    def _open(self) -> None:
        steps, whole = steps_in(self._path)
        self._size = whole
        for entry in steps:
            self._note(entry["step"], entry["lengths"])
            self._hash = entry.get("sha256", "")
        if self._path.exists() and self._path.stat().st_size > whole:
            os.truncate(self._path, whole)
        for name, length in self._lengths.items():
            path = self.folder / name
            size = path.stat().st_size if path.exists() else 0
            refuse_gap(path, size, length)
            if size > length:
                os.truncate(path, length)

    def _note(self, step: str, lengths: dict[str, int]) -> None:
        self._steps[step] = len(self._spans)
        self._spans.append(len(lengths))
        for name, length in lengths.items():
            if name not in self._names:
                self._names.append(name)
            self._spans.extend((self._names.index(name), self._lengths.get(name, 0), length))
        self._lengths.update(lengths)

    def done(self, step: str) -> bool:
        """Whether that step was committed."""
        return step in self._steps

    def records(self, step: str, name: str) -> list[dict[str, Any]]:
        """Return the records that a committed step appended to a file."""
        return records_from(self.content(step, name), self.folder / name)

    def content(self, step: str, name: str) -> bytes:
        """Return the bytes that a committed step appended to a file; raises RunError where they are gone."""
        place = self._steps[step]
        spans = self._spans[place + 1 : place + 1 + 3 * self._spans[place]]
        found = ((spans[i + 1], spans[i + 2]) for i in range(0, len(spans), 3) if self._names[spans[i]] == name)
        start, end = next(found, (0, 0))
        path = self.folder / name
        try:
            with path.open("rb") as file:
                file.seek(start)
                content = file.read(end - start)
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}). {remedy(path)}") from error
        refuse_gap(path, start + len(content), end)
        return content

    def commit(self, step: str, files: Mapping[str, Sequence[Mapping[str, Any]] | bytes]) -> None:
        """Append records (or raw bytes) to files, all or nothing; raises RunError where that is not possible."""
        lengths, contents = {}, []
        for name, added in files.items():
            content = added if isinstance(added, bytes) else to_lines(added).encode("utf-8")
            contents.append(content)
            before = self._lengths.get(name, 0)
            with writing(self.folder / name), (self.folder / name).open("ab") as file:
                refuse_gap(self.folder / name, file.tell(), before)
                # What an earlier attempt left behind the last commit, in a file this journal did not know yet.
                file.truncate(before)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            lengths[name] = before + len(content)
        tied = step_hash(self._hash, step, lengths, contents)
        line = to_lines([{"step": step, "lengths": lengths, "sha256": tied}]).encode("utf-8")
        with writing(self._path), self._path.open("ab") as file:
            refuse_gap(self._path, file.tell(), self._size)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._hash, self._size = tied, self._size + len(line)
        self._note(step, lengths)
