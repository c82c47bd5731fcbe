"""A run directory from somebody else, or edited by hand: named file and line, no traceback, nothing outside touched."""

from __future__ import annotations

import json
import random

import pytest
import rundirs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rundirs import DAMAGES, GONE

ARGUMENTS = {
    "status": (),
    "report": (),
    "lineage": ("r1-00001",),
    "replay": ("--set", "filter.rouge=0.9"),
    "chat": (),
}


def told(isara, verb, run):
    return isara(verb, run, *ARGUMENTS[verb], stdin="Why?\n")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_damaged_run_is_refused_by_name(damage, isara, run, tmp_path):
    (tmp_path / "victim.txt").write_text("still here")
    damage.do(run)
    for verb in damage.verbs:
        ended = told(isara, verb, run)
        assert ended.code == 3, (verb, ended)
        assert damage.refused in ended.err, (verb, ended)
        assert "Traceback" not in ended.err
    assert (tmp_path / "victim.txt").read_text() == "still here"


def test_a_journal_cannot_cut_a_file_outside_of_its_round(isara, run, small, tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("still here")
    (run / "round-2" / "done.json").unlink()
    (run / "round-2" / "journal.jsonl").write_text('{"step": "x", "lengths": {"../../victim.txt": 0}}\n')
    for more in ((), ("--force",)):
        ended = isara("run", small.seeds, *small.flags, "--out", run, *more)
        assert ended.code == (0 if more else 3), ended
        assert victim.read_text() == "still here"


def test_two_thousand_generations_and_a_circle_are_printed_to_the_end(isara, run):
    rundirs.deep_family(run)
    ended = isara("lineage", run, "seed-1000")
    assert ended.code == 0
    assert ended.out.count("Q: ") == 2_001
    assert ended.out.count("(its own ancestors are listed above)") == 1


@pytest.mark.parametrize("name", ["../../x", "%s", "{0}", "\x1b[2J", "", "CON", "a" * 100_000, "\ud800", "--"])
def test_odd_names_of_samples_and_arms_are_only_names(name, isara, run):
    ended = isara("lineage", run, "--", name)
    assert ended.code == 3
    assert "no sample" in ended.err
    assert "\x1b" not in ended.err
    if name:
        ended = isara("chat", run, f"--arm={name}", stdin="Why?\n")
        assert ended.code == 3, ended
        assert "no tuned weights for" in ended.err


def test_the_weights_of_another_folder_are_not_taken_for_an_arm(isara, run, tmp_path):
    (run / "round-1").rename(tmp_path / "elsewhere")
    assert isara("chat", run, "--arm", "../elsewhere", stdin="Why?\n").code == 3


ODD = (None, True, -1, 0.5, 1e300, 10**30, "", "x", "\ud800", "\x1b[2J", "../../../x", [], {}, [None], {"x": 1}, GONE)
FILES = ("manifest.json", "seeds.jsonl", "heldout.jsonl", "summary.json", "events.jsonl", "base/heldout.jsonl")
FILES += ("base/answers.jsonl", "base/done.json", "seeds-only/training.json", "round-1/round.json")
FILES += tuple(
    f"round-1/{name}.jsonl"
    for name in ("prompts", "completions", "scores", "embedded", "kept", "dropped", "journal", "train", "heldout")
)


def places(value, path=()):
    """Every place in a JSON value."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*path, key))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), pick=st.integers(0, 2**32), value=st.sampled_from(ODD))
def test_whatever_stands_anywhere_in_a_run_it_is_read_or_refused(file, pick, value, isara, run):
    content = (run / file).read_bytes()
    record = json.loads(content if file.endswith(".json") else content.split(b"\n")[0])
    path = random.Random(pick).choice(list(places(record)))
    try:
        rundirs.setting(file, *path, value=value)(run)
        for verb in ARGUMENTS:
            ended = told(isara, verb, run)
            assert ended.code in (0, 2, 3), (file, path, value, verb, ended)
            assert not any(ord(char) < 32 and char != "\n" for char in ended.out + ended.err)
    finally:
        (run / file).write_bytes(content)
