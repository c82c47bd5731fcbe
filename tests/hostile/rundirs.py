"""Run directories that somebody else has had in hands: what was done to one, and which file is to be named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATUS, REPORT, LINEAGE, REPLAY, CHAT = "status", "report", "lineage", "replay", "chat"
SUMMED = (STATUS, REPORT)


@dataclass(frozen=True)
class Damage:
    """Something done to a run, and the verbs that refuse it with a message like this."""

    name: str
    do: Callable[[Path], object]
    verbs: tuple[str, ...]
    refused: str


def put(file: str, content: bytes | str) -> Callable[[Path], object]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda run: (run / file).write_bytes(data)


def setting(file: str, *path: str, value: Any) -> Callable[[Path], object]:
    """Set one value in an object, or in the first record of a JSONL file."""

    def do(run: Path) -> None:
        lines = (run / file).read_text(encoding="utf-8").split("\n")
        whole = file.endswith(".json")
        record = json.loads("\n".join(lines) if whole else lines[0])
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        if value is GONE:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        text = json.dumps(record)
        (run / file).write_text(text if whole else "\n".join([text, *lines[1:]]), encoding="utf-8")

    return do


GONE = object()


def instead(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Remove a file and put something else in its place."""

    def do(run: Path) -> None:
        (run / file).unlink()
        make(run / file)

    return do


def grown(file: str, content: bytes) -> Callable[[Path], object]:
    """Add to a file of a round, and to what its journal says of it."""

    def do(run: Path) -> None:
        path = run / file
        path.write_bytes(path.read_bytes() + content)
        step = {"step": "more", "lengths": {path.name: path.stat().st_size}}
        with (path.parent / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps(step) + "\n")

    return do


def swapped(file: str, old: bytes, new: bytes) -> Callable[[Path], object]:
    """Put other bytes in the place of as many."""

    def do(run: Path) -> None:
        content = (run / file).read_bytes()
        assert old in content
        (run / file).write_bytes(content.replace(old, new))

    return do


