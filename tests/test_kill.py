"""
A run that is killed, anywhere and as often as you like, ends as one that was not.

Twelve kills by default; ISARA_KILLS=1000 kills at every write, and the rest at random moments.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from same_run import contents

KILLS = int(os.environ.get("ISARA_KILLS", "12"))
STOPPED = "isara: stopped. What is done is kept; start the same command again to go on."

# Does runs in child processes, which kill themselves at the k-th moment at which something new is on the disk: a
# file that is written and not yet in place, one that is in place, a part of a step, the whole of it. `torn` kills in
# the middle of that write; `lasting` counts only what the next start will not do again.
DRIVER = """
import fcntl, json, os, shutil, signal, stat, sys, traceback
from pathlib import Path
import isara.api, isara.diversity, isara.report, isara.summary, isara.testing
from isara.cli.app import settings_from

def kill_in(run, kill_at, how):
    count, sizes = 0, {}
    replace, rename, unlink = os.replace, os.rename, os.unlink

    def reach():
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(handle):
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            return
        if how == "lasting":
            if any(os.path.samestat(found, path.stat()) for path in run.glob("round-*/journal.jsonl")):
                reach()
            return
        before = sizes.get(found.st_ino, 0)
        sizes[found.st_ino] = found.st_size
        if how == "torn" and count + 1 == kill_at and found.st_size > before:
            os.ftruncate(handle, before + (found.st_size - before) // 2)
        reach()

    def put(source, target, **options):
        known = Path(target).exists()
        same = known and Path(target).read_bytes() == Path(source).read_bytes()
        if known:
            sizes.pop(os.stat(target).st_ino, None)
        replace(source, target, **options)
        if not (same and how == "lasting"):
            reach()

    def move(source, target, **options):
        rename(source, target, **options)
        reach()

    def remove(path, **options):
        unlink(path, **options)
        reach()

    os.fsync, os.replace, os.rename, os.unlink = fsync, put, move, remove
    return lambda: count

def child(order, told):
    os.chdir(order["folder"])
    sys.argv = order["argv"]
    flags = order["argv"][3:]
    sets = [value for flag, value in zip(flags, flags[1:]) if flag == "--set"]
    points = kill_in(Path("run"), order["kill_at"], order["how"])
    settings = settings_from(None, sets, "scripted")
    isara.api.align(order["argv"][2], out="run", settings=settings, force=order["force"])
    os.write(told, str(points()).encode())

for line in sys.stdin:
    hear, told = os.pipe()
    process = os.fork()
    if not process:
        try:
            child(json.loads(line), told)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(told)
    with os.fdopen(hear) as answer:
        points = answer.read()
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.stdout.write(json.dumps({"code": code, "points": int(points or 0)}) + "\\n")
    sys.stdout.flush()
"""

SLOW = """
import isara.api
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

def slow(settings):
    model = ScriptedModel(delay=0.1)
    return isara.api.Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})

