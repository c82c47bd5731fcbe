"""
A long run: memory, time for each sample, and how soon a large run directory answers.

    python bench/soak.py --samples 50000

Runs the real command with the scripted model and the hash embedder on made-up seeds, and watches the process from
outside. Then asks the finished directory for its status and its report, starts the same command on it again, and on a
copy whose last round is cut off in the middle, as a kill would leave it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rouge_filter import questions

MAIN = [sys.executable, "-m", "isara"]


def seeds(count: int, path: Path) -> Path:
    """Write seeds of made-up words: enough different ones for the scripted model to make tens of thousands of."""
    rng = random.Random(1)
    asked = questions(count, seed=3, vocabulary=8000, repeats=0.0)
    told = questions(count, seed=4, vocabulary=8000, repeats=0.0)
    lines = [{"question": f"{q}?", "answer": f"{a} {rng.randrange(1000)}."} for q, a in zip(asked, told, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def command(folder: Path, samples: int, rounds: int) -> list[str]:
    """Return the command of the soak."""
    sets = {
        "rounds": rounds,
        "gate.patience": rounds,
        "target.accepted": samples // rounds,
        "target.batch": 256,
        "train.epochs": 1,
        "train.checks": 2,
    }
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    given = str(folder.parent / "seeds.jsonl")
    return [*MAIN, "run", given, "--model", "scripted", "--out", str(folder), "--quiet", *words]


def watched(words: list[str], folder: Path, every: float = 0.5) -> tuple[float, list[tuple[float, int, int]]]:
    """Run a command; return its seconds, and (processor seconds, candidates decided, resident bytes) on the way."""
    seen = []
    begun = time.perf_counter()
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            time.sleep(every)
            seen.append((processor(process.pid), decided(folder), resident(process.pid)))
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - begun, [each for each in seen if each[2]]


def processor(pid: int) -> float:
    """Return the seconds of processor time that a process has had; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def decided(folder: Path) -> int:
    """Return how many candidates have been kept or dropped, from the steps committed."""
    steps = 0
    for journal in folder.glob("round-*/journal.jsonl"):
        steps += journal.read_bytes().count(b"/decided")
    return steps * 256


def timed(words: list[str]) -> tuple[float, float]:
    """Return the seconds a command takes, on the clock and of the processor; raises SystemExit where it fails."""
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run(words, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.returncode)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return round(time.perf_counter() - begun, 2), round(spent, 2)


def cut(finished: Path, folder: Path) -> Path:
    """Return a copy of a run whose last round stops in the middle of its drafting, as a kill would leave it."""
    shutil.copytree(finished, folder)
    last = max(folder.glob("round-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for name in ("done.json", "round.json", "training.json", "train.jsonl", "heldout.jsonl", "answers.jsonl"):
        (last / name).unlink()
    shutil.rmtree(last / "adapter")
    lines = (last / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (last / "journal.jsonl").write_bytes(b"".join(lines[: len(lines) * 3 // 4 // 5 * 5]))
    return folder


def until_it_works(words: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds, as `timed` does, until a command on a killed run commits its first new step; it ends then."""
    journals = sorted(folder.glob("round-*/journal.jsonl"))
    before = [journal.stat().st_size for journal in journals]
    begun = time.perf_counter()
    with subprocess.Popen(words) as process:
        while process.poll() is None and [journal.stat().st_size for journal in journals] == before:
            time.sleep(0.02)
        seconds, spent = time.perf_counter() - begun, processor(process.pid)
        process.terminate()
    return round(seconds, 2), spent


def soak(samples: int, rounds: int, seed_count: int, place: Path) -> dict[str, Any]:
    """Return what a long run took."""
    place.mkdir(parents=True, exist_ok=True)
    seeds(seed_count, place / "seeds.jsonl")
    folder = place / "run"
    words = command(folder, samples, rounds)
    seconds, seen = watched(words, folder)
    total = seen[-1][1]
    marks = [next(each for each in seen if each[1] >= total * share / 10) for share in range(1, 10)]
    paces = [(b[0] - a[0]) / max(1, b[1] - a[1]) * 1000 for a, b in itertools.pairwise(marks)]
    found = {
        "samples": samples,
        "candidates": total,
        "seconds": seconds,
        "processor_seconds": max(each[0] for each in seen),
        "processor_ms_per_candidate": [round(pace, 3) for pace in paces],
        "resident_mb": [round(mark[2] / 2**20) for mark in marks],
        "peak_mb": round(max(each[2] for each in seen) / 2**20),
        "disk_mb": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20),
        "status_s": timed([*MAIN, "status", str(folder)]),
        "report_s": timed([*MAIN, "report", str(folder)]),
        "report_mb": round((folder / "report.html").stat().st_size / 2**20, 1),
        "again_s": timed(words),
    }
    killed = cut(folder, place / "killed")
    found["killed_s"] = until_it_works([str(killed) if word == str(folder) else word for word in words], killed)
    return found


def main() -> None:
    """Print what was measured, one line for each figure."""
    options = argparse.ArgumentParser(description="A long run of the scripted model, watched from outside.")
    options.add_argument("--samples", type=int, default=50_000, help="samples to accept, all rounds together")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--keep", type=Path, help="a folder for the run directory, which is left there")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = soak(given.samples, given.rounds, given.seeds, given.keep or Path(scratch))
    for name, value in found.items():
        sys.stdout.write(f"{name:26} {round(value, 2) if isinstance(value, float) else value}\n")


if __name__ == "__main__":
    main()
