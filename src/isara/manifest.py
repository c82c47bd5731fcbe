"""What a run was asked for, and what a changed request makes stale."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from isara.config import changes
from isara.digests import SEAL, drop_file, unseal
from isara.errors import RunError
from isara.rawfiles import is_folder, stands
from isara.rundir import read_json, write_json
from isara.settings import Settings

ARMS = ("base", "retrieved", "seeds-only")
"""The folders of the arms that are not rounds, in order."""

_FIRST_STALE = {
    "questions": "round-1",
    "target": "round-1",
    "filter": "round-1",
    "gate.min_gain": "round-1",
    "gate.standard_errors": "round-1",
    "gate.patience": "round-1",
    "gate.generator": "round-1",
    "gate.keep": "round-1",
    "gate.pool": "round-1",
    "answers.choice": "round-1",
    "answers.shared": "round-1",
    "answers.principles": "round-1",
    "gate.confidence": None,
    "rounds": None,
    # Lowered when memory runs out, and then the run has to go on.
    "model.batch_tokens": None,
    # Where a server stands and how patiently it is asked decides nothing; what it serves is among the model's facts.
    "server": None,
    "train.targets": "round-1",
    "train.teacher": "round-1",
    "train.top_tokens": "round-1",
    "train.seed_share": "round-1",
    "train.start": "round-1",
    "train.round_steps": "round-1",
    "train.average": "round-1",
    "train": "seeds-only",
}
"""The first arm that a setting has a part in; all later ones follow. What is not named here decides everything."""

_ROUND = re.compile(r"round-[1-9][0-9]{0,3}", re.ASCII)
_PACKAGES = ("torch", "transformers", "peft", "sentence-transformers", "safetensors", "numpy", "rapidfuzz", "pydantic")


def describe(
    name: str,
    settings: Settings,
    inputs: Mapping[str, Any],
    model: Mapping[str, Any],
    embedder: Mapping[str, Any],
    command: Sequence[str],
) -> dict[str, Any]:
    """Return the manifest of a run about to start."""
    return {
        "isara": metadata.version("isara"),
        "name": spelled(name),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [spelled(word) for word in command],
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions(),
        "model": dict(model),
        "embedder": dict(embedder),
        "inputs": {part: entry and {**entry, "path": spelled(entry["path"])} for part, entry in inputs.items()},
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
    }


def spelled(name: str) -> str:
    """Return a name of a file, which may be bytes that are no text, as text that can be written."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that decide what a run computes."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def stale(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """
    Compare two manifests.

    Returns sentences saying what changed, and the first arm that has to be computed again (None: nothing has to).
    """
    said: list[str] = []
    first: list[str] = []
    for what, key in (("the model", "model"), ("the embedder", "embedder")):
        before, after = without_place(old[key]), without_place(new[key])
        if before != after:
            said.append(f"{what} is another one ({differences(before, after)})")
            first.append("base")
    # A round drops what is too close to a test sample, so test samples have a part in every round.
    for part, words, place in (("seeds", "seed", "base"), ("heldout", "held-out", "base"), ("test", "test", "round-1")):
        if hash_in(old, part) != hash_in(new, part):
            said.append(f"the {words} samples are other ones")
            first.append(place)
    for change in changes(old["settings"], new["settings"]):
        scopes = (change.name, change.name.split(".")[0])
        arm = next((_FIRST_STALE[name] for name in scopes if name in _FIRST_STALE), "base")
        if change.name.startswith("model.") and "base" in first:
            continue
        if arm is not None:
            said.append(f"{change.name}: {change.old!r} → {change.new!r}")
            first.append(arm)
    order = (*ARMS, "round-1")
    return said, min(first, key=order.index) if first else None


def without_place(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a model, without the address it is served at: the same server may be started elsewhere."""
    return {name: value for name, value in facts.items() if name != "server"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what differs in the facts of a model, its files by the beginning of their hash."""
    name = f"{old.get('name')}" if old.get("name") == new.get("name") else f"{old.get('name')} → {new.get('name')}"
    others = [key for key in dict.fromkeys((*old, *new)) if key != "name" and old.get(key) != new.get(key)]
    told = {key: f"{str(old.get(key))[:12]} → {str(new.get(key))[:12]}" for key in others}
    return ", ".join([name, *(f"other files: sha256 {t}" if k == "sha256" else f"{k} {t}" for k, t in told.items())])


def hash_in(manifest: Mapping[str, Any], part: str) -> str | None:
    """Return the hash of the samples of one of a manifest's inputs; None where there was none."""
    entry = manifest["inputs"].get(part)
    return entry.get("content") if entry else None


def refuse_strangers(run: Path) -> None:
    """Raise RunError where a folder has something in it and is no run: nobody's files are to be mixed with ours."""
    if not is_folder(run) or stands(run / "manifest.json"):
        return
    if (run / SEAL).exists():
        raise RunError(
            f"{run}: a run whose manifest.json is gone, so that nobody can say what its files were made with. "
            "Put back a copy of it, or give another --out."
        )
    strangers = sorted(entry.name for entry in run.iterdir() if not entry.name.startswith("."))
    if strangers:
        raise RunError(f"{run}: not empty, and no run of isara (found {strangers[0]}). Give another --out.")


def settle(
    run: Path, wanted: dict[str, Any], *, force: bool, ready: Callable[[Sequence[str]], None] = lambda kept: None
) -> list[str]:
    """
    Make a run directory ready for a manifest: new, or going on, or partly computed again.

    Returns sentences for the reader. Raises RunError where something would have to be computed again and `force`
    does not allow it. `ready` is told which arms are kept, before anything changes; what it raises, this does.
    """
    path = run / "manifest.json"
    for left in run.glob(".*.stale"):
        shutil.rmtree(left)
    if not path.exists():
        refuse_strangers(run)
        write_json(path, wanted)
        return []
    old = read_json(path)
    said, first = stale(old, wanted)
    folders = later_arms(run, first)
    kept = [arm for arm in arms_in(run) if arm not in folders]
    if folders and not force:
        raise RunError(
            f"{run}: holds a run with other settings.\n"
            + "".join(f"  {line}\n" for line in said)
            + f"Computed again: {', '.join(folders)}. Kept: {', '.join(kept) or 'nothing'}.\n"
            "Add --force to do that in place, or give another --out."
        )
    ready(kept)
    unseal(run)
    for arm in reversed(folders):
        # Out of the way at once, the last first: a kill in between leaves whole arms and no gap before them.
        shutil.rmtree((run / arm).rename(run / f".{arm}.stale"))
    if hash_in(old, "test") != hash_in(wanted, "test"):
        for arm in arms_in(run):
            drop_file(run / arm, "test.jsonl")
    write_json(path, wanted | {"created": old["created"]})
    told = [f"Computing {', '.join(folders)} again: {'; '.join(said)}."] if folders else []
    return [*told, *newer(old, wanted, kept)]


def newer(old: Mapping[str, Any], new: Mapping[str, Any], kept: Sequence[str]) -> list[str]:
    """Return a sentence where isara, or a library that decides what a run computes, has another version by now."""
    before, now = ({"isara": m["isara"], **m.get("packages", {})} for m in (old, new))
    changed = [f"{name} {before[name]} → {now[name]}" for name in before if name in now and before[name] != now[name]]
    if not changed or not kept:
        return []
    return [
        f"Other versions than before: {', '.join(changed)}. {', '.join(kept)} stay as they are; what is computed now "
        "may differ from them in its last digits."
    ]


def arms_in(run: Path) -> list[str]:
    """Return the arms that a run directory has folders for, baselines first, rounds in order."""
    rounds = sorted(
        (entry.name for entry in run.glob("round-*") if _ROUND.fullmatch(entry.name) and entry.is_dir()),
        key=lambda name: int(name.split("-")[1]),
    )
    return [*(arm for arm in ARMS if (run / arm).is_dir()), *rounds]


def later_arms(run: Path, first: str | None) -> list[str]:
    """Return the arms in a run directory from the first stale one on."""
    if first is None:
        return []
    order = (*ARMS, "round-1")
    place = order.index(first)
    return [arm for arm in arms_in(run) if (order.index(arm) if arm in order else len(order)) >= place]
