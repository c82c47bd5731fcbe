"""A byte that changes anywhere in a run is found, and what a start makes of it."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara import seal
from isara.digests import files_below, read_sealed
from isara.errors import RunError
from isara.rundir import Journal, write_json
from isara.verify import verify

pytestmark = pytest.mark.usefixtures("unsynced")


def changed(path, offset, mask):
    """Change bits of one byte of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= mask
    path.write_bytes(content)


def told(run):
    return [fault.file for fault in verify(run).faults]


def contents(run):
    """Every file of the arms."""
    return {name: (run / name).read_bytes() for name in files_below(run) if "/" in name}


@pytest.fixture
def half(run):
    """A run that was killed in its second round, between two batches."""
    shutil.copytree(run / "round-2", run / "whole")
    shutil.rmtree(run / "round-2")
    journal = Journal(run / "round-2")
    steps = [json.loads(line) for line in (run / "whole" / "journal.jsonl").read_text().splitlines()]
    before = {}
    for step in steps[:7]:
        parts = {}
        for name, length in step["lengths"].items():
            parts[name] = (run / "whole" / name).read_bytes()[before.get(name, 0) : length]
        journal.commit(step["step"], parts)
        before |= step["lengths"]
    shutil.rmtree(run / "whole")
    for name in seal.DERIVED:
        (run / name).unlink()
    seal.seal(run, complete=False)
    return run


# -- what is found -----------------------------------------------------------------------------------------------------


def test_a_run_as_it_was_written_has_no_faults(finished, isara):
    assert verify(finished).faults == verify(finished).notes == ()
    assert verify(finished).complete
    done = isara("verify", finished)
    assert done.code == 0
    assert (
        done.out == f"{finished}: {verify(finished).files} files checked, the complete run: all as they were written.\n"
    )


def test_nothing_in_a_complete_run_is_left_out(finished):
    there = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file() and p.stat().st_size}
    assert there == {name for name in files_below(finished) if (finished / name).stat().st_size}


def test_a_byte_changed_in_any_file_is_found_and_the_file_named(finished):
    names = [name for name in files_below(finished) if (finished / name).stat().st_size]
    assert len(names) > 40

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(names), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
    def check(name, place, mask):
        path = finished / name
        content = path.read_bytes()
        try:
            changed(path, int(place * len(content)), mask)
            assert told(finished) == [name]
        finally:
            path.write_bytes(content)

    for name in names:
        path = finished / name
        content = path.read_bytes()
        for offset in (0, len(content) - 1):
            changed(path, offset, 1)
            assert told(finished) == [name], offset
            path.write_bytes(content)
    check()


@pytest.mark.parametrize("name", ["seal.json", "round-1/done.json"])
def test_no_byte_of_what_holds_the_hashes_changes_unnoticed(run, name):
    content = (run / name).read_bytes()
    for offset in range(0, len(content), 11):
        changed(run / name, offset, 1 << offset % 8)
        with pytest.raises(RunError, match="changed since it was written"):
            read_sealed(run / name)
        (run / name).write_bytes(content)
    read_sealed(run / name)


def test_a_file_that_is_missing_cut_or_added_is_found(run, isara):
    (run / "round-1" / "adapter" / "scripted.json").unlink()
    (run / "round-2" / "adapter" / "config.json").write_text("{}")
    os.truncate(run / "round-2" / "kept.jsonl", 100)
    (run / "notes.txt").write_text("mine")
    (run / "measured").mkdir()
    for name in "ab":
        (run / "measured" / name).write_text("later")
    (run / "base" / ".heldout.jsonl.writing").write_text("{")
    done = isara("verify", run)
    assert done.code == 3
    assert "round-1/adapter/scripted.json: missing" in done.out
    assert "round-2/adapter/config.json: not there when the arm was complete" in done.out
    assert "round-2/kept.jsonl: changed: 100 bytes here, " in done.out
    assert "note: notes.txt: no part of the run" in done.out
    assert done.out.count("note: measured/: no part of the run") == done.out.count("measured") == 1
    assert "note: base/.heldout.jsonl.writing: left by a killed process" in done.out
    assert len(verify(run).faults) == 3


def test_an_arm_of_another_run_is_found(run, small, tmp_path):
    from isara import align

    other = tmp_path / "other"
    align(str(small.seeds), out=other, model="scripted", settings=[*small.settings, "seed=3"])
    shutil.rmtree(run / "seeds-only")
    shutil.copytree(other / "seeds-only", run / "seeds-only")
    assert told(run) == ["seeds-only/done.json", "round-1/done.json", "round-2/done.json"]


@pytest.mark.parametrize("name", ["seal.json", "manifest.json", "summary.json", "events.jsonl", "base/done.json"])
def test_a_file_that_others_hang_on_is_missed(run, name):
    (run / name).unlink()
    assert name in told(run)


def test_what_is_no_run_is_refused(tmp_path, isara):
    done = isara("verify", tmp_path)
    assert (done.code, done.err) == (3, f"isara: {tmp_path}: no run here (no manifest.json).\n")


def test_an_older_run_without_hashes_is_not_called_sound(run):
    (run / "seal.json").unlink()
    write_json(run / "base" / "done.json", {"arm": "base"})
    assert told(run) == ["seal.json", "base/done.json"]


