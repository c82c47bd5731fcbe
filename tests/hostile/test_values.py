"""Every setting, name and option of the table: one message, the exit code of unusable input, and no run directory."""

from __future__ import annotations

import pytest
import values

pytestmark = pytest.mark.usefixtures("unsynced")


def refuse(case, isara, small, folder):
    words = ["run", small.seeds]
    words += [] if "--model" in case.words else ["--model", "scripted"]
    words += [] if "--out" in case.words else ["--out", folder / "out"]
    if case.toml:
        path = folder / "s.toml"
        path.write_bytes(case.toml if isinstance(case.toml, bytes) else case.toml.encode())
        words += ["--config", path]
    ended = isara(*words, *case.words)
    assert ended.code == case.code, ended
    assert any(part in ended.err for part in case.refused.split("|")), ended.err
    assert all(char.isprintable() or char == "\n" for char in ended.out + ended.err)
    assert ended.out == ""
    assert not [path for path in (folder / "out").rglob("*") if path.name != ".lock"]


@pytest.mark.parametrize("case", values.LIGHT, ids=lambda case: case.name)
def test_a_value_is_refused_in_words(case, isara, small, tmp_path):
    refuse(case, isara, small, tmp_path)


@pytest.mark.parametrize("case", values.HEAVY, ids=lambda case: case.name)
def test_a_model_that_is_none_is_refused_in_words(case, isara, small, tmp_path):
    pytest.importorskip("transformers")
    refuse(case, isara, small, tmp_path)


def test_a_folder_whose_name_is_no_text_can_hold_a_run(isara, small, tmp_path):
    """Names of files are bytes; one that is not UTF-8 is written down with escapes."""
    out = tmp_path / "run-\udcff\x1b[2J"
    seeds = tmp_path / "seeds-\udcfe.jsonl"
    seeds.write_bytes(small.seeds.read_bytes())
    for words in (("run", seeds, *small.flags, "--set", "rounds=1", "--out", out), ("status", out), ("report", out)):
        ended = isara(*words)
        assert ended.code == 0, ended
        assert "\x1b" not in ended.out + ended.err
    assert "run-\\udcff" in (out / "manifest.json").read_text(encoding="utf-8").replace("\\\\", "\\")