ALL = (*SUMMED, REPLAY, CHAT)
MANIFEST, ROUND, SCORES = "manifest.json", "round-1/round.json", "base/heldout.jsonl"
DAMAGES = (
    Damage("no manifest", lambda run: (run / MANIFEST).unlink(), ALL, "manifest.json"),
    Damage("an empty manifest", put(MANIFEST, ""), ALL, "manifest.json: not valid JSON"),
    Damage("a manifest that is a list", put(MANIFEST, "[]"), ALL, "manifest.json: this is no object"),
    Damage("a manifest that is a number", put(MANIFEST, "7"), ALL, "manifest.json: this is no object"),
    Damage("a manifest of brackets", put(MANIFEST, "[" * 100_000), ALL, "manifest.json: not valid JSON"),
    Damage("a manifest of digits", put(MANIFEST, "9" * 5000), ALL, "manifest.json: not valid JSON"),
    Damage("a manifest in Latin-1", put(MANIFEST, b'{"name": "\xe9"}'), ALL, "manifest.json: not valid JSON"),
    Damage("a manifest with a NUL", put(MANIFEST, b"{\0}"), ALL, "manifest.json: not valid JSON"),
    Damage("a manifest that is a folder", instead(MANIFEST, Path.mkdir), ALL, "a folder and not a plain file"),
    Damage("a manifest that is a pipe", instead(MANIFEST, os.mkfifo), ALL, "a pipe and not a plain file"),
    Damage("a manifest of zeros", instead(MANIFEST, lambda p: p.symlink_to("/dev/zero")), ALL, "a device and not"),
    Damage("a manifest that links to itself", instead(MANIFEST, lambda p: p.symlink_to(p)), ALL, "manifest.json"),
    Damage("no settings", setting(MANIFEST, "settings", value=GONE), ALL, "'settings' is missing"),
    Damage("settings that are text", setting(MANIFEST, "settings", value="x"), ALL, "'settings' is no object"),
    Damage("settings too deep", setting(MANIFEST, "settings", "a", value={"b": {"c": {}}}), ALL, "'settings' has 'a'"),
    Damage("no gate", setting(MANIFEST, "settings", "gate", value=GONE), ALL, "'settings.gate' is missing"),
    Damage("a confidence of 2", setting(MANIFEST, "settings", "gate", "confidence", value=2), ALL, "between 0 and 1"),
    Damage("rounds that are text", setting(MANIFEST, "settings", "rounds", value="2"), ALL, "'settings.rounds' is no c"),
    Damage("a round less than none", setting(MANIFEST, "settings", "rounds", value=-1), ALL, "'settings.rounds' is no"),
    Damage("an unknown setting", setting(MANIFEST, "settings", "x", value=1), (REPLAY, CHAT), "no such setting"),
    Damage("a rule out of range", setting(MANIFEST, "settings", "filter", "rouge", value=7), (REPLAY, CHAT), "expected a num"),
    Damage("a model that is a list", setting(MANIFEST, "model", value=[]), ALL, "'model' is no object"),
    Damage("a model without a name", setting(MANIFEST, "model", "name", value=GONE), ALL, "'model.name' is missing"),
    Damage("half a character as a name", setting(MANIFEST, "name", value="\ud800"), ALL, "not valid JSON"),
    Damage("inputs that are a list", setting(MANIFEST, "inputs", value=[1]), ALL, "'inputs' is no object"),
    Damage("infinity", put(MANIFEST, '{"name": 1e999}'), ALL, "1e999 is no finite number"),
    Damage("not a number", put(ROUND, '{"round": NaN}'), SUMMED, "round.json: not valid JSON (NaN"),
    Damage("a round that is null", put(ROUND, "null"), SUMMED, "round.json: this is no object"),
    Damage("a round that counts in text", setting(ROUND, "drafted", value="9"), SUMMED, "'drafted' is no count"),
    Damage("a round of half a candidate", setting(ROUND, "accepted", value=0.5), SUMMED, "'accepted' is no count"),
    Damage("a round neither kept nor not", setting(ROUND, "kept", value="yes"), SUMMED, "'kept' is neither true nor"),
    Damage("a round without reasons", setting(ROUND, "why", value=7), SUMMED, "'why' is no text"),
    Damage("a round without variety", setting(ROUND, "diversity", value=None), SUMMED, "'diversity' is no object"),
    Damage("variety in words", setting(ROUND, "diversity", "spread", value="wide"), SUMMED, "'diversity.spread' is no"),
    Damage("a score that is text", setting(SCORES, "nll", value="1"), SUMMED, "base/heldout.jsonl:1: a damaged line"),
    Damage("a score that is null", setting(SCORES, "nll", value=None), SUMMED, "'nll' is no number"),
    Damage("a score beyond all", setting(SCORES, "nll", value=1e300), SUMMED, "'nll' is no number"),
    Damage("a score that is true", setting(SCORES, "nll", value=True), SUMMED, "'nll' is no number"),
    Damage("no scores", put(SCORES, ""), SUMMED, "base/heldout.jsonl: no scores here"),
    Damage("fewer scores", put(SCORES, '{"id": "x", "nll": 1}\n'), SUMMED, "scores of 1 samples, and 6 in another arm"),
    Damage("a line cut off", put(SCORES, '{"id": "x", "nl'), SUMMED, "base/heldout.jsonl:1: a damaged line"),
    Damage("scores that are a pipe", instead(SCORES, os.mkfifo), SUMMED, "a pipe and not a plain file"),
    Damage("seeds that are numbers", put("seeds.jsonl", "1\n2\n"), (LINEAGE, REPLAY), "seeds.jsonl:1: a damaged line"),
    Damage("a seed without an id", setting("seeds.jsonl", "id", value=GONE), (LINEAGE, REPLAY), "'id' is missing"),
    Damage("a seed with a list as id", setting("seeds.jsonl", "id", value=["x"]), (LINEAGE, REPLAY), "'id' is no text"),
    Damage("parents that are text", setting("seeds.jsonl", "parents", value="x"), (LINEAGE, REPLAY), "is no list"),
    Damage("a parent that is null", setting("seeds.jsonl", "parents", value=[None]), (LINEAGE,), "has one that is no t"),
    Damage("a question that is null", setting("heldout.jsonl", "question", value=None), (LINEAGE, REPLAY), "is no text"),
    Damage("vectors cut off", put("samples.f16", b"\0\0\0"), (REPLAY,), "do not make 30 vectors"),
    Damage("vectors of no numbers", put("samples.f16", b"\0\x7c" * 30), (REPLAY,), "numbers that are none"),
    Damage("vectors of another size", put("samples.f16", b"\0\0" * 60), (REPLAY,), "and the seeds' have 2"),
    Damage("no prompts", put("round-1/prompts.jsonl", ""), (REPLAY,), "0 bytes here"),
    Damage("a journal that names another folder",
           put("round-1/journal.jsonl", '{"step": "x", "lengths": {"../../victim.txt": 0}}\n'),
           (LINEAGE, REPLAY), "has '../../victim.txt', which no file of this folder"),
    Damage("a journal of negative lengths", put("round-1/journal.jsonl", '{"step": "x", "lengths": {"kept.jsonl": -9}}\n'),
           (LINEAGE, REPLAY), "has 'kept.jsonl', which is no count"),
    Damage("a journal of lists", put("round-1/journal.jsonl", "[]\n"), (LINEAGE, REPLAY), "journal.jsonl:1: a damaged"),
    Damage("a candidate kept without an id", grown("round-1/kept.jsonl", b"{}\n"), (LINEAGE, REPLAY), "'id' is missing"),
    Damage("a candidate dropped for no rule", grown("round-1/dropped.jsonl", b'{"id":"x","question":null,"answer":null}\n'),
           (LINEAGE, REPLAY), "'rule' is missing"),
    Damage("a completion that nobody asked for", swapped("round-1/completions.jsonl", b'"r1-00001"', b'"x1-00001"'),
           (REPLAY,), "nothing here of 'x1-00001 question', which another file names"),
    Damage("demonstrations that are not there", swapped("round-1/prompts.jsonl", b'"seed-', b'"deed-'),
           (REPLAY,), "which another file names"),
    Damage("a batch that nobody asked for",
           grown("round-1/completions.jsonl", b'{"id":"x","batch":9,"stage":"question","text":"Why?","finished":true}\n'),
           (REPLAY,), "not of the same batches as prompts.jsonl"),
    Damage("a kept candidate that is no text", grown("round-1/kept.jsonl", b"\xff\n"), (LINEAGE, REPLAY), "a damaged line"),
)  # fmt: skip


def deep_family(run: Path) -> None:
    """Two thousand generations, and a sample that is its own ancestor."""
    chain = [
        {"id": f"seed-{n}", "question": "q", "answer": "a", "parents": [f"seed-{n + 1}"]} for n in range(1000, 3_000)
    ]
    chain[-1]["parents"] = ["seed-1000"]
    with (run / "seeds.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in chain))
