"""The short form of the harness: some kills in every stage, and no file that differs. `make chaos` is the full one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from harness import STAGES, fast_run, shake

KILLS = int(os.environ.get("ISARA_KILLS", "8"))


def test_kills_in_every_stage_change_nothing(tmp_path):
    """Of the plain command at any moment, test_kill.py has some."""
    kills = max(KILLS, len(STAGES))
    figures = shake(fast_run(tmp_path), kills, random.Random(7), anywhere=False, most=3, pause=0.04)
    assert figures.differing == []
    assert figures.damaged == []
    assert figures.kills == kills
    assert all(figures.by_stage[stage] for stage in STAGES), figures.by_stage


def test_the_harness_finds_a_run_that_differs(tmp_path):
    """A tool that counts its kills in what it writes must not pass."""
    cheat = (
        "import isara.api, pathlib\n"
        "starts = pathlib.Path('starts'); starts.write_text(starts.read_text() + '.' if starts.exists() else '.')\n"
        "real = isara.api.run_loop\n"
        "def run_loop(run):\n"
        "    real(run)\n"
        "    path = run.folder / 'base' / 'answers.jsonl'\n"
        "    path.write_text(path.read_text() + ' ' * len(starts.read_text()))\n"
        "    from isara.seal import finish_arm\n"
        "    finish_arm(run.folder, 'base')\n"
        "isara.api.run_loop = run_loop\n"
    )
    (tmp_path / "sitecustomize.py").write_text(cheat)
    harness = Path(__file__).with_name("harness.py")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [
            sys.executable,
            harness,
            "--fast",
            "1",
            "--real",
            "0",
            "--no-stops",
            "--seed",
            "3",
            "--out",
            tmp_path / "out.json",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads((tmp_path / "out.json").read_text())["fast"]
    assert done.returncode == 1, done.stderr
    assert found["kills"] == 1
    assert any("base/answers.jsonl" in name for name in found["differing"])
