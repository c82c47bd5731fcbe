"""Every setting, name and option of the table: one message, the exit code of unusable input, and no run directory."""

from __future__ import annotations

import json

import pytest
import values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isara import config
from isara.errors import IsaraError

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


NAMES = st.sampled_from([info.name for info in config.reference()]) | st.text(st.characters(), max_size=12)
WRITTEN = (
    st.integers().map(str)
    | st.floats().map(repr)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(
        ["1e999", "-0.0", "nan", "[]", "{}", "true", "'", '"', "0x", "1_0", "10" * 200, "\n", "#", "a.b.c"]
    )
)


def outcome(path, overrides):
    """Return the settings, or None and the lines that say why there are none."""
    try:
        return config.load(path, overrides), []
    except IsaraError as error:
        return None, str(error).split("\n")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, WRITTEN), max_size=4))
def test_whatever_is_set_it_is_in_range_or_refused_in_one_line_each(pairs):
    chosen, refused = outcome(None, [f"{name}={value}" for name, value in pairs])
    assert all(line.startswith("--set: ") and line.isprintable() for line in refused)
    if chosen is not None:
        assert config.load_over(chosen.model_dump(), []) == chosen
        dumped = chosen.model_dump(mode="json")
        assert json.loads(json.dumps(dumped, allow_nan=False)) == dumped


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(st.characters(codec="utf-8"), max_size=60).map(str.encode))
def test_whatever_a_settings_file_holds_it_is_read_or_refused_with_its_place(tmp_path, content):
    path = tmp_path / "s.toml"
    path.write_bytes(content)
    _, refused = outcome(path, [])
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in refused)
