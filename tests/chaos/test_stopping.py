"""Asked to stop, a run ends within seconds, says how to go on, and goes on to the same end."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import FAST, STAGES, Run, seeds_in, signal_in

from isara.verify import verify
from same_run import contents, differences

WORD = "isara: stopped. What is done is kept; start the same command again to go on."
PATIENCE = 60
"""Seconds after which a process that was asked to stop counts as one that does not."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("stopping")
    return Run(home, seeds_in(home, 30), FAST, "scripted", 0.05)


@pytest.fixture(scope="module")
def reference(run):
    return run.finish(run.home / "reference")


def test_a_signal_in_any_stage_ends_the_run_with_a_word_and_it_goes_on(run, reference, tmp_path):
    rng = random.Random(5)
    for stage, number in zip(STAGES, itertools.cycle((signal.SIGINT, signal.SIGTERM))):
        code, _ = signal_in(run, tmp_path, stage, rng.randrange(2), rng.uniform(0, 0.05), number)
        if code is None:
            # A stage that was through before.
            continue
        err = (tmp_path / "stderr.txt").read_text()
        assert code == 130, (stage, err)
        assert err.splitlines()[-1] == WORD, stage
        assert "Traceback" not in err, stage
        if (tmp_path / "run" / "manifest.json").exists():
            assert verify(tmp_path / "run").faults == (), stage
        assert (tmp_path / "run" / ".lock").read_text() == ""
    assert differences(reference, run.finish(tmp_path)) == []


STUCK = """
import os
from pathlib import Path
from isara.testing import ScriptedModel

def sign(name):
    Path(name).touch()

def native():
    import hashlib
    sign("busy")
    # Minutes inside one call that lets other threads run and does not look for signals, as a large matrix product.
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)

def slow_to_unwind():
    import time
    try:
        sign("busy")
        time.sleep(600)
    finally:
        sign("unwinding")
        time.sleep(600)

def swallowed():
    import time
    class Loud:
        def __del__(self):
            sign("busy")
            time.sleep(1)
    # What a handler raises inside a destructor is lost; the work goes on.
    Loud()
    time.sleep(600)

def at_the_end():
    import atexit
    import time
    # As native libraries may, whose threads are still at work while Python takes itself down.
    atexit.register(os.abort)
    sign("busy")
    time.sleep(600)

ScriptedModel.score = lambda self, pairs: globals()[os.environ["STUCK"]]()

from isara.cli import main
main()
"""


def stuck(run, folder, way):
    """Start a run that gets stuck at its first score, in that way, and wait until it is."""
    words, env = [sys.executable, "-c", STUCK, *run.words], run.env | {"STUCK": way}
    process = subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for(folder / "busy", process)
    return process


def wait_for(sign: Path, process):
    while not sign.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("way", "number"), [("native", signal.SIGINT), ("swallowed", signal.SIGTERM), ("at_the_end", signal.SIGINT)]
)
def test_a_process_that_python_cannot_stop_ends_all_the_same(way, number, run, tmp_path):
    process = stuck(run, tmp_path, way)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1] == WORD
    assert verify(tmp_path / "run").faults == ()


def test_asked_a_second_time_it_does_not_even_unwind(run, reference, tmp_path):
    process = stuck(run, tmp_path, "slow_to_unwind")
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "unwinding", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err.splitlines()[-1] == WORD
    assert "Traceback" not in err
    told = run.finish(tmp_path)
    assert differences(reference, told) == []
    assert "did not end by itself: taken over." in (tmp_path / "stderr.txt").read_text()


def test_a_run_that_nobody_stops_leaves_no_watch_behind(isara, small, tmp_path):
    import threading

    before = threading.active_count(), signal.set_wakeup_fd(-1)
    assert isara("run", small.seeds, *small.flags, "--out", tmp_path / "run").code == 0
    assert (threading.active_count(), signal.set_wakeup_fd(-1)) == before
    assert contents(tmp_path / "run")
