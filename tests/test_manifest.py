from __future__ import annotations

import copy
import functools
import json
import re
from importlib import metadata

import pytest

from isara.errors import RunError
from isara.manifest import ARMS, arms_in, describe, later_arms, refuse_strangers, settle, stale
from isara.rundir import read_json
from isara.settings import Settings

pytestmark = pytest.mark.usefixtures("unsynced")


def inputs(**contents):
    """Return what a manifest says of input files, by what they hold; a part that is not named was not given."""
    return {
        part: {"path": f"{part}.jsonl", "sha256": text, "samples": 30, "content": text} if text else None
        for part, text in {"seeds": "s1", "heldout": None, "test": None, **contents}.items()
    }


@functools.cache
def plain():
    return json.dumps(describe("a run", Settings(), {}, {}, {}, ["isara", "run"]))


def wanted(*, model=None, embedder=None, **contents):
    made = json.loads(plain())
    return made | {
        "inputs": inputs(**contents),
        "model": model or {"name": "scripted", "sha256": "m1"},
        "embedder": embedder or {"name": "hash"},
    }


# -- what a change makes stale -----------------------------------------------------------------------------------------

FIRST_STALE = {
    "rounds": None,
    "seed": "base",
    "model": "base",
    "model.batch_tokens": None,
    "server": None,
    "split": "base",
    "questions": "round-1",
    "answers": "base",
    "answers.choice": "round-1",
    "answers.shared": "round-1",
    "answers.principles": "round-1",
    "target": "round-1",
    "filter": "round-1",
    "train": "seeds-only",
    "train.targets": "round-1",
    "train.teacher": "round-1",
    "train.top_tokens": "round-1",
    "train.seed_share": "round-1",
    "train.start": "round-1",
    "train.round_steps": "round-1",
    "train.average": "round-1",
    "gate.keep": "round-1",
    "gate.pool": "round-1",
    "gate.min_gain": "round-1",
    "gate.standard_errors": "round-1",
    "gate.patience": "round-1",
    "gate.generator": "round-1",
    "gate.confidence": None,
}
LEAVES = [
    f"{section}.{name}" if isinstance(fields, dict) else section
    for section, fields in Settings().model_dump(mode="json").items()
    for name in (fields if isinstance(fields, dict) else [None])
]


def with_setting(manifest, name, value):
    changed = copy.deepcopy(manifest)
    *section, key = name.split(".")
    (changed["settings"][section[0]] if section else changed["settings"])[key] = value
    return changed


@pytest.mark.parametrize("name", LEAVES)
def test_a_changed_setting_makes_stale_what_it_has_a_part_in(name):
    # A new setting of a section that is not named as a whole has to be given a place in this table.
    arm = FIRST_STALE[name if name in FIRST_STALE else name.split(".")[0]]
    before = wanted()
    said, first = stale(before, with_setting(before, name, "another"))
    assert first == arm
    if arm is None:
        assert said == []
    else:
        assert len(said) == 1
        assert re.fullmatch(rf"{re.escape(name)}: .+ → 'another'", said[0])


def test_nothing_is_stale_when_nothing_changed():
    assert stale(wanted(heldout="h", test="t"), wanted(heldout="h", test="t")) == ([], None)


def test_where_a_run_was_asked_for_and_on_what_plays_no_part():
    again = wanted() | {"created": "later", "command": ["other"], "python": "9", "platform": "p", "packages": {}}
    again |= {"isara": "9.9", "name": "another"}
    again["inputs"]["seeds"] |= {"path": "moved.jsonl", "sha256": "the same samples, laid out in another way"}
    assert stale(wanted(), again) == ([], None)


