from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from isara.errors import RunError
from isara.lock import locked
from isara.rundir import (
    Events,
    Journal,
    fingerprint,
    read_json,
    records_in,
    snapshot,
    write_json,
    write_jsonl,
    write_text,
)

# -- whole files -------------------------------------------------------------------------------------------------------


def test_a_written_file_holds_the_text_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "arm" / "a.json"
    write_text(path, "one\n")
    write_text(path, "zwei → 二\n")
    assert path.read_text(encoding="utf-8") == "zwei → 二\n"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch, call):
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"summary\.json: cannot be written \(No space left on device\)"):
        write_text(path, "new" * 1000)
    assert path.read_text(encoding="utf-8") == "old"
    monkeypatch.undo()
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part_of_a_file(tmp_path):
    path = tmp_path / "page.html"
    versions = [letter * 200_000 for letter in "ab"]
    write_text(path, versions[0])
    over = threading.Event()
    seen = set()

    def read():
        while not over.is_set():
            seen.add(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        write_text(path, versions[i % 2])
    over.set()
    reader.join()
    assert seen
    assert seen <= set(versions)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "arm").write_text("a file is here")
    with pytest.raises(RunError, match=r"arm/done\.json: cannot be written"):
        write_json(tmp_path / "arm" / "done.json", {})


