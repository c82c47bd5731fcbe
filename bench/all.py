"""
All measurements, as one table and one file.

    python bench/all.py [--out bench/results.json] [--only train score] [--quick]

Each module is measured in a process of its own, one after another, so that none finds the memory of another full. The
ratio says how many times better isara is. What cannot be measured here (a package that is not installed, a GPU that
is not there) has a row that says why. `--quick` is a smaller recipe and fewer questions in the filter. With
`--only`, the rows of the other modules stay in the file as they are, and nothing is measured where it names none; each
row says on what machine and when it was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from table import Row, unmeasured

HERE = Path(__file__).parent
MODULES: Mapping[str, Sequence[str]] = {
    "limits": (),
    "generate": ("generate",),
    "train": ("train",),
    "score": ("score",),
    "rouge_filter": ("rouge_filter_10k",),
    "retrieval": (),
    "startup": ("help",),
    "recipe": ("recipe", "peak_memory"),
}
"""What is measured, and the rows that a module must have."""
QUICK = {"recipe": {"accepted": 16, "share": 0.05}, "rouge_filter": {"sizes": [1000, 10000]}}
CALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
module = __import__(sys.argv[2])
found = module.rows(**json.loads(sys.argv[3]))
with open(sys.argv[4], "w", encoding="utf-8") as file:
    json.dump(found, file)
"""


def measured(name: str, options: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a module; rows that say why where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, "-c", CALL, str(HERE), name, json.dumps(options), str(out)]
        done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        rows: list[Row] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    if done.returncode:
        sys.stderr.write(done.stderr)
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return [unmeasured(wanted, "", "", last) for wanted in MODULES[name] or (name,)]
    return rows


def machine() -> dict[str, Any]:
    """Return what the numbers were made on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def now() -> dict[str, Any]:
    """Return when something is measured, and how busy the machine is just before."""
    return {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "load_before": round(os.getloadavg()[0], 1)}


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:,.4g}" if isinstance(value, float | int) else str(value)

    lines = ["| | ours | peer | ratio | unit | limit | peer is |", "| --- | --: | --: | --: | --- | --: | --- |"]
    for found in rows:
        if found["ours"] is None:
            lines.append(f"| {found['name']} | not measured: {found['not_measured']} | | | | | {found['peer_name']} |")
            continue
        cells = [cell(found[key]) for key in ("name", "ours", "peer", "ratio", "unit", "limit", "peer_name")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--only", nargs="*", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--quick", action="store_true", help="a smaller recipe and filter")
    given = parser.parse_args()
    here = machine()
    before = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else []
    rows: dict[str, list[Row]] = {name: [r for r in before if r.get("module") == name] for name in MODULES}
    for name in given.only:
        begun, when = time.monotonic(), now()
        options = QUICK.get(name, {}) if given.quick else {}
        more = {"module": name, "quick": given.quick, **when, "machine": here}
        rows[name] = [found | more for found in measured(name, options)]
        sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")
        # After each module, so that a measurement that is stopped keeps what it has.
        flat = [found for some in rows.values() for found in some]
        given.out.write_text(json.dumps(flat, indent=1) + "\n", encoding="utf-8")
    said = ", ".join(f"{key} {value}" for key, value in here.items())
    sys.stdout.write(f"{as_table([found for some in rows.values() for found in some])}\nThis machine: {said}.\n")


if __name__ == "__main__":
    main()
