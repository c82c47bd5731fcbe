"""A full disk, a folder that cannot be written, files that vanish, clocks that go back: an end, or one clear error."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isara import align, lock
from isara.api import Backend
from isara.errors import IsaraError, RunError
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer
from isara.verify import verify
from same_run import contents


@pytest.fixture(scope="module")
def command(small):
    return [sys.executable, "-m", "isara", "run", str(small.seeds), *small.flags, "--out", "run"]


@pytest.fixture(scope="module")
def reference(finished):
    return arms(finished)


def arms(run):
    """Every file of the arms, and of what they were computed from."""
    names = [path.relative_to(run).as_posix() for path in sorted(run.rglob("*")) if path.is_file()]
    return {n: (run / n).read_bytes() for n in names if "/" in n or n in ("seeds.jsonl", "heldout.jsonl")}


def one_error(err):
    """The one message of a command, which is its last line, and no traceback."""
    assert "Traceback" not in err
    message = err.splitlines()[-1]
    assert message.startswith("isara: ")
    return message


# -- disks -------------------------------------------------------------------------------------------------------------


def mounts():
    """Whether this user may mount in a namespace of its own."""
    if not shutil.which("unshare"):
        return False
    try_it = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(try_it, capture_output=True, check=False).returncode == 0


MOUNTS = pytest.mark.skipif(not mounts(), reason="this user may not mount anything, so there is no small disk to fill")


def in_namespace(folder, script, command):
    """Run a shell script that may mount, with the command as its arguments."""
    (folder / "run").mkdir(exist_ok=True)
    words = ["unshare", "--mount", "sh", "-c", script, "sh", *command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


@MOUNTS
def test_a_full_disk_is_one_clear_error_and_with_more_space_it_goes_on(command, reference, tmp_path):
    script = """
mount -t tmpfs -o size=4k none run
for size in 4k 160k 400k; do
  mount -o remount,size=$size run
  "$@" 2>err.$size; echo $? >code.$size
