"""What a study's computing took, by its own event log, and what the stages of a run cost, by the run's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from isara.rundir import Events


@contextmanager
def spending(out: Path, name: str) -> Iterator[None]:
    """Note in a study's folder how long what is within took, also where it is broken off; a SIGKILL leaves no note."""
    started = time.monotonic()
    try:
        yield
    finally:
        log_of(out).add("spent", name=name, seconds=round(time.monotonic() - started, 2))


def spent(out: Path, names: Sequence[str]) -> float | None:
    """Return the seconds that these runs and measures took, or None where one has no note, as from older versions."""
    found: dict[str, float] = {}
    for event in log_of(out).read():
        name, took = event.get("name"), event.get("seconds")
        # Nothing is decided by the log, so a line of it that says something else is passed over.
        if event.get("kind") == "spent" and isinstance(name, str) and isinstance(took, float | int):
            found[name] = found.get(name, 0.0) + took
    return round(sum(found[name] for name in names), 1) if set(names) <= found.keys() else None


def log_of(out: Path) -> Events:
    """Return the event log of a study."""
    return Events(out / "events.jsonl")


def costs(run: Path) -> dict[str, float]:
    """Return the seconds of each stage of a run, with what a model would have taken to write what it recalled."""
    found: dict[str, float] = {}
    noted = set()
    for event in Events(run / "events.jsonl").read():
        kind, name, took = event.get("kind"), event.get("name"), event.get("seconds")
        if kind == "recalled":
            if (name, event.get("of")) in noted:
                continue
            noted.add((name, event.get("of")))
        if kind in ("stage", "recalled") and isinstance(name, str) and isinstance(took, float | int):
            found[name] = found.get(name, 0.0) + took
    return found
