"""
Kills `isara run` at random moments of every stage, starts it again, and compares with a run that nobody killed.
Then asks it to stop, once in every stage, and takes the time.

    python tests/chaos/harness.py --fast 100 --real 10 --out chaos.json

The fast form has the scripted stand-ins, the real one SmolLM2-135M on the CPU. Half of the fast kills are of the plain
command at moments of a uniform distribution over its time; all others are drawn by stage. `--seed` draws the moments.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from isara.readers import read_seeds  # noqa: E402
from isara.verify import verify  # noqa: E402
from same_run import contents, differences  # noqa: E402

STAGES = ("loading", "prompting", "writing", "filtering", "scoring", "training", "gating", "reporting")
FAST = (
    "rounds=2", "gate.patience=2", "target.accepted=10", "target.batch=8", "split.least=6", "train.batch=16",
    "train.epochs=3", "train.checks=2", "train.start='previous'",
)  # fmt: skip
REAL = (
    "rounds=1", "target.accepted=6", "target.batch=8", "split.least=6", "split.heldout=0.1", "questions.max_tokens=24",
    "answers.max_tokens=48", "answers.demonstrations=2", "train.epochs=2.0", "train.checks=2", "train.checkpoint=2",
)  # fmt: skip


@dataclass
class Figures:
    """What came of a number of kills."""

    kills: int = 0
    by_stage: Counter[str] = field(default_factory=Counter)
    """Where the kills were: a stage, or `anywhere` for the plain command at a random time."""
    compared: int = 0
    """Runs that were started again until they were complete, and compared."""
    differing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """What `verify` found wrong right after a kill."""

    def to_json(self) -> dict[str, object]:
        return vars(self) | {"by_stage": {stage: self.by_stage[stage] for stage in (*STAGES, "anywhere")}}


class Run:
    """A command on a folder of its own, as often as it takes."""

    def __init__(self, home: Path, seeds: Path, sets: tuple[str, ...], model: str, linger: float) -> None:
        self.home, self.linger = home, linger
        words = ["run", str(seeds), "--model", model, "--out", "run"]
        self.words = [*words, *(word for setting in sets for word in ("--set", setting))]
        self.env = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"}

    def start(self, folder: Path, *, announced: bool) -> tuple[subprocess.Popen[str], int]:
        """Start the command; with `announced` there is a pipe on which it tells its stages, else the pipe is empty."""
        folder.mkdir(exist_ok=True)
        ours, theirs = os.pipe()
        program = [str(HERE / "announced.py")] if announced else ["-m", "isara"]
        with (folder / "stderr.txt").open("w") as err:
            process = subprocess.Popen(
                [sys.executable, *program, *self.words],
                cwd=folder,
                env=self.env | {"CHAOS_TELL": str(theirs), "CHAOS_LINGER": str(self.linger)},
                stdout=subprocess.DEVNULL,
                stderr=err,
                text=True,
                pass_fds=[theirs],
            )
        os.close(theirs)
        return process, ours

    def finish(self, folder: Path) -> dict[str, object]:
        """Let the plain command run to its end, and return what it left."""
        process, ours = self.start(folder, announced=False)
        os.close(ours)
        code = process.wait()
        assert code == 0, (folder / "stderr.txt").read_text()
        return contents(folder / "run")

    def visits(self, folder: Path) -> Counter[str]:
        """How often each stage is told in a whole run."""
        process, ours = self.start(folder, announced=True)
        with os.fdopen(ours) as told:
            found = Counter(line.strip() for line in told)
        assert process.wait() == 0, (folder / "stderr.txt").read_text()
        return found


def signal_in(run: Run, folder: Path, stage: str, visit: int, wait: float, number: int) -> tuple[int | None, float]:
    """
    Send a signal so many seconds after a stage was told for the `visit`th time.

    Returns the exit code, None where it never came to that, and the seconds from the signal to the end.
    """
    process, ours = run.start(folder, announced=True)
    seen = 0
    with os.fdopen(ours) as told:
        for line in told:
            seen += line.strip() == stage
            if seen > visit:
                break
        else:
            assert process.wait() == 0, (folder / "stderr.txt").read_text()
            return None, 0.0
        time.sleep(wait)
        asked = time.monotonic()
        process.send_signal(number)
        return process.wait(), time.monotonic() - asked


def kill_at(run: Run, folder: Path, wait: float) -> bool:
    """Kill the plain command so many seconds after it has taken the run directory; False where it had ended."""
    process, ours = run.start(folder, announced=False)
    os.close(ours)
    lock = folder / "run" / ".lock"
    while process.poll() is None and not (lock.exists() and f"process {process.pid} " in lock.read_text()):
        time.sleep(0.002)
    time.sleep(wait)
    process.kill()
    return process.wait() == -signal.SIGKILL


def shake(run: Run, kills: int, rng: random.Random, *, anywhere: bool, most: int, pause: float) -> Figures:
    """Kill runs so many times in all, each up to `most` times before it may end, and compare every end."""
    began = time.monotonic()
    visits = run.visits(run.home / "reference")
    seconds = time.monotonic() - began
    assert set(visits) == set(STAGES), visits
    # It is complete; the plain command puts its own name into the manifest and computes nothing.
    reference = run.finish(run.home / "reference")
    figures = Figures()
    first = rng.randrange(len(STAGES))
    while figures.kills < kills:
        folder = run.home / f"run-{figures.compared + 1}"
        for _ in range(min(rng.randint(1, most), kills - figures.kills)):
            if anywhere and figures.kills % 2:
                stage, landed = "anywhere", kill_at(run, folder, rng.uniform(0, seconds / 6))
            else:
                stage = STAGES[(first + figures.kills // (2 if anywhere else 1)) % len(STAGES)]
                visit = rng.randrange(visits[stage])
                code, _ = signal_in(run, folder, stage, visit, rng.uniform(0, pause), signal.SIGKILL)
                landed = code == -signal.SIGKILL
            if landed:
                figures.kills += 1
                figures.by_stage[stage] += 1
                if (folder / "run" / "manifest.json").exists():
                    figures.damaged += [f"{folder.name}: {fault}" for fault in verify(folder / "run").faults]
            if (folder / "run" / "seal.json").exists() and verify(folder / "run").complete:
                break
        found = differences(reference, run.finish(folder))
        figures.compared += 1
        figures.differing += [f"{folder.name}: {name}" for name in found]
    return figures


def stop(run: Run, rng: random.Random, pause: float) -> list[dict[str, object]]:
    """Ask a run to stop once in every stage, by SIGINT and SIGTERM in turn; returns how each time ended, and when."""
    found: list[dict[str, object]] = []
    for i, stage in enumerate(STAGES):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        folder = run.home / "stopped"
        code, seconds = signal_in(run, folder, stage, 0, rng.uniform(0, pause), number)
        # While Python shuts down after the end of a run, a signal does what it does to any program.
        over = code == -number and verify(folder / "run").complete
        if code is not None and not over:
            found.append({"stage": stage, "signal": number.name, "code": code, "seconds": round(seconds, 2)})
    return found


def seeds_in(folder: Path, count: int) -> Path:
    """Write some seeds to a file."""
    path = folder / "seeds.jsonl"
    rows = [{"question": s.question, "answer": s.answer} for s in read_seeds("misconceptions")[:count]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fast_run(home: Path) -> Run:
    """The scripted run."""
    return Run(home, seeds_in(home, 30), FAST, "scripted", 0.03)


def real_run(home: Path) -> Run:
    """The run of the 135M model."""
    return Run(home, seeds_in(home, 24), REAL, "smollm2-135m", 0.0)


def fast(home: Path, kills: int, rng: random.Random) -> Figures:
    """Shake the scripted run."""
    return shake(fast_run(home), kills, rng, anywhere=True, most=3, pause=0.04)


def real(home: Path, kills: int, rng: random.Random) -> Figures:
    """Shake the run of the 135M model."""
    return shake(real_run(home), kills, rng, anywhere=False, most=5, pause=1.0)


def main() -> int:
    """Do what was asked, write the figures, and return 1 where a run differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", type=int, default=100)
    parser.add_argument("--real", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stops", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path("chaos.json"))
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**31)
    found: dict[str, object] = {"seed": seed}
    bad = 0
    for name, made, form, kills in (("fast", fast_run, fast, given.fast), ("real", real_run, real, given.real)):
        if not kills:
            continue
        rng = random.Random(f"{seed} {name}")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="isara-chaos-") as home:
            figures = form(Path(home), kills, rng)
        with tempfile.TemporaryDirectory(prefix="isara-chaos-") as home:
            stops = stop(made(Path(home)), rng, 1.0 if name == "real" else 0.04) if given.stops else []
        late = [one for one in stops if one["code"] != 130 or float(str(one["seconds"])) > 5]
        bad += len(figures.differing) + len(figures.damaged) + len(late)
        found[name] = figures.to_json() | {"stops": stops, "seconds": round(time.monotonic() - began)}
        slowest = max((float(str(one["seconds"])) for one in stops), default=0.0)
        sys.stdout.write(
            f"{name}: {figures.kills} kills, {figures.compared} runs compared, {len(figures.differing)} files differ, "
            f"{len(figures.damaged)} faults right after a kill; asked to stop {len(stops)} times, the slowest took "
            f"{slowest:.1f} s (seed {seed}).\n"
        )
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
