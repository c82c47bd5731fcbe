"""What a study's computing took, by its own event log, and what the stages of a run cost, by the run's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    found = added_up(event for event in log_of(out).read() if event.get("kind") == "spent")
    return round(sum(found[name] for name in names), 1) if set(names) <= found.keys() else None


def log_of(out: Path) -> Events:
    """Return the event log of a study."""
    return Events(out / "events.jsonl")


def costs(run: Path) -> dict[str, float]:
    """Return the seconds of each stage of a run, with what a model would have taken to write what it recalled."""
    events = Events(run / "events.jsonl").read()
    recalled = {f"{event.get('name')} {event.get('of')}": event for event in events if event.get("kind") == "recalled"}
    return added_up([*(event for event in events if event.get("kind") == "stage"), *recalled.values()])


def added_up(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of events by their names, added up where a name comes several times."""
    found: dict[str, float] = {}
    for event in events:
        name, took = event.get("name"), event.get("seconds")
        # Nothing is decided by the log, so a line of it that says something else is passed over.
        if isinstance(name, str) and isinstance(took, float | int) and 0 <= took < 1e9:
            found[name] = found.get(name, 0.0) + took
    return found
