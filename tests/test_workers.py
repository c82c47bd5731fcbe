"""Random seeds in processes of their own: the same study, faster; nothing is left running when one of them ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from isara.api import choose_backend
from isara.compare import compare
from isara.errors import GenerationError, RunError, SettingsError
from isara.lock import InUseError, locked
from isara.workers import compare_parts, parts_of, shares_of_cores
from studies import study_in, without_clock

STUDY = """
seeds = "misconceptions"
random_seeds = [1, 2, 3]
accepted = 12

[take]
seeds = 30
heldout = 8
test = 14

[settings]
model = {name = "scripted"}
train = {epochs = 2.0, checks = 2, targets = "sampled"}

[measures]
forgetting = {limit = 2}

[arms]
untouched = {kind = "base"}
seeds = {kind = "seeds"}
loop = {}
"""
PATIENCE = 60.0
"""Seconds after which something that is awaited is not going to happen."""


def awaited(ready):
    until = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def meeting(folder, others, settings):
    """A backend that is only there once so many processes have asked for one; it leaves word of who asked."""
    (folder / str(os.getpid())).write_text(json.dumps(sorted(os.sched_getaffinity(0))))
    awaited(lambda: len(list(folder.iterdir())) >= others)
    return choose_backend(settings)


def failing(seed, end, settings):
    """A backend that one random seed does not get, while another is at work for as long as it is let."""
    if settings.seed == seed:
        end()
    while settings.seed == 2:
        time.sleep(0.1)
    return choose_backend(settings)


def locking(folder, settings):
    """A backend with a lock that processes share, as progress bars have; random seed 1 ends once others have one."""
    held.append(multiprocessing.RLock())
    (folder / str(os.getpid())).touch()
    if settings.seed == 1:
        awaited(lambda: len(list(folder.iterdir())) >= 2)
        useless()
    time.sleep(PATIENCE)
    return choose_backend(settings)


held = []


def useless():
    raise GenerationError("Round 1: none of 8 candidates was accepted.")


def gone():
    os._exit(9)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def can_be_had(folder):
    try:
        with locked(folder):
            return True
    except InUseError:
        return False


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study as one process makes it."""
    folder = tmp_path_factory.mktemp("alone")
    return compare(study_in(folder, STUDY), folder / "out")


def test_several_processes_make_the_study_that_one_makes(alone, tmp_path):
    path, out, met = study_in(tmp_path, STUDY), tmp_path / "out", tmp_path / "met"
    met.mkdir()
    told = {seed: [] for seed in (1, 2, 3)}
    parts = parts_of(path, out)
    compare_parts(parts, 2, backend=partial(meeting, met, 2), watch_of=lambda part: told[part.seed].append)
    # Each in a process of its own, and two of them were there at once, on different cores where there are two.
    assert len(list(met.iterdir())) == 3
    assert str(os.getpid()) not in {file.name for file in met.iterdir()}
    cores = {file.read_text() for file in met.iterdir()}
    assert len(cores) == min(2, len(os.sched_getaffinity(0)))
    for seed, events in told.items():
        begun = [event.data["text"] for event in events if str(event.data.get("text")).startswith("Run ")]
        assert len(begun) == 1
        assert begun[0].startswith(f"Run {seed} of 3, seed-{seed}/loop-")
    assert not list(out.glob("comparison.*"))
    shown = []
    found = compare(path, out, watch=shown.append)
    # Nothing was left to compute, the benchmarks neither.
    assert {event.kind for event in shown} == {"say"}
    assert without_clock(found) == without_clock(alone)


@pytest.mark.parametrize(("end", "how"), [(gone, "exit code 9"), (killed, "signal 9: Killed")])
def test_what_ends_a_process_without_a_word_is_said(end, how, tmp_path):
    path, out = study_in(tmp_path, STUDY), tmp_path / "out"
    with pytest.raises(RunError, match=rf"^random seed 3: its process ended without a word \({how}\)\. Start the same"):
        compare_parts(parts_of(path, out), 3, backend=partial(failing, 3, end))
    assert can_be_had(out / "seed-2")


