"""What two runs must have in common to be called the same, whatever interrupted them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from isara.verify import verify

_TIMES = (
    (r"<dt>Time</dt><dd><b>[^<]*</b>", 1),
    (r'<tr><th scope="row">Created</th><td>[^<]*</td></tr>', 1),
    # not there where no process lived to see the end of a stage that it began
    (r'<h3>Time by stage</h3><table class="plot timings">.*?</table>', 0),
)
_TIMED = ("events.jsonl", "manifest.json", "summary.json", "report.html")


def contents(run: Path) -> dict[str, Any]:
    """Every file of a complete run but the event log and the lock, without what a clock said; the seal is checked."""
    files: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and name not in ("events.jsonl", ".lock"):
            files[name] = path.read_bytes()
    for name, key in (("manifest.json", "created"), ("summary.json", "seconds")):
        files[name] = {field: value for field, value in json.loads(files[name]).items() if field != key}
    page = files["report.html"].decode()
    for pattern, least in _TIMES:
        page, found = re.subn(pattern, "", page, flags=re.DOTALL)
        assert least <= found <= 1, pattern
    files["report.html"] = page
    checked = verify(run)
    assert checked.complete, run
    assert checked.faults == (), run
    sealed = json.loads(files.pop("seal.json"))
    files["seal.json"] = {name: facts for name, facts in sealed["files"].items() if name not in _TIMED}
    return files


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of the files that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
