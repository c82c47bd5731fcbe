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
    known = family_of(run, name)
    if name not in known:
        close = difflib.get_close_matches(name, (record["id"] for record in everything(run)), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else " Ids look like seed-7 or r1-00042."
        raise RunError(f"{run}: no sample {name!r} here.{hint}")
    return list(walk(known, name))


def family_of(run: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return a sample and its ancestors by id, as far as the run has them, and hold nothing else of it in memory."""
    known: dict[str, dict[str, Any]] = {}
    wanted, before = {name}, -1
    # One pass finds all but the seeds, since what a sample was shown is older; the next one begins with the seeds.
    while len(known) > before:
        before = len(known)
        for record in everything(run):
            if record["id"] in wanted:
                known.setdefault(record["id"], record)
                wanted.update(record.get("parents", ()))
                if wanted <= known.keys():
                    return known
    return known


def everything(run: Path) -> Iterator[dict[str, Any]]:
    """Yield every sample and candidate of a run, each with its `origin`: those it was given, then newest first."""
    if not stands(run / "manifest.json"):
        raise RunError(f"{run}: no run here (no manifest.json).")
    for part, origin in (("test", "test"), ("heldout", "held out"), ("seeds", "seed")):
        for record in records_in(run / f"{part}.jsonl"):
            yield record | {"origin": origin}
    for folder in sorted(run.glob("round-*"), key=lambda path: (len(path.name), path.name), reverse=True):
        written, number = snapshot(folder), folder.name.removeprefix("round-")
        for record in written.each("dropped.jsonl"):
            yield record | {"origin": f"round {number}, dropped ({record['rule']}): {record['reason']}"}
        for record in written.each("kept.jsonl"):
            yield record | {"origin": f"round {number}, kept"}


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