def test_what_ends_one_process_is_raised_and_the_others_end_too(tmp_path):
    path, out = study_in(tmp_path, STUDY), tmp_path / "out"
    with pytest.raises(GenerationError, match=r"^Round 1: none of 8 candidates was accepted\.$"):
        compare_parts(parts_of(path, out), 3, backend=partial(failing, 1, useless))
    # The one at random seed 2 would never have ended by itself.
    assert can_be_had(out / "seed-2")


def test_processes_that_are_ended_give_back_their_locks(tmp_path):
    """Python warns of each that is left, once the command has ended."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from isara.errors import GenerationError\n"
        "from isara.workers import compare_parts, parts_of\n"
        "from test_workers import locking\n"
        "if __name__ == '__main__':\n"
        "    study, out, met = map(Path, sys.argv[1:])\n"
        "    try:\n"
        "        compare_parts(parts_of(study, out), 2, backend=partial(locking, met))\n"
        "    except GenerationError as error:\n"
        "        sys.stderr.write(str(error))\n",
        encoding="utf-8",
    )
    (tmp_path / "met").mkdir()
    words = [sys.executable, script, study_in(tmp_path, STUDY), tmp_path / "out", tmp_path / "met"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert ended.stderr == "Round 1: none of 8 candidates was accepted."
    assert ended.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_its_processes_however_it_ends_and_goes_on(number, alone, tmp_path):
    path, out = study_in(tmp_path, STUDY), tmp_path / "out"
    words = [sys.executable, "-m", "isara", "compare", str(path), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    begun = [out / f"seed-{seed}" for seed in (1, 2)]
    awaited(lambda: all(list(folder.glob("*/manifest.json")) for folder in begun) or process.poll() is not None)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), err
    awaited(lambda: all(map(can_be_had, begun)))
    again = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert "seed-1/loop-" in again.stderr
    assert without_clock(json.loads((out / "comparison.json").read_text())) == without_clock(alone)


def test_no_core_is_given_to_two(monkeypatch):
    for count in range(1, 9):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, count=count: set(range(10, 10 + count)))
        for workers in range(1, 10):
            shares = shares_of_cores(workers)
            assert len(shares) == workers
            if workers > count:
                assert set(shares) == {frozenset()}
            else:
                assert sorted(core for share in shares for core in share) == list(range(10, 10 + count))
                assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_number_of_processes_that_makes_nothing_is_refused(isara, tmp_path):
    path = study_in(tmp_path, STUDY)
    with pytest.raises(SettingsError, match=r"^--workers: 0 processes make nothing\. Give 1 or more\.$"):
        compare_parts(parts_of(path, tmp_path / "out"), 0)
    for words, said in (
        (("--workers", "0"), "isara: --workers: 0 processes make nothing."),
        (("--workers", "2", "--random-seed", "1"), "isara: --workers makes all random seeds, --random-seed one."),
    ):
        refused = isara("compare", str(path), "--out", str(tmp_path / "out"), *words)
        assert refused.code == 2
        assert refused.err.startswith(said)
    assert not (tmp_path / "out").exists()


def test_all_studies_of_the_page_are_made_from_one_queue(alone, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "bench"))
    import evidence

    monkeypatch.setattr(evidence, "CONFIGS", tmp_path)
    small = STUDY.replace("[1, 2, 3]", "[1]").replace('untouched = {kind = "base"}\n', "")
    for name, text in (("evidence-large", STUDY), ("evidence-small", small)):
        (tmp_path / f"{name}.toml").write_text(text)
    asked = []
    monkeypatch.setattr(
        evidence, "compare_parts", lambda parts, *how, **more: asked.extend(parts) or compare_parts(parts, *how, **more)
    )
    made = evidence.make(tmp_path / "runs", tmp_path, 2)
    assert [(part.out.name, part.seed) for part in asked] == [
        ("evidence-large", 1),
        ("evidence-large", 2),
        ("evidence-large", 3),
        ("evidence-small", 1),
    ]
    shown = [json.loads((place / "comparison.json").read_text()) for place in made]
    assert without_clock(shown[0]) == without_clock(alone) | {"study": "evidence-large"}
    assert [arm["arm"] for arm in shown[1]["arms"]] == ["seeds", "loop"]
