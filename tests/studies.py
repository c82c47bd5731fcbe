"""Studies for tests: written into a folder, and made there once for a whole module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isara.compare import compare


def study_in(folder: Path, text: str) -> Path:
    """Write the text of a study into a folder, and return its file."""
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def made_in(folder: Path, text: str, **how: Any) -> dict[str, Any]:
    """Make a study into `out` beside its file, without waiting for the disk, and return what it shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        return compare(study_in(folder, text), folder / "out", **how)


def without_clock(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a study shows as its file has it, without what a clock said."""
    plain: dict[str, Any] = json.loads(json.dumps(found))
    del plain["spent"]
    for arm in plain["arms"]:
        for run in arm["runs"]:
            del run["seconds"]
    return plain


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a run, without those that a clock or the folder's name has a part in."""
    timed = {"events.jsonl", "manifest.json", "summary.json", "report.html", "report.md", ".lock", "seal.json"}
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in timed
    }