def test_json_and_jsonl_come_back_as_they_were(tmp_path):
    value = {"name": "Größe → 二", "n": [1, 2.5, None], "nested": {"a": "\u2028"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    records = [{"id": "a", "text": "one\ntwo\u2028three\x85"}, {"id": "b", "text": ""}]
    write_jsonl(tmp_path / "a.jsonl", records)
    assert records_in(tmp_path / "a.jsonl") == records
    assert records_in(tmp_path / "absent.jsonl") == []


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(RunError, match=r"manifest\.json: not here"):
        read_json(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text('{"a": 1')
    with pytest.raises(RunError, match=r"manifest\.json: not valid JSON"):
        read_json(tmp_path / "manifest.json")
    (tmp_path / "kept.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(RunError, match=r"kept\.jsonl:2: a damaged line"):
        records_in(tmp_path / "kept.jsonl")


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_and_on_everything_else():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    others = [{"a": 1, "b": [2, 1]}, {"a": 1}, {"a": "1", "b": [1, 2]}, {"a": 1, "b": [1, 2], "c": None}]
    assert len({fingerprint(other) for other in [{"a": 1, "b": [1, 2]}, *others]}) == 5


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from isara.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(run):
    """Another process that has the run directory, until it is killed or its standard input ends."""
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_and_told_who_has_the_run_and_takes_over_from_a_killed_one(tmp_path):
    run = tmp_path / "run"
    with holder(run) as process:
        with (
            pytest.raises(RunError, match=rf"in use by process {process.pid} on \S+, started [\d-]+ [\d:]+\. Wait"),
            locked(run),
        ):
            pytest.fail("two processes hold one run")
        # The refusal leaves the holder's name in place for the next one that asks.
        with pytest.raises(RunError, match=rf"in use by process {process.pid} on "), locked(run):
            pytest.fail("two processes hold one run")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with locked(run):
            assert (run / ".lock").read_text(encoding="utf-8").startswith(f"process {os.getpid()} on ")


def test_a_lock_is_given_back_after_an_error_and_can_be_taken_again(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
        pytest.fail("held twice")
    with locked(tmp_path):
        pass


def test_a_run_that_is_a_file_cannot_be_locked(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(RunError, match="cannot hold a run"), locked(tmp_path / "run"):
        pytest.fail("locked a file")


# -- events ------------------------------------------------------------------------------------------------------------

said = st.text(max_size=12) | st.sampled_from(["base → round-1", "a\u2028b\x85c\x0bd\ne\rf", "水"])


@given(st.lists(st.tuples(said, st.none() | st.integers(1, 120)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_events_survive_a_kill_in_the_middle_of_any_line(events):
    with tempfile.TemporaryDirectory() as folder:
        log = Events(Path(folder) / "events.jsonl")
        whole = []
        for text, cut in events:
            before = log.path.stat().st_size if log.path.exists() else 0
            log.add("say", text=text, level="info")
            if cut is not None:
                os.truncate(log.path, max(before, log.path.stat().st_size - cut))
            # A line that lacks nothing but its newline says all it has to say.
            if cut in (None, 1):
                whole.append(text)
            assert [event["text"] for event in log.read()] == whole
        log.add("stage", name="score-base", seconds=0.5)
        *_, last = log.read()
        assert (last["kind"], last["name"], last["seconds"]) == ("stage", "score-base", 0.5)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", last["time"])
        assert len(log.read()) == len(whole) + 1


def test_there_are_no_events_before_the_first(tmp_path):
    assert Events(tmp_path / "events.jsonl").read() == []


# -- the journal -------------------------------------------------------------------------------------------------------

NAMES = ("a.jsonl", "b.jsonl", "c.f16")
rows = st.lists(st.fixed_dictionaries({"id": st.text(max_size=5), "n": st.integers(-9, 9)}), max_size=3)
contents = st.dictionaries(st.sampled_from(NAMES[:2]), rows, max_size=2)
binaries = st.one_of(st.none(), st.binary(max_size=20))


class Killed(RuleBasedStateMachine):
    """A journal that is committed to, killed at any byte and opened again, beside what it ought to hold."""

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal(self.folder)
        self.steps = []
        self.files = {}

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(records=contents, binary=binaries)
    def commit(self, records, binary):
        files = {**records} if binary is None else {**records, "c.f16": binary}
        self.journal.commit(f"{len(self.steps)}/step", files)
        self.steps.append(files)
        for name, added in files.items():
            self.files[name] = self.files.get(name, b"") + as_bytes(added)

    @rule(records=contents, binary=binaries, share=st.floats(0, 1), garbage=st.binary(max_size=9))
    def kill(self, records, binary, share, garbage):
        """Stop a commit at any byte: some of its files are there in part, its line in the journal is not whole."""
        files = {**records} if binary is None else {**records, "c.f16": binary}
        added = {name: as_bytes(content) + garbage for name, content in files.items()}
        whole = sum(map(len, added.values()))
        left = round(share * whole)
        for name, content in added.items():
            append(self.folder / name, content[:left])
            left -= min(left, len(content))
        self.journal = Journal(self.folder)

    @rule(records=contents, cut=st.integers(1, 400), newline=st.booleans())
    def kill_at_the_end(self, records, cut, newline):
        """Stop a commit when all of its files are there, within its line in the journal."""
        before = (self.folder / "journal.jsonl").stat().st_size if self.steps else 0
        self.journal.commit(f"{len(self.steps)}/step", records)
        path = self.folder / "journal.jsonl"
        os.truncate(path, max(before, path.stat().st_size - (1 if newline else cut)))
        self.journal = Journal(self.folder)

    @rule()
    def reopen(self):
        self.journal = Journal(self.folder)

    @precondition(lambda self: any(self.files.values()))
    @rule(data=st.data())
    def cut_what_was_committed(self, data):
        """Take away bytes that were committed: this is no kill, and must not go unnoticed."""
        name = data.draw(st.sampled_from(sorted(name for name, content in self.files.items() if content)))
        path = self.folder / name
        kept = data.draw(st.integers(0, len(self.files[name]) - 1))
        if data.draw(st.booleans()):
            os.truncate(path, kept)
        else:
            path.unlink()
            kept = 0
        with pytest.raises(RunError, match=re.escape(f"{path}: {kept} bytes here, {len(self.files[name])} were")):
            Journal(self.folder)
        path.write_bytes(self.files[name])
        self.journal = Journal(self.folder)

    @invariant()
    def it_holds_exactly_the_committed_steps(self):
        assert not self.journal.done(f"{len(self.steps)}/step")
        for number, files in enumerate(self.steps):
            step = f"{number}/step"
            assert self.journal.done(step)
            for name, added in files.items():
                assert self.journal.content(step, name) == as_bytes(added)
                if name != "c.f16":
                    assert self.journal.records(step, name) == added

    @invariant()
    def every_file_ends_with_its_last_committed_byte(self):
        for name, content in self.files.items():
            assert (self.folder / name).read_bytes() == content
        seen = snapshot(self.folder)
        for name in NAMES:
            assert seen.content(name) == self.files.get(name, b"")


def as_bytes(added):
    return added if isinstance(added, bytes) else "".join(line(record) for record in added).encode("utf-8")


def line(record):
    return json.dumps(record, ensure_ascii=False) + "\n"


def append(path, content):
    with path.open("ab") as file:
        file.write(content)


@pytest.mark.usefixtures("unsynced")
class TestKilledJournal(Killed.TestCase):
    settings = settings(max_examples=25, stateful_step_count=10, deadline=None)


def test_a_snapshot_reads_what_is_committed_and_touches_nothing(tmp_path):
    Journal(tmp_path).commit("0/step", {"a.jsonl": [{"id": 1}]})
    append(tmp_path / "a.jsonl", b'{"id": 2}\n{"i')
    append(tmp_path / "journal.jsonl", b'{"step": "1/st')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert snapshot(tmp_path).records("a.jsonl") == [{"id": 1}]
    assert snapshot(tmp_path).records("b.jsonl") == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    os.truncate(tmp_path / "a.jsonl", 3)
    with pytest.raises(RunError, match=r"a\.jsonl: 3 bytes here, 10 were written"):
        snapshot(tmp_path).records("a.jsonl")


def test_a_damaged_line_in_the_middle_of_the_journal_is_an_error_and_not_the_end_of_it(tmp_path):
    journal = Journal(tmp_path)
    for i in range(3):
        journal.commit(f"{i}/step", {"a.jsonl": [{"id": i}]})
    path = tmp_path / "journal.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text(lines[0] + "{damaged\n" + lines[2], encoding="utf-8")
    with pytest.raises(RunError, match=r"journal\.jsonl:2: a damaged line"):
        Journal(tmp_path)
    # Nothing was taken away, so that it can be restored.
    assert len(records_in(tmp_path / "a.jsonl")) == 3


def test_a_commit_that_fails_is_not_there(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.commit("0/step", {"a.jsonl": [{"id": 0}]})
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"b\.jsonl: cannot be written \(No space left on device\)"):
        journal.commit("1/step", {"a.jsonl": [{"id": 1}], "b.jsonl": [{"id": 1}]})
    monkeypatch.undo()
    assert not journal.done("1/step")
    again = Journal(tmp_path)
    assert not again.done("1/step")
    again.commit("1/step", {"a.jsonl": [{"id": 2}], "b.jsonl": [{"id": 2}]})
    assert records_in(tmp_path / "a.jsonl") == [{"id": 0}, {"id": 2}]
    assert records_in(tmp_path / "b.jsonl") == [{"id": 2}]