@pytest.mark.parametrize(
    ("change", "arm", "words"),
    [
        ({"seeds": "s2"}, "base", "the seed samples are other ones"),
        ({"heldout": "h2"}, "base", "the held-out samples are other ones"),
        ({"heldout": None}, "base", "the held-out samples are other ones"),
        ({"test": "t1"}, "round-1", "the test samples are other ones"),
        (
            {"model": {"name": "scripted", "sha256": "m2"}},
            "base",
            "the model is another one (scripted, other files: sha256 m1 → m2)",
        ),
        ({"embedder": {"name": "minilm"}}, "base", "the embedder is another one (hash → minilm)"),
    ],
)
def test_other_samples_or_models_make_stale_what_they_have_a_part_in(change, arm, words):
    said, first = stale(wanted(heldout="h1"), wanted(**{"heldout": "h1", **change}))
    assert first == arm
    assert len(said) == 1
    assert said[0].startswith(words)


def test_the_earliest_of_several_stale_arms_counts_and_each_change_is_told():
    before = wanted()
    after = with_setting(with_setting(before, "filter.rouge", 0.5), "train.rank", 4)
    said, first = stale(before, after)
    assert first == "seeds-only"
    assert said == ["filter.rouge: 0.7 → 0.5", "train.rank: 16 → 4"]
    assert stale(before, with_setting(after, "seed", 1))[1] == "base"


def test_a_model_of_another_name_is_told_once():
    before = wanted()
    after = with_setting(wanted(model={"name": "other"}), "model.name", "other")
    assert len(stale(before, after)[0]) == 1


# -- making a run directory ready --------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    """A run directory with a manifest and a folder for each arm, eleven rounds among them."""
    folder = tmp_path / "run"
    assert settle(folder, wanted(), force=False) == []
    for arm in (*ARMS, *(f"round-{i}" for i in range(1, 12))):
        (folder / arm).mkdir()
        (folder / arm / "heldout.jsonl").write_text("{}\n")
    return folder


ROUNDS = [f"round-{i}" for i in range(1, 12)]


def test_a_new_folder_gets_the_manifest(tmp_path):
    assert settle(tmp_path / "run", wanted(), force=False) == []
    assert read_json(tmp_path / "run" / "manifest.json") == wanted() | {
        "created": read_json(tmp_path / "run" / "manifest.json")["created"]
    }


def test_a_manifest_says_what_was_used():
    made = describe("a run", Settings(seed=3), inputs(heldout="h1"), {"name": "m"}, {"name": "e"}, ["isara", "run"])
    assert (made["name"], made["model"], made["embedder"]) == ("a run", {"name": "m"}, {"name": "e"})
    assert made["isara"] == metadata.version("isara")
    assert made["packages"]["numpy"] == metadata.version("numpy")
    assert Settings.model_validate(made["settings"]) == Settings(seed=3)
    assert made["seed"] == 3
    assert (made["inputs"]["heldout"]["content"], made["inputs"]["test"]) == ("h1", None)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path, force):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"not empty, and no run of isara \(found thesis\.tex\)\. Give another --out\."):
        settle(tmp_path, wanted(), force=force)
    with pytest.raises(RunError, match="not empty"):
        refuse_strangers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_with_nothing_but_hidden_files_is_new(tmp_path):
    (tmp_path / ".lock").write_text("process 1")
    assert settle(tmp_path, wanted(), force=False) == []


def test_the_same_request_goes_on_where_it_stopped(begun):
    created = read_json(begun / "manifest.json")["created"]
    assert settle(begun, wanted() | {"created": "later"}, force=False) == []
    assert arms_in(begun) == [*ARMS, *ROUNDS]
    assert read_json(begun / "manifest.json")["created"] == created


