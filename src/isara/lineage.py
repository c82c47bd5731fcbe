"""Where a sample came from: the demonstrations it was shown, theirs, and so on back to the seeds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara.errors import RunError
from isara.rawfiles import stands
from isara.rundir import records_in, snapshot


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One line of a family tree."""

    depth: int
    role: str
    """What it was shown for: `question`, `answer`, both, or nothing for the sample itself."""
    id: str
    question: str
    answer: str
    origin: str
    """Where it stands: `seed`, `round 1, kept`, `round 2, dropped (rouge)`."""
    repeated: bool
    """Whether its own ancestors were listed before, and are not again."""


def lineage(run: Path, name: str) -> list[Ancestor]:
    """
    Return a sample's family tree, the sample first, every ancestor after what it was shown for.

    Raises RunError where the run has no sample of that id, naming the closest ones.
    """
    known = everything(run)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else " Ids look like seed-7 or r1-00042."
        raise RunError(f"{run}: no sample {name!r} here.{hint}")
    return list(walk(known, name))


def everything(run: Path) -> dict[str, dict[str, Any]]:
    """Return every sample and candidate of a run by id, each with its `origin`."""
    if not stands(run / "manifest.json"):
        raise RunError(f"{run}: no run here (no manifest.json).")
    known: dict[str, dict[str, Any]] = {}
    for part, origin in (("seeds", "seed"), ("heldout", "held out"), ("test", "test")):
        known |= {record["id"]: record | {"origin": origin} for record in records_in(run / f"{part}.jsonl")}
    for folder in sorted(run.glob("round-*")):
        number = folder.name.removeprefix("round-")
        for record in snapshot(folder).records("kept.jsonl"):
            known[record["id"]] = record | {"origin": f"round {number}, kept"}
        for record in snapshot(folder).records("dropped.jsonl"):
            known[record["id"]] = record | {"origin": f"round {number}, dropped ({record['rule']}): {record['reason']}"}
    return known


def walk(known: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[Ancestor]:
    """Yield a sample and its ancestors, depth first."""
    seen: set[str] = set()
    waiting = [(name, 0, "")]
    while waiting:
        name, depth, role = waiting.pop()
        record = known[name]
        parents = roles(record)
        repeated = name in seen and bool(parents)
        yield Ancestor(depth, role, name, record["question"] or "", record["answer"] or "", record["origin"], repeated)
        if not repeated:
            seen.add(name)
            waiting += [(parent, depth + 1, why) for parent, why in reversed(parents.items()) if parent in known]


def roles(record: Mapping[str, Any]) -> dict[str, str]:
    """Return a candidate's parents, with what each was shown for."""
    asked, answered = set(record.get("question_parents", ())), set(record.get("answer_parents", ()))
    found = {}
    for parent in record.get("parents", ()):
        shown_for = [word for word, group in (("question", asked), ("answer", answered)) if parent in group]
        found[parent] = " and ".join(shown_for)
    return found