isara.api.choose_backend = slow
from isara.cli import main
main()
"""


class Driver:
    """Runs that can be killed to the write, without paying for an interpreter each time."""

    def __init__(self, folder, argv):
        self.argv = argv
        self.complaints = folder / "complaints.txt"
        with self.complaints.open("w") as complaints:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )

    def run(self, folder, *more, kill_at=0, how="whole", force=False):
        """Do a run in `folder`; return whether it was killed, and how many moments it had."""
        folder.mkdir(exist_ok=True)
        argv = [*self.argv, *more]
        order = {"folder": str(folder), "argv": argv, "kill_at": kill_at, "how": how, "force": force}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.complaints.read_text()
        told = json.loads(line)
        assert told["code"] in (0, -signal.SIGKILL), self.complaints.read_text()
        return told["code"] != 0, told["points"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def start(command, folder):
    folder.mkdir(exist_ok=True)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=env)


def wait_for(ready, process):
    while process.poll() is None and not ready():
        time.sleep(0.002)


def has_begun(process, folder):
    lock = folder / "run" / ".lock"
    return lock.exists() and f"process {process.pid} " in lock.read_text()


@pytest.fixture(scope="module")
def words(small):
    return ["run", str(small.seeds), *small.flags, "--out", "run"]


@pytest.fixture(scope="module")
def command(words):
    return [sys.executable, "-m", "isara", *words]


@pytest.fixture(scope="module")
def reference(command, tmp_path_factory):
    """What an uninterrupted run leaves, and the seconds it took from its beginning, the start of Python not counted."""
    folder = tmp_path_factory.mktemp("reference")
    process = start(command, folder)
    wait_for(lambda: has_begun(process, folder), process)
    begun = time.monotonic()
    _, err = process.communicate()
    assert process.returncode == 0, err
    return contents(folder / "run"), time.monotonic() - begun


@pytest.fixture(scope="module")
def driver(words, tmp_path_factory):
    import isara

    # as `python -m isara` would have it, so that the manifests are the same
    argv = [str(Path(isara.__file__).with_name("__main__.py")), *words]
    driver = Driver(tmp_path_factory.mktemp("driver"), argv)
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def moments(driver, reference, tmp_path_factory):
    """How many moments there are to be killed at; on the way, that two uninterrupted runs are the same."""
    folder = tmp_path_factory.mktemp("moments")
    killed, points = driver.run(folder)
    assert not killed
    assert contents(folder / "run") == reference[0]
    return points


def spread(cases, most):
    """Return at most so many cases, evenly spread."""
    return cases if most >= len(cases) else [cases[(2 * i + 1) * len(cases) // (2 * most)] for i in range(most)]


def test_both_rounds_of_the_run_under_test_are_kept(reference):
    files, _ = reference
    assert [json.loads(files[f"round-{n}/round.json"])["kept"] for n in (1, 2)] == [True, True]
    assert json.loads(files["round-2/round.json"])["accepted"] == 10


def test_a_kill_at_any_write_changes_nothing(driver, reference, moments, tmp_path):
    cases = [(kill_at, how) for kill_at in range(1, moments + 1) for how in ("whole", "torn")]
    for kill_at, how in spread(cases, max(4, KILLS // 2)):
        folder = tmp_path / f"{kill_at}-{how}"
        killed, _ = driver.run(folder, kill_at=kill_at, how=how)
        assert killed, (kill_at, how)
        killed, _ = driver.run(folder)
        assert not killed
        assert contents(folder / "run") == reference[0], (kill_at, how)
        shutil.rmtree(folder)


def test_a_kill_at_any_write_of_two_learning_rates_changes_nothing(driver, tmp_path):
    """Trials end in one arm: their weights move, their folder goes, whatever comes in between."""
    more = ("--set", "rounds=0", "--set", "train.learning_rate=4e-3", "--set", "train.other_rate=0.25")
    _, moments = driver.run(tmp_path / "whole", *more)
    expected = contents(tmp_path / "whole" / "run")
    training = json.loads(expected["seeds-only/training.json"])
    assert (training["learning_rate"], [one["learning_rate"] for one in training["tried"]]) == (0.001, [0.004])
    for kill_at in spread(range(1, moments + 1), max(20, KILLS)):
        folder = tmp_path / str(kill_at)
        killed, _ = driver.run(folder, *more, kill_at=kill_at)
        assert killed, kill_at
        driver.run(folder, *more)
        assert contents(folder / "run") == expected, kill_at
        shutil.rmtree(folder)


def test_a_run_killed_again_and_again_gets_there(driver, reference, tmp_path):
    """Every process adds a few things that last, and dies: with many kills, one thing."""
    apart = 1 if KILLS >= 100 else 9
    deaths = 0
    while driver.run(tmp_path, kill_at=apart, how="lasting")[0]:
        deaths += 1
        assert deaths < 300, "killed without end"
    assert deaths >= 40 // apart
    assert contents(tmp_path / "run") == reference[0]


def test_the_command_killed_at_random_moments_ends_the_same(command, reference, tmp_path):
    files, seconds = reference
    rng = random.Random(KILLS)
    wanted = max(3, KILLS // 4)
    landed = starts = finished = 0
    while landed < wanted or not finished:
        folder = tmp_path / str(finished)
        process = start(command, folder)
        starts += 1
        wait_for(lambda: has_begun(process, folder), process)  # noqa: B023
        if landed < wanted:
            time.sleep(rng.uniform(0, seconds))
            process.kill()
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        if process.returncode:
            landed += 1
        else:
            assert contents(folder / "run") == files
            finished += 1
        assert starts < 20 * wanted, "hardly any kill lands before the end"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_word_and_it_goes_on(
    number, words, driver, reference, isara, tmp_path, monkeypatch
):
    process = start([sys.executable, "-c", SLOW, *words], tmp_path)
    wait_for((tmp_path / "run" / "base" / "done.json").exists, process)

    monkeypatch.chdir(tmp_path)
    second = isara(*words)
    assert second.code == 3
    assert second.err.startswith(f"isara: run: in use by process {process.pid} on ")
    assert second.err.endswith(". Wait for it, or give another --out.\n")
    seen = isara("status", "run")
    assert seen.code == 0
    assert "Start the same command again to go on." in seen.out

    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == STOPPED
    assert "Traceback" not in err

    driver.run(tmp_path)
    assert contents(tmp_path / "run") == reference[0]


@pytest.fixture(scope="module")
def stricter(driver, tmp_path_factory):
    """What a fresh run with another filter leaves."""
    folder = tmp_path_factory.mktemp("stricter")
    driver.run(folder, *STRICTER)
    return contents(folder / "run")


STRICTER = ("--set", "filter.cosine=0.4")


@pytest.fixture(scope="module")
def done(driver, reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done")
    driver.run(folder)
    return folder


@pytest.mark.parametrize("kill_at", [1, 9, 14, 20][:: 1 if KILLS >= 100 else 2])
def test_a_kill_while_stale_arms_are_removed_leaves_both_ways_open(
    kill_at, driver, done, reference, stricter, tmp_path
):
    on, back = Path(shutil.copytree(done, tmp_path / "on")), Path(shutil.copytree(done, tmp_path / "back"))
    for folder in (on, back):
        killed, _ = driver.run(folder, *STRICTER, force=True, kill_at=kill_at)
        assert killed
    driver.run(on, *STRICTER, force=True)
    assert contents(on / "run") == stricter
    driver.run(back)
    assert contents(back / "run") == reference[0]
    assert stricter != reference[0]
