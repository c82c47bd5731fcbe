"""Hashes of a run's files, and JSON files in which no byte changes unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara.errors import RunError
from isara.rundir import step_hash, steps_in, write_json
from isara.samples import to_lines

SEAL = "seal.json"
Facts = dict[str, Any]
"""`{bytes, sha256}` of a file."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in a run directory that is not as it was written."""

    file: str
    """Its path in the run directory."""
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def facts_of(path: Path, length: int | None = None) -> Facts | None:
    """Return the size and the hash of a file, or of its first `length` bytes; None where it cannot be read."""
    digest, left = hashlib.sha256(), path.stat().st_size if length is None and path.is_file() else length or 0
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(min(left - size, 1 << 20)):
                digest.update(block)
                size += len(block)
    except OSError:
        return None
    return {"bytes": size, "sha256": digest.hexdigest()}


def facts_in(folder: Path, names: Iterable[str]) -> dict[str, Facts]:
    """Return the facts of files of a folder, by name, those that cannot be read left out."""
    wanted = sorted(names)
    # Hashing leaves other threads alone, and a round can have hundreds of megabytes.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        found = threads.map(lambda name: facts_of(folder / name), wanted)
        return {name: facts for name, facts in zip(wanted, found, strict=True) if facts is not None}


def faults_in(folder: Path, files: Mapping[str, Facts], prefix: str = "") -> list[Fault]:
    """Return what differs between the files of a folder and what was noted of them."""
    here = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    same_size = [name for name in here if here[name] == files[name]["bytes"]]
    hashes = facts_in(folder, same_size)
    faults = []
    for name, facts in files.items():
        if name not in here:
            faults.append(Fault(prefix + name, "missing"))
        elif here[name] != facts["bytes"]:
            faults.append(Fault(prefix + name, f"changed: {here[name]} bytes here, {facts['bytes']} were written"))
        elif hashes.get(name, {}).get("sha256") != facts["sha256"]:
            faults.append(Fault(prefix + name, "changed: the same size, and other content"))
    return faults


def files_below(folder: Path) -> Iterator[str]:
    """Yield the path of every file in a folder and its sub-folders, what is hidden left out."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file by the JSON of an object and the hash of it."""
    write_json(path, {**value, "sha256": checksum(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Return an object that `write_sealed` wrote; raises RunError where so much as a space in it changed."""
    try:
        content = path.read_bytes()
        value: dict[str, Any] = json.loads(content.decode("utf-8"))
        told = value.pop("sha256", None)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: changed since it was written (no JSON object).") from error
    # The hash is of the values; comparing the text as well leaves no byte of the layout out.
    again = json.dumps({**value, "sha256": told}, indent=2, ensure_ascii=False) + "\n"
    if told != checksum(value) or again.encode("utf-8", "surrogatepass") != content:
        raise RunError(f"{path}: changed since it was written.")
    return value


def drop_file(folder: Path, name: str) -> None:
    """Take one file out of an arm's folder, and out of the list of its files where the arm is complete."""
    done = folder / "done.json"
    known = sealed_or_none(done)
    if known is not None:
        known.get("files", {}).pop(name, None)
        write_sealed(done, known)
    (folder / name).unlink(missing_ok=True)


def sealed_or_none(path: Path) -> dict[str, Any] | None:
    """Return what `read_sealed` does, None where there is no such file or it was changed."""
    try:
        return read_sealed(path)
    except RunError:
        return None


def unseal(run: Path) -> None:
    """Say in the seal that a run is being started: until it is sealed again it vouches for nothing outside the arms."""
    write_sealed(run / SEAL, {"status": "starting", "files": {}})


def checksum(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON value in one fixed layout."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def journal_faults(folder: Path, prefix: str) -> list[Fault]:
    """Return what differs between the files of a round and what its committed steps wrote to them."""
    journal = folder / "journal.jsonl"
    try:
        steps, whole = steps_in(journal)
    except RunError:
        return [Fault(f"{prefix}journal.jsonl", "changed: a line is no JSON")]
    if steps and not any("sha256" in step for step in steps):
        return []
    written = to_lines(steps).encode("utf-8", "surrogatepass")
    if journal.exists() and written != journal.read_bytes()[:whole]:
        return [Fault(f"{prefix}journal.jsonl", "changed since it was written")]
    return step_faults(folder, steps, prefix)


def step_faults(folder: Path, steps: Iterable[Mapping[str, Any]], prefix: str) -> list[Fault]:
    """Return the first place where the files of a round are not what its steps hashed."""
    lengths: dict[str, int] = {}
    before = ""
    for step in steps:
        contents = []
        for name, length in step["lengths"].items():
            content = span(folder / name, lengths.get(name, 0), length)
            if len(content) < length - lengths.get(name, 0):
                return [Fault(prefix + name, f"changed: fewer than the {length} bytes that were written")]
            contents.append(content)
        if "sha256" in step and step["sha256"] != step_hash(before, step["step"], step["lengths"], contents):
            names = ", ".join(step["lengths"])
            return [Fault(f"{prefix}journal.jsonl", f"step {step['step']} is not what is in {names}")]
        lengths |= step["lengths"]
        before = step.get("sha256", "")
    return []


def span(path: Path, start: int, end: int) -> bytes:
    """Return some bytes of a file; fewer where there are fewer, none where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)
    except FileNotFoundError:
        return b""