@pytest.mark.parametrize(
    ("name", "value", "again", "kept"),
    [
        ("seed", 1, [*ARMS, *ROUNDS], []),
        ("train.rank", 4, ["seeds-only", *ROUNDS], ["base", "retrieved"]),
        ("filter.rouge", 0.5, ROUNDS, [*ARMS]),
    ],
)
def test_a_request_that_makes_arms_stale_needs_force_and_then_keeps_the_others(begun, name, value, again, kept):
    request = with_setting(wanted(), name, value)
    before = (begun / "manifest.json").read_bytes()
    with pytest.raises(RunError) as refused:
        settle(begun, request, force=False)
    words = str(refused.value)
    assert f"{name}: " in words
    assert f"Computed again: {', '.join(again)}. Kept: {', '.join(kept) or 'nothing'}.\n" in words
    assert words.endswith("Add --force to do that in place, or give another --out.")
    assert arms_in(begun) == [*ARMS, *ROUNDS]
    assert (begun / "manifest.json").read_bytes() == before

    (told,) = settle(begun, request, force=True)
    assert told.startswith(f"Computing {', '.join(again)} again: {name}: ")
    assert arms_in(begun) == kept
    assert all((begun / arm / "heldout.jsonl").exists() for arm in kept)
    assert {path.name for path in begun.iterdir()} == {"manifest.json", "seal.json", *kept}
    assert read_json(begun / "manifest.json")["settings"] == request["settings"]
    assert settle(begun, request, force=False) == []


@pytest.mark.parametrize(("name", "value"), [("rounds", 5), ("gate.confidence", 0.9), ("model.batch_tokens", 512)])
def test_a_request_that_makes_nothing_stale_needs_no_force(begun, name, value):
    request = with_setting(wanted(), name, value)
    assert settle(begun, request, force=False) == []
    assert arms_in(begun) == [*ARMS, *ROUNDS]
    assert read_json(begun / "manifest.json")["settings"] == request["settings"]


def test_stale_settings_need_no_force_while_nothing_was_computed_with_them(begun):
    for arm in arms_in(begun):
        if arm != "base":
            (begun / arm / "heldout.jsonl").unlink()
            (begun / arm).rmdir()
    assert settle(begun, with_setting(wanted(), "train.rank", 4), force=False) == []
    assert arms_in(begun) == ["base"]


def test_other_test_samples_take_the_old_test_scores_away_and_leave_the_baselines(begun):
    for arm in arms_in(begun):
        (begun / arm / "test.jsonl").write_text("{}\n")
    settle(begun, wanted(test="t2"), force=True)
    assert arms_in(begun) == [*ARMS]
    assert [arm for arm in ARMS if (begun / arm / "test.jsonl").exists()] == []
    assert all((begun / arm / "heldout.jsonl").exists() for arm in ARMS)


def test_a_newer_isara_goes_on_and_says_so(begun):
    newer = wanted() | {"isara": "9.9.9"}
    (told,) = settle(begun, newer, force=False)
    assert told.startswith(f"Other versions than before: isara {metadata.version('isara')} → 9.9.9. base, retrieved, ")
    assert settle(begun, newer, force=False) == []
    (told,) = settle(begun, newer | {"packages": newer["packages"] | {"numpy": "99.0"}}, force=False)
    assert f"numpy {metadata.version('numpy')} → 99.0. " in told
    assert arms_in(begun) == [*ARMS, *ROUNDS]


def test_a_run_without_its_manifest_is_no_strangers_folder(begun):
    settle(begun, wanted(), force=False)
    (begun / "manifest.json").unlink()
    with pytest.raises(RunError, match=r"a run whose manifest\.json is gone.*Put back a copy of it, or give another"):
        settle(begun, wanted(), force=True)
    assert arms_in(begun) == [*ARMS, *ROUNDS]


def test_what_a_kill_left_while_stale_arms_were_taken_away_is_removed(begun):
    (begun / "round-11").rename(begun / ".round-11.stale")
    assert settle(begun, wanted(), force=False) == []
    assert not (begun / ".round-11.stale").exists()
    assert arms_in(begun) == [*ARMS, *ROUNDS[:-1]]


def test_a_damaged_manifest_is_named_and_nothing_is_taken_away(begun):
    (begun / "manifest.json").write_text('{"isara": ')
    with pytest.raises(RunError, match=r"manifest\.json: not valid JSON"):
        settle(begun, wanted(), force=True)
    assert arms_in(begun) == [*ARMS, *ROUNDS]


def test_rounds_are_listed_by_number(begun):
    assert arms_in(begun)[-2:] == ["round-10", "round-11"]
    assert later_arms(begun, "round-1") == ROUNDS
    assert later_arms(begun, None) == []
