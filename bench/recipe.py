"""
The whole recipe: a run of isara against the same work done with transformers' `generate` and TRL.

    python bench/recipe.py [--accepted 256] [--share 0.1] [--keep FOLDER]

64 seeds, 16 held-out samples, 2 rounds, all baselines and held-out scores: `isara run` from the shell to the report,
then `bench/usual.py` on what that run did. `share` is the part of its work that the peer is timed on and scaled from;
the row says so. Peak memory is that of the two processes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from table import Row, row, unmeasured

from isara.readers import read_seeds
from isara.rundir import Events

SEEDS, PEER = 64, "transformers generate and TRL"


def timed(command: Sequence[str]) -> tuple[float, float, str]:
    """Run a command; returns its seconds, its peak memory in MB, and what it wrote."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        out.seek(0)
        errors.seek(0)
        if status:
            raise RuntimeError(f"{' '.join(command)}: {errors.read()[-2000:]}")
        return seconds, used.ru_maxrss / 1024, out.read()


def run(home: Path, accepted: int, model: str) -> tuple[float, float]:
    """Run isara in a folder; returns the seconds and the peak memory in MB."""
    samples = [{"question": s.question, "answer": s.answer} for s in read_seeds("supportdesk")]
    for name, part in (("seeds", samples[:SEEDS]), ("heldout", samples[SEEDS:])):
        (home / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part), encoding="utf-8")
    sets = ("gate.patience=2", f"target.accepted={accepted}")
    command = [
        sys.executable,
        "-m",
        "isara",
        "run",
        str(home / "seeds.jsonl"),
        "--heldout",
        str(home / "heldout.jsonl"),
    ]
    command += ["--model", model, "--rounds", "2", "--out", str(home / "run"), "--quiet"]
    seconds, memory, _ = timed([*command, *(word for one in sets for word in ("--set", one))])
    return seconds, memory


def rows(accepted: int = 256, share: float = 0.1, model: str = "smollm2-135m", keep: Path | None = None) -> list[Row]:
    """Measure, and return the rows of time and of memory."""
    if importlib.util.find_spec("trl") is None:
        why = "trl is not installed (extra `bench`)"
        return [unmeasured("recipe", PEER, "s", why), unmeasured("peak_memory", PEER, "MB", why)]
    with tempfile.TemporaryDirectory() as scratch:
        home = keep or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        seconds, memory = run(home, accepted, model)
        peer = Path(__file__).with_name("usual.py")
        _, theirs, said = timed([sys.executable, str(peer), str(home / "run"), "--share", str(share)])
        kinds = json.loads(said.splitlines()[-1])
        log = Events(home / "run" / "events.jsonl").read()
        stages = {event["name"]: event["seconds"] for event in log if event["kind"] == "stage"}
    how = "all of it" if share >= 1 else f"a share of {share:g} of each kind of work, scaled to all of it"
    detail = f"{SEEDS} seeds, 2 rounds x {accepted} accepted; the peer timed on {how}"
    return [
        row("recipe", seconds, sum(kinds.values()), PEER, "s", detail=detail, ours_by_stage=stages, peer_by_kind=kinds),
        row("peak_memory", memory, theirs, PEER, "MB", detail=detail),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accepted", type=int, default=256, help="samples that each round is to accept")
    parser.add_argument("--share", type=float, default=0.1, help="part of the work that the peer is timed on")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--keep", type=Path, help="where the run is left")
    given = parser.parse_args()
    for found in rows(given.accepted, given.share, given.model, given.keep):
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