def test_what_a_half_finished_run_has_committed_is_checked(half):
    found = verify(half)
    assert (found.complete, found.faults) == (False, ())
    with (half / "round-2" / "completions.jsonl").open("a") as file:
        file.write('{"torn')
    with (half / "events.jsonl").open("a") as file:
        file.write('{"time": "later"}\n')
    assert verify(half).faults == ()
    names = ["manifest.json", "seeds.jsonl", "samples.f16", "events.jsonl", "base/answers.jsonl", "round-1/kept.jsonl"]
    names += [f"round-2/{n}.jsonl" for n in ("prompts", "completions", "scores", "kept", "dropped", "journal")]
    for name in names:
        content = (half / name).read_bytes()
        for offset in (0, len(content) // 3):
            changed(half / name, offset, 1)
            assert told(half), (name, offset)
            (half / name).write_bytes(content)
    assert told(half) == []


def test_a_report_written_again_is_sealed_and_nothing_else_is(run, isara):
    before = (run / "report.md").read_bytes()
    changed(run / "report.html", 50, 1)
    changed(run / "samples.f16", 50, 1)
    assert isara("report", run).code == 0
    assert (run / "report.md").read_bytes() == before
    assert told(run) == ["samples.f16"]


# -- what a start makes of it ------------------------------------------------------------------------------------------


def test_a_round_file_edited_by_hand_is_named_and_computed_again_when_asked_to(again, run, finished):
    path = run / "round-1" / "kept.jsonl"
    path.write_text(path.read_text().replace("the", "teh", 1))
    before = contents(run)
    refused = again(run)
    assert refused.code == 3
    assert f"  {path}: changed: the same size, and other content\n" in refused.err
    assert "Computed again: round-1. Kept: base, retrieved, seeds-only, round-2 (as far as " in refused.err
    assert contents(run) == before
    forced = again(run, "--force")
    assert forced.code == 0
    assert "warning: Computing round-1 again: round-1/kept.jsonl: changed" in forced.err
    assert contents(run) == contents(finished)
    assert told(run) == []


def test_what_comes_out_the_same_leaves_the_later_arms_alone(again, run, finished):
    stamp = (run / "round-2" / "done.json").stat().st_mtime_ns
    (run / "base" / "heldout.jsonl").unlink()
    assert again(run, "--force").code == 0
    assert contents(run) == contents(finished)
    assert (run / "round-2" / "done.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["round-1/adapter/scripted.json", "seeds-only/adapter/scripted.json"])
def test_a_missing_adapter_is_named_and_trained_again(again, run, finished, name):
    (run / name).unlink()
    refused = again(run)
    assert (refused.code, f"{run / name}: missing" in refused.err) == (3, True)
    assert again(run, "--force").code == 0
    assert contents(run) == contents(finished)


def test_arms_that_were_computed_from_something_else_are_stale(again, run, finished):
    path = run / "seeds-only" / "heldout.jsonl"
    path.write_text(path.read_text().replace('"nll": 1', '"nll": 2', 1))
    seal.finish_arm(run, "seeds-only")
    (run / "seal.json").unlink()
    refused = again(run)
    assert refused.code == 3
    assert "seeds-only came out different from what round-1, round-2 had been computed from" in refused.err
    (run / "seeds-only" / "done.json").unlink()
    assert again(run, "--force").code == 0
    assert told(run) == []


def test_what_each_start_writes_anew_is_told_and_written(again, run, finished):
    names = ["samples.f16", "seeds.jsonl", "report.html", "summary.json", "manifest.json"]
    for name in names[:-1]:
        changed(run / name, 20, 1)
    path = run / "manifest.json"
    path.write_text(path.read_text().replace('"platform": "L', '"platform": "X'))
    done = again(run)
    assert done.code == 0
    for name in names:
        assert f"warning: {name}: changed: the same size, and other content; it is written again." in done.err
    assert (run / "samples.f16").read_bytes() == (finished / "samples.f16").read_bytes()
    assert told(run) == []


def test_a_changed_event_log_spoils_nothing(again, run):
    changed(run / "events.jsonl", 3, 1)
    done = again(run)
    assert done.code == 0
    assert "events.jsonl: changed since it was written; nothing but times is read from it" in done.err
    assert told(run) == []


@pytest.mark.parametrize("name", ["completions.jsonl", "kept.jsonl", "scores.jsonl", "embeddings.f16", "journal.jsonl"])
def test_a_round_under_way_that_was_edited_is_named_and_begun_again(again, half, finished, name):
    changed(half / "round-2" / name, 40, 1)
    refused = again(half)
    assert refused.code == 3
    assert "round-2" in refused.err
    assert "Computed again: round-2. Kept: base, retrieved, seeds-only, round-1 " in refused.err
    assert again(half, "--force").code == 0
    assert contents(half) == contents(finished)


def test_a_round_under_way_that_was_not_edited_goes_on(again, half, finished):
    assert again(half).code == 0
    assert contents(half) == contents(finished)


def test_what_a_killed_process_left_is_swept_up(again, run):
    for name in (".summary.json.writing", "round-1/.kept.jsonl.writing"):
        (run / name).write_text("half a fi")
    (run / "round-2" / ".adapter.writing").mkdir()
    assert again(run).code == 0
    assert list(run.rglob("*.writing")) == []
