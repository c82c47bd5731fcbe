"""
Cold start: how long a shell waits for `--help`.

    python bench/startup.py

Each is a process of its own; the median of several, after one to warm the disk's cache.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from table import Row, row, take_turns, unmeasured

TRL = "import sys; sys.argv[1:] = ['--help']; from trl.cli import main; main()"
LIMIT = 0.3
"""Seconds that CONTRIBUTING.md allows."""


def process(*words: str) -> None:
    """Run Python, and wait for its end."""
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


def rows(turns: int = 7) -> list[Row]:
    """Measure, and return one row."""
    ways = {"isara": lambda: process("-m", "isara", "--help"), "python": lambda: process("-c", "pass")}
    if importlib.util.find_spec("trl") is not None:
        ways["trl"] = lambda: process("-c", TRL)
    took = take_turns(ways, turns)
    found = [row("help", took["isara"].seconds, took["python"].seconds, "python that does nothing", "s", limit=LIMIT)]
    if "trl" in took:
        return [*found, row("help_trl", took["isara"].seconds, took["trl"].seconds, "trl --help", "s", limit=LIMIT)]
    return [*found, unmeasured("help_trl", "trl --help", "s", "trl is not installed (extra `bench`)")]


if __name__ == "__main__":
    for found in rows():
        sys.stdout.write(f"{found}\n")
