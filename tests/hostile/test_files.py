"""Every file of the table through the real command: exactly its samples, or a message and exit code 2."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import files
import pytest
import rundirs
import values
from files import File

from isara.errors import SeedError
from isara.readers import from_records, read_seeds

pytestmark = pytest.mark.usefixtures("unsynced")


def placed(case: File, folder: Path) -> Path:
    path = folder / case.file
    if isinstance(case.content, bytes):
        path.write_bytes(case.content)
    else:
        case.content(path)
    return path


def harmless(text: str) -> bool:
    """Whether nothing in a text acts on a terminal or turns the writing around."""
    return not [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\n\u200d"]


def test_the_tables_hold_at_least_two_hundred_cases_of_different_names():
    tables = (files.ALL, files.LARGE, values.LIGHT, values.HEAVY, rundirs.DAMAGES)
    names = [(place, case.name) for place, table in enumerate(tables) for case in table]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert len(names) >= 400


@pytest.mark.parametrize("case", files.ALL, ids=lambda case: case.name)
def test_a_file_is_read_exactly_or_refused(case, isara, tmp_path):
    if case.file.endswith(".parquet") or case.file == "saved":
        pytest.importorskip("datasets")
    path = placed(case, tmp_path)
    out = tmp_path / "out"
    checked = isara("check", "--model", "scripted", "--", path)
    ran = isara("run", "--model", "scripted", "--out", out, "--", path)
    for ended in (checked, ran):
        assert harmless(ended.out), ended.out
        assert harmless(ended.err), ended.err
        assert "Traceback" not in ended.err
    if case.refused:
        assert (checked.code, checked.out) == (2, "")
        assert re.search(case.refused, checked.err), checked.err
        assert (ran.code, ran.err) == (2, checked.err)
    else:
        assert tuple((sample.question, sample.answer) for sample in read_seeds(path)) == case.pairs
        assert checked.code == 1, "too few to learn from"
        assert ran.code == 2
        assert "samples are too few" in ran.err
    assert not [entry for entry in out.rglob("*") if entry.name != ".lock"]


def test_what_is_accepted_goes_through_a_whole_run_and_none_is_lost(isara, small, tmp_path):
    """Every text that the table accepts, as a question and as an answer, beside twenty ordinary samples."""
    odd = [answer for case in files.CONTENT for _, answer in case.pairs]
    records = [{"question": f"What is number {n}, {text}?", "answer": text} for n, text in enumerate(odd)]
    seeds, heldout = tmp_path / "odd.jsonl", tmp_path / "judges.jsonl"
    seeds.write_text("".join(json.dumps(record) + "\n" for record in [*records, *small.records[:20]]))
    heldout.write_text("".join(json.dumps(record) + "\n" for record in small.records[20:]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run = tmp_path / "run"
    verbs = [
        ("run", seeds, "--heldout", heldout, *small.flags, "--set", "train.max_tokens=131072", "--out", run),
        ("status", run),
        ("report", run),
        ("lineage", run, "r1-00001"),
        ("replay", run, "--set", "filter.rouge=0.9"),
        ("check", seeds, "--model", "scripted"),
    ]
    for words in verbs:
        ended = isara(*words)
        assert ended.code in (0, 1) if words[0] == "check" else ended.code == 0, ended
        assert harmless(ended.out + ended.err), words[0]
    kept = [json.loads(line) for line in (run / "seeds.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [(record["question"], record["answer"]) for record in kept] == [
        (sample.question, sample.answer) for sample in from_records([*records, *small.records[:20]])
    ]
    assert [record["id"] for record in kept] == [f"seed-{n}" for n in range(1, len(kept) + 1)]
    assert set(tmp_path.iterdir()) == {*before, run}, "nothing was written beside the run"
    lines = (run / "seeds-only" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    trained = {json.loads(line)["completion"][0]["content"] for line in lines if line}
    assert trained >= {record["answer"] for record in kept}


@pytest.mark.parametrize("case", files.LARGE, ids=lambda case: case.name)
def test_a_large_file_is_refused_within_two_gigabytes(case, tmp_path):
    """As a process of its own, which the system would end where it takes more."""
    path = placed(case, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "isara", "check", path, "--model", "scripted"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    path.unlink()
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-500:]
    assert re.search(case.refused, done.stderr), done.stderr[:500]


@pytest.mark.parametrize(("count", "code"), [(0, 2), (1, 1), (2, 1), (10_000, None)])
def test_none_one_and_as_many_as_can_be(count, code, isara, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text("".join(f'{{"question": "What is {n}?", "answer": "{n}."}}\n' for n in range(count)))
    if code is None:
        assert len(read_seeds(path)) == count
        return
    assert isara("check", path, "--model", "scripted").code == code
    assert isara("run", path, "--model", "scripted", "--out", tmp_path / "out").code == 2


@pytest.mark.parametrize("question", ["Why?", "Why on earth would it be so, {n}?"])
def test_seeds_that_are_all_alike_are_told_and_still_end(question, isara, tmp_path):
    path = tmp_path / "s.jsonl"
    lines = (json.dumps({"question": question.format(n=n), "answer": "Because."}) for n in range(40))
    path.write_text("\n".join(lines))
    checked = isara("check", path, "--model", "scripted")
    assert checked.code == 0
    assert re.search("are the same sample|ask nearly the same", checked.out)
    ran = isara("run", path, "--model", "scripted", "--set", "target.accepted=4", "--out", tmp_path / "out")
    assert ran.code in (0, 2, 4), ran
    assert ran.code == 0 or "learned from and judged by" in ran.err or "none of" in ran.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can become somebody else")
def test_a_file_that_may_not_be_read(isara, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(files.GOOD)
    read_seeds("misconceptions")  # what is imported late is imported by now
    os.seteuid(65534)
    try:
        ended = isara("check", path, "--model", "scripted")
    finally:
        os.seteuid(0)
    assert ended.code == 2
    assert "cannot be read (Permission denied)" in ended.err


def test_records_in_memory_are_held_to_the_same():
    for record, words in (
        ({"question": "a\0", "answer": "b"}, "NUL"),
        ({"question": "a", "answer": "b" * 100_001}, "100,001 characters"),
        ({"question": "\ud800", "answer": "b"}, "lone surrogate"),
        ({"question": float("nan"), "answer": "b"}, "a number"),
        ({"question": b"a", "answer": "b"}, "a value of type bytes"),
        ({f"k{n}": n for n in range(5000)}, "5,000 fields"),
        (object(), "a value of type object"),
    ):
        with pytest.raises(SeedError, match=words):
            from_records([record])
    with pytest.raises(SeedError, match="10,001 samples or more"):
        from_records([{"question": "a", "answer": "b"}] * 10_001)
