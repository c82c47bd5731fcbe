"""The lines of a run's files as records; of long files, read again each time and never held as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from isara.errors import RunError
from isara.report.records import Record

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Rows(Generic[R]):
    """
    The records in the first `until` bytes of a JSONL file; an absent file has none.

    RunError, on the way through: a line is damaged. `torn` forgives a last line without an end, in a file still being
    written.
    """

    run: Path
    file: str
    shape: type[R]
    until: int | None = None
    torn: bool = False

    def __iter__(self) -> Iterator[R]:
        return (self.record(number, line) for number, line in self.lines())

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the number and the bytes of every line that says something."""
        left = self.until
        try:
            with (self.run / self.file).open("rb") as file:
                for number, whole in enumerate(file, start=1):
                    line = whole if left is None else whole[:left]
                    left = None if left is None else left - len(line)
                    if self.torn and not line.endswith(b"\n"):
                        return
                    if line.strip():
                        yield number, line
        except FileNotFoundError:
            return
        except OSError as error:
            raise unreadable(self.run / self.file, error) from error

    def record(self, number: int, line: bytes) -> R:
        """Return the record in a line."""
        return parse(line, self.shape, self.run, self.file, number)

    def count(self) -> int:
        """Return how many records there are."""
        return sum(1 for _ in self.lines())


def unreadable(path: Path, error: OSError) -> RunError:
    """Return the error that says why a file cannot be read."""
    return RunError(f"{path}: cannot be read ({error.strerror}). Check the folder and its permissions.")


def parse(content: bytes, shape: type[R], run: Path, file: str, number: int | None = None) -> R:
    """Return a record from its JSON; RunError, naming the file and the line, where it is damaged."""
    try:
        value = json.loads(content.decode("utf-8"))
        return shape.model_validate(_plain(value) if b"\\u" in content else value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        found = f"{field}: {first['msg']}" if field else "not an object"
    except UnicodeDecodeError:
        found = "not UTF-8 text"
    except (ValueError, RecursionError):
        found = "not JSON"
    remedy = "Put back a copy of it"
    if file != "manifest.json":
        remedy += ", or move it away to see the report without it"
    where = f"{run / file}:{number}" if number else run / file
    raise RunError(f"{where}: the file is damaged ({found}). {remedy}.")


def _plain(value: Any) -> Any:
    """Half surrogates cannot pass through pydantic or be written; spell them out."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", lambda half: f"<U+{ord(half.group()):04X}>", value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(part) for key, part in value.items()}
    return value