done
mount -o remount,size=64m run
"$@" 2>err.last; echo $? >code.last
cp -a run out
"""
    in_namespace(tmp_path, script, command)
    for size in ("4k", "160k", "400k"):
        assert (tmp_path / f"code.{size}").read_text() == "3\n"
        message = one_error((tmp_path / f"err.{size}").read_text())
        assert "cannot be written (No space left on device). Check" in message
    assert (tmp_path / "code.last").read_text() == "0\n", (tmp_path / "err.last").read_text()
    assert arms(tmp_path / "out") == reference
    assert contents(tmp_path / "out")


@MOUNTS
def test_a_folder_that_cannot_be_written_is_one_clear_error_and_can_still_be_read(command, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    script = """
mount --bind run run && mount -o remount,ro,bind run
"$@" 2>err.run; echo $? >code.run
python=$1
for verb in report verify; do $python -m isara $verb run >out.$verb 2>err.$verb; echo $? >code.$verb; done
"""
    in_namespace(tmp_path, script, command)
    codes = {path.suffix: path.read_text() for path in tmp_path.glob("code.*")}
    assert codes == {".run": "3\n", ".report": "3\n", ".verify": "0\n"}
    for name in ("run", "report"):
        assert "Read-only file system" in one_error((tmp_path / f"err.{name}").read_text())


@pytest.mark.parametrize("most", [2_000, 30_000])
def test_a_limit_on_files_is_met_as_a_full_disk_is(most, command, reference, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 3
    assert "cannot be written (File too large). Check" in one_error(done.stderr)
    assert not (tmp_path / "run" / "manifest.json").exists() or verify(tmp_path / "run").faults == ()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert arms(tmp_path / "run") == reference


def test_an_error_of_the_system_that_nobody_foresaw_is_one_line(isara, small, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise OSError(errno.EIO, "Input/output error", "/dev/somewhere")

    monkeypatch.setattr("isara.api.run_loop", broken)
    done = isara("run", small.seeds, *small.flags, "--out", tmp_path / "run")
    assert done.code == 3
    assert one_error(done.err).startswith("isara: /dev/somewhere: Input/output error. What is done is kept; ")


# -- files that go away under a running process ------------------------------------------------------------------------


class Vandal(ScriptedModel):
    """Removes something of the run while it is asked for something."""

    def __init__(self, run, name, call):
        super().__init__()
        self.target, self.call, self.calls = run / name, call, [0]

    def tuned(self, strength):
        model = super().tuned(strength)
        model.__class__, model.target, model.call, model.calls = Vandal, self.target, self.call, self.calls
        return model

    def complete(self, prompts, sampling, *, seeds):
        self.calls[0] += 1
        if self.calls[0] == self.call:
            (shutil.rmtree if self.target.is_dir() else Path.unlink)(self.target)
        return super().complete(prompts, sampling, seeds=seeds)


# Calls 1 to 3 answer held-out questions, 4 on write round 1: a question and an answer for each batch.
GOES_AWAY = [
    ("", 5),
    ("round-1", 6),
    *((f"round-1/{name}", 6) for name in ("journal.jsonl", "prompts.jsonl", "kept.jsonl", "embeddings.f16")),
    ("round-1/scores.jsonl", 7),
    ("base/heldout.jsonl", 1),
    ("base/heldout.jsonl", 3),
    ("seeds-only/train.jsonl", 3),
    ("seeds-only/training.json", 3),
    ("base", 3),
    ("seeds-only/heldout.jsonl", 4),
    ("seeds-only/adapter", 3),
    ("seeds-only/adapter/scripted.json", 5),
    ("manifest.json", 5),
    ("seeds.jsonl", 5),
    ("events.jsonl", 5),
    ("seal.json", 5),
]


HARMLESS = ("events.jsonl", "seal.json")


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize(("name", "call"), GOES_AWAY, ids=lambda value: str(value))
def test_what_vanishes_is_an_error_or_does_no_harm_and_is_made_good(name, call, small, reference, tmp_path):
    run = tmp_path / "run"
    model = Vandal(run, name, call)

    def vandal(settings):
        return Backend(model, HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"})

    try:
        align(str(small.seeds), out=run, model="scripted", settings=small.settings, backend=vandal)
    except IsaraError as error:
        assert str(run) in str(error)  # noqa: PT017
    else:
        # The log of times begins anew, and the seal is written at the end in any case; of all else it is found.
        assert verify(run).faults or name in HARMLESS
    assert model.calls[0] >= call
    if name == "manifest.json":
        with pytest.raises(RunError, match=r"a run whose manifest\.json is gone.* Put back a copy of it"):
            align(str(small.seeds), out=run, model="scripted", settings=small.settings, force=True)
        return
    damaged = any("/" in fault.file for fault in verify(run).faults) if run.exists() else False
    align(str(small.seeds), out=run, model="scripted", settings=small.settings, force=damaged)
    assert arms(run) == reference
    assert verify(run).faults == ()


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unsynced")
def test_a_clock_that_goes_back_decides_nothing(small, reference, tmp_path, monkeypatch):
    ticks = iter(range(2_000_000_000, 0, -86_399))
    real = time.strftime

    def back(form, when=None):
        return real(form, when or time.localtime(next(ticks)))

    monkeypatch.setattr(time, "strftime", back)
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    align(str(small.seeds), out=tmp_path / "run", model="scripted", settings=small.settings)
    assert arms(tmp_path / "run") == reference
    told = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [event["time"] for event in told] == sorted((event["time"] for event in told), reverse=True)
    assert all(event["seconds"] >= 0 for event in told if event["kind"] == "stage")


# -- two processes -----------------------------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from isara.lock import locked
with locked(pathlib.Path("run")):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_is_told_who_has_the_run_and_takes_over_when_that_one_is_killed(isara, small, tmp_path):
    with holder(tmp_path) as process:
        refused = isara("run", small.seeds, *small.flags, "--out", tmp_path / "run")
        assert refused.code == 3
        who = f"process {process.pid} on {socket.gethostname()}, started {time.strftime('%Y-')}"
        assert one_error(refused.err).startswith(f"isara: {tmp_path / 'run'}: in use by {who}")
        assert one_error(refused.err).endswith(". Wait for it, or give another --out.")
        process.kill()
    taken = isara("run", small.seeds, *small.flags, "--out", tmp_path / "run")
    assert taken.code == 0
    assert f"The last process {process.pid} on {socket.gethostname()}, started " in taken.err
    assert "did not end by itself: taken over." in taken.err
    assert (tmp_path / "run" / ".lock").read_text() == ""


@pytest.fixture
def no_kernel_locks(monkeypatch):
    def none(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)


def held_by(run, holder):
    run.mkdir()
    (run / ".lock.held").write_text(holder)


@pytest.mark.usefixtures("no_kernel_locks")
def test_where_there_are_no_locks_a_file_stands_for_one(tmp_path):
    run = tmp_path / "run"
    with lock.locked(run):
        assert (run / ".lock.held").read_text().startswith(f"process {os.getpid()} on {socket.gethostname()}, started ")
        with pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .* remove {run}/\.lock\.held\."):
            lock.locked(run).__enter__()
    assert not (run / ".lock.held").exists()


@pytest.mark.usefixtures("no_kernel_locks")
def test_a_file_of_a_dead_process_is_taken_over_and_one_of_another_machine_is_not(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    held_by(tmp_path / "one", f"process {int(dead.stdout)} on {socket.gethostname()}, started 2026-01-01 00:00:00\n")
    with lock.locked(tmp_path / "one"):
        pass
    for number, words in enumerate([f"process {int(dead.stdout)} on elsewhere, started x\n", "process 1 on", ""]):
        held_by(tmp_path / f"other-{number}", words)
        with pytest.raises(RunError, match="in use by"):
            lock.locked(tmp_path / f"other-{number}").__enter__()
