"""The command line: every verb, what it prints, where it stops, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from isara.config import load
from isara.errors import BackendError
from isara.readers import read_seeds
from isara.testing import ScriptedModel, ScriptedTrainer

pytestmark = pytest.mark.usefixtures("unsynced")
VERBS = (
    *("init", "check", "run", "status", "report", "compare", "verify", "replay", "lineage", "chat", "export"),
    *("eval", "score", "judge"),
)
PARTS = ("round {}, drafting", "round {}, probabilities", "tuning, round {}", "scoring, round {}")
ARMS = ["base", "retrieved", "seeds-only", "round-1", "round-2"]
HEAVY = ("torch", "transformers", "peft", "safetensors", "sentence_transformers", "pyarrow", "datasets")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def object_in(path):
    return json.loads(path.read_text(encoding="utf-8"))


def stamps(run, *folders):
    """When the files of these folders, or of the whole run, were written last."""
    roots = [run / folder for folder in folders] or [run]
    return {path: path.stat().st_mtime_ns for root in roots for path in root.rglob("*") if path.is_file()}


def results(run):
    """The files of a run's arms, with their contents."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for arm in ARMS
        for path in (run / arm).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def idle(monkeypatch):
    """Let nobody write, score or train."""

    def refuse(*args, **options):
        raise BackendError("work was done again")

    for kind, name in ((ScriptedModel, "complete"), (ScriptedModel, "score"), (ScriptedTrainer, "train")):
        monkeypatch.setattr(kind, name, refuse)


# --- help ---------------------------------------------------------------------------------------------------------


def test_help_names_every_verb_and_every_exit_code(isara):
    told = isara("--help")
    assert (told.code, told.err) == (0, "")
    assert re.findall(r"^  (\w+)  ", told.out, re.MULTILINE) == list(VERBS)
    words = " ".join(told.out.split())
    assert words.endswith(
        "Exit codes: 0 done; 1 check, export or judge audit found something wrong; 2 unusable input or settings; 3 a "
        "run directory in the way, in use or damaged; 4 nothing usable was generated; 5 a model could not be loaded or "
        "used; 130 stopped by you."
    )


def test_no_verb_at_all_shows_the_help(isara):
    told = isara()
    assert told.code == 2
    assert "Commands:" in told.out + told.err


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself_and_each_of_its_options(isara, verb):
    told = isara(verb, "--help")
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith(f"Usage: isara {verb}")
    assert isara(verb, "-h").out == told.out
    for option in re.findall(r"^  (--[\w-]+)", told.out, re.MULTILINE):
        assert re.search(rf"{option}\b[^\n]*\n?\s+\S", told.out), option


def test_an_unknown_verb_or_option_is_unusable_input(isara):
    for words in (["runn"], ["run"], ["status", "here", "--colour"]):
        told = isara(*words)
        assert told.code == 2
        assert told.err.startswith("Usage: isara")


def test_help_loads_nothing_that_is_slow():
    """Typer itself reads pydantic before it shows a verb's options; nothing of ours may."""
    script = f"""
import contextlib, io, sys
from isara.cli import main

def told(*words):
    sys.argv = ["isara", *words]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    assert "Usage: isara" in out.getvalue()
    return {{name.partition(".")[0] for name in sys.modules}}, {{n for n in sys.modules if n.startswith("isara.")}}

light, ours = told("--help")
assert not light & {{*{HEAVY!r}, "rich", "pydantic", "numpy", "rapidfuzz"}}, light
assert {{n for n in ours if not n.startswith("isara.cli")}} == {{"isara.errors"}}, ours
for verb in {VERBS!r}:
    light, ours = told(verb, "--help")
    assert not light & {{*{HEAVY!r}, "rich", "numpy", "rapidfuzz"}}, (verb, light)
    assert {{n for n in ours if not n.startswith("isara.cli")}} == {{"isara.errors"}}, (verb, ours)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_verb_works_where_the_heavy_libraries_are_not_installed(small, tmp_path):
    script = f"""
import io, sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from isara.cli import main
import json, pathlib

flags = {[*small.flags, "--set", "rounds=1"]!r}
commands = [
    ["init", "mine"],
    ["check", "mine/seeds.jsonl", "--model", "scripted"],
    ["run", {str(small.seeds)!r}, *flags, "--out", "run"],
    ["status", "run"],
    ["report", "run"],
    ["replay", "run", "--set", "filter.rouge=0.9"],
    ["lineage", "run", "r1-00001"],
    ["chat", "run"],
]
for words in commands:
    sys.argv, sys.stdin = ["isara", *words], io.StringIO("Why is the sky blue?")
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "The report: run/report.html" in done.stdout


# --- init ---------------------------------------------------------------------------------------------------------


def test_init_writes_two_files_that_load_back_and_pass_the_check(isara, tmp_path):
    folder = tmp_path / "deep" / "mine"
    told = isara("init", folder)
    assert told.code == 0
    assert [path.name for path in sorted(folder.iterdir())] == ["isara.toml", "seeds.jsonl"]
    assert told.out.splitlines() == [
        f"wrote {folder / 'isara.toml'}",
        f"wrote {folder / 'seeds.jsonl'}",
        "Replace seeds.jsonl by 30 to 100 samples of your own, then:",
        f"  isara check {folder / 'seeds.jsonl'}",
        f"  isara run {folder / 'seeds.jsonl'} --config {folder / 'isara.toml'} --out runs/first",
    ]
    assert load(folder / "isara.toml") == load(None)
    shipped = [(sample.question, sample.answer) for sample in read_seeds("supportdesk")]
    assert [(s.question, s.answer) for s in read_seeds(folder / "seeds.jsonl")] == shipped
    checked = isara("check", folder / "seeds.jsonl", "--config", folder / "isara.toml", "--model", "scripted")
    assert checked.code == 0
    assert checked.out.splitlines()[-1] == "Nothing here would spoil a run."


def test_init_starts_from_another_seed_set(isara, tmp_path):
    assert isara("init", tmp_path, "--seeds", "misconceptions").code == 0
    assert len(read_seeds(tmp_path / "seeds.jsonl")) == len(read_seeds("misconceptions"))


def test_init_overwrites_nothing(isara, tmp_path):
    (tmp_path / "seeds.jsonl").write_text("mine", encoding="utf-8")
    told = isara("init", tmp_path)
    assert (told.code, told.out) == (2, "")
    assert told.err == f"isara: {tmp_path / 'seeds.jsonl'}: already there. Remove it, or give another folder.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["seeds.jsonl"]


def test_init_where_no_folder_can_be(isara, tmp_path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    told = isara("init", tmp_path / "taken")
    assert told.code == 2
    assert told.err.startswith(f"isara: {tmp_path / 'taken'}: cannot be a folder (")


# --- check --------------------------------------------------------------------------------------------------------


def test_check_says_what_it_found_as_text_and_as_json(isara):
    text = isara("check", "misconceptions", "--model", "scripted")
    assert (text.code, text.err) == (0, "")
    assert text.out.splitlines()[-1] == "Nothing here would spoil a run."
    assert re.search(r"^  [ \d]{3}  \S", text.out, re.MULTILINE)
    as_json = isara("check", "misconceptions", "--model", "scripted", "--json")
    assert as_json.code == 0
    assert json.loads(as_json.out)["spoiled"] is False


def test_check_ends_with_one_where_a_run_would_be_spoiled(isara, small):
    told = isara("check", small.seeds, "--heldout", small.seeds, "--model", "scripted")
    assert told.code == 1
    assert told.out.startswith("SPOILS THE RUN: ")
    assert told.out.splitlines()[-1] == "This would spoil a run."
    assert isara("check", small.seeds, "--heldout", small.seeds, "--model", "scripted", "--json").code == 1


def test_check_names_fields_that_cannot_be_told(isara, tmp_path):
    odd = tmp_path / "odd.jsonl"
    odd.write_text("".join(f'{{"ask": "What is {n}?", "say": "It is {n}."}}\n' for n in range(40)), encoding="utf-8")
    told = isara("check", odd, "--model", "scripted")
    assert told.code == 2
    assert f"{odd}:1: no " in told.err
    named = isara("check", odd, "--model", "scripted", "--question-field", "ask", "--answer-field", "say")
    assert named.code in (0, 1)
    assert named.err == ""


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_tells_its_stages_its_result_and_where_the_report_is(again, finished, tmp_path):
    told = again(tmp_path / "small")
    summary = object_in(tmp_path / "small" / "summary.json")
    assert told.code == 0
    assert told.out.splitlines()[-1] == f"The report: {tmp_path / 'small' / 'report.html'}"
    assert " ".join(summary["verdict"][0].split()) in " ".join(told.out.split())
    assert [arm for arm in ARMS if re.search(rf"^ {arm} ", told.out, re.MULTILINE)] == ARMS
    stages = [line for line in told.err.splitlines() if line.endswith(": started")]
    assert [stage.removesuffix(": started") for stage in stages] == [
        "loading",
        "scoring, untouched model",
        "scoring, with demonstrations",
        *(f"{stage}, seeds alone" for stage in ("tuning", "scoring")),
        *(part.format(n) for n in (1, 2) for part in PARTS),
    ]
    assert results(tmp_path / "small") == results(finished)


def test_quiet_prints_nothing(again, isara, small, tmp_path):
    told = again(tmp_path / "small", "--quiet")
    assert told == type(told)(0, "", "")
    assert (tmp_path / "small" / "report.html").exists()
    failed = isara("run", "nowhere.jsonl", "-q", "--model", "scripted", "--out", tmp_path / "other")
    assert failed.out == ""
    assert failed.err.startswith("isara: nowhere.jsonl: no such file")


def test_a_finished_run_is_left_as_it_is(again, run, idle):
    before, reported = stamps(run, *ARMS), (run / "report.md").read_bytes()
    told = again(run)
    assert told.code == 0
    assert "what is complete there is kept." in told.err
    assert told.err.count(": nothing to do\n") == 2 + 2 + 4 * 2
    assert stamps(run, *ARMS) == before
    assert (run / "report.md").read_bytes() == reported


def test_an_unfinished_run_goes_on_from_what_is_complete(again, run, finished, idle, monkeypatch):
    shutil.rmtree(run / "round-2")
    (run / "round-1" / "done.json").unlink()
    assert again(run).code == 5
    before = stamps(run, *ARMS[:4])
    monkeypatch.undo()
    assert again(run).code == 0
    assert {p: t for p, t in stamps(run, *ARMS[:4]).items() if p in before} == before
    assert results(run) == results(finished)


def test_a_config_file_and_changes_to_it(isara, small, tmp_path):
    config = tmp_path / "my.toml"
    config.write_text('rounds = 1\n[model]\nname = "scripted"\n[target]\naccepted = 7\nbatch = 9\n', encoding="utf-8")
    told = isara(
        "run", small.seeds, "--config", config, "--set", "target.batch=6", "--rounds", 2, "--seed", 5, "-q",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert told == type(told)(0, "", "")
    settings = object_in(tmp_path / "run" / "manifest.json")["settings"]
    assert (settings["rounds"], settings["seed"], settings["target"]["accepted"]) == (2, 5, 7)
    assert (settings["target"]["batch"], settings["model"]["name"]) == (6, "scripted")


def test_test_samples_give_a_table_and_a_verdict_of_their_own(isara, small, tmp_path):
    seeds, test = tmp_path / "seeds.jsonl", tmp_path / "test.jsonl"
    seeds.write_text("".join(json.dumps(record) + "\n" for record in small.records[:22]), encoding="utf-8")
    test.write_text("".join(json.dumps(record) + "\n" for record in small.records[22:]), encoding="utf-8")
    told = isara("run", seeds, "--test", test, *small.flags, "--rounds", 1, "--out", tmp_path / "run")
    assert told.code == 0
    assert "8 test samples: NLL per token" in told.out
    assert "6 held-out samples: NLL per token" in told.out


def test_a_run_that_accepts_nothing_ends_with_four_and_names_the_rule(again, tmp_path):
    told = again(tmp_path / "run", "--set", "filter.confidence=0.01")
    assert told.code == 4
    assert re.search(r"isara: Round 1: none of 40 candidates was accepted \(dropped by: .*confidence \d+", told.err)
    assert f"See {tmp_path / 'run' / 'round-1' / 'dropped.jsonl'}; loosen the rule that dropped most." in told.err
    assert again(tmp_path / "run", "--set", "filter.confidence=0.01").code == 4
    assert again(tmp_path / "run", "--force").code == 0


# --- changed settings ---------------------------------------------------------------------------------------------

FROM_ROUNDS = "Computed again: round-1, round-2. Kept: base, retrieved, seeds-only."
FROM_SEEDS_ONLY = "Computed again: seeds-only, round-1, round-2. Kept: base, retrieved."
FROM_NOTHING = "Computed again: base, retrieved, seeds-only, round-1, round-2. Kept: nothing."


def told_changes(settings, changes):
    """What is to be said of changes, in the order of the settings."""
    told = {}
    for name, value in (change.split("=") for change in changes):
        section, _, key = name.rpartition(".")
        old = settings[section][key] if section else settings[key]
        new = type(old)(value.strip("'"))
        told[list(settings).index(section or key)] = f"{name}: {old!r} → {new!r}"
    return [told[place] for place in sorted(told)]


@pytest.mark.parametrize(
    ("changes", "consequence"),
    [
        (["filter.rouge=0.6"], FROM_ROUNDS),
        (["questions.temperature=0.5"], FROM_ROUNDS),
        (["target.accepted=11"], FROM_ROUNDS),
        (["gate.min_gain=0.1"], FROM_ROUNDS),
        (["train.rank=5"], FROM_SEEDS_ONLY),
        (["filter.echo=0.7", "train.rank=5"], FROM_SEEDS_ONLY),
        (["seed=18"], FROM_NOTHING),
        (["split.least=7"], FROM_NOTHING),
        (["answers.demonstrations=3"], FROM_NOTHING),
        (["train.overlong='drop'", "model.dtype='float16'"], FROM_NOTHING),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_changed_settings_are_refused_with_what_they_would_cost(again, run, idle, changes, consequence):
    before = stamps(run)
    settings = object_in(run / "manifest.json")["settings"]
    told = again(run, *(word for change in changes for word in ("--set", change)))
    assert (told.code, told.out) == (3, "")
    assert told.err.removeprefix("loading: started\n").removeprefix("loading: finished in 0 s\n").splitlines() == [
        f"isara: {run}: holds a run with other settings.",
        *(f"  {line}" for line in told_changes(settings, changes)),
        consequence,
        "Add --force to do that in place, or give another --out.",
    ]
    del before[run / ".lock"]
    assert {path: stamp for path, stamp in stamps(run).items() if path.name != ".lock"} == before


@pytest.mark.parametrize(
    ("changed", "said", "consequence"),
    [
        ("seeds", "the seed samples are other ones", FROM_NOTHING),
        ("heldout", "the held-out samples are other ones", FROM_NOTHING),
        ("test", "the test samples are other ones", FROM_ROUNDS),
    ],
)
def test_changed_samples_are_refused_with_what_they_would_cost(isara, small, run, tmp_path, changed, said, consequence):
    other = tmp_path / "other.jsonl"
    more = [{"question": f"What is so odd about number {n} here?", "answer": f"Nothing, it is {n}."} for n in range(9)]
    records = [*small.records, *more] if changed == "seeds" else more
    other.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    source = [other] if changed == "seeds" else [small.seeds, f"--{changed}", other]
    told = isara("run", *source, *small.flags, "--out", run)
    assert told.code == 3
    assert told.err.splitlines()[-3:] == [
        f"  {said}",
        consequence,
        "Add --force to do that in place, or give another --out.",
    ]


def test_the_same_file_read_by_another_field_is_other_samples(isara, small, tmp_path):
    both = tmp_path / "both.jsonl"
    records = [record | {"short": f"{record['answer'].split()[0]} it is."} for record in small.records]
    both.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    command = ["run", both, *small.flags, "--rounds", 1, "--out", tmp_path / "run", "--question-field", "question"]
    assert isara(*command, "--answer-field", "answer").code == 0
    told = isara(*command, "--answer-field", "short")
    assert told.code == 3
    assert "the seed samples are other ones" in told.err


def test_the_same_samples_in_another_file_are_the_same(again, isara, small, run, idle, tmp_path):
    spaced = tmp_path / "spaced.json"
    spaced.write_text(json.dumps(small.records, indent=4), encoding="utf-8")
    assert isara("run", spaced, *small.flags, "--out", run).code == 0


def test_force_computes_again_what_is_stale_and_nothing_else(again, run, tmp_path):
    change = ["--set", "filter.rouge=0.6"]
    before = stamps(run, "base", "retrieved", "seeds-only")
    told = again(run, *change, "--force")
    assert told.code == 0
    assert "warning: Computing round-1, round-2 again: filter.rouge: 0.7 → 0.6." in told.err
    assert stamps(run, "base", "retrieved", "seeds-only") == before
    again(tmp_path / "fresh", *change)
    assert results(run) == results(tmp_path / "fresh")
    assert object_in(run / "manifest.json")["settings"]["filter"]["rouge"] == 0.6
    assert not [path.name for path in run.iterdir() if path.name.endswith(".stale")]


def test_force_without_a_change_computes_nothing(again, run, idle):
    before = stamps(run, *ARMS)
    assert again(run, "--force").code == 0
    assert stamps(run, *ARMS) == before


@pytest.mark.parametrize(
    "change", [["--set", "gate.confidence=0.9"], ["--set", "model.batch_tokens=999"], ["--rounds", "1"]]
)
def test_a_change_that_makes_nothing_stale_computes_nothing(again, run, idle, change):
    before = stamps(run, *ARMS)
    told = again(run, *change)
    assert told.code == 0, told.err
    assert stamps(run, *ARMS) == before


def test_more_rounds_go_on_from_those_that_are_there(again, finished, tmp_path):
    run = tmp_path / "small"
    assert again(run, "--rounds", 1).code == 0
    assert "round-2" not in (run / "report.md").read_text(encoding="utf-8")
    before = stamps(run, *ARMS[:4])
    told = again(run)
    assert told.code == 0
    assert told.err.count(": nothing to do\n") == 2 + 2 + 4
    assert stamps(run, *ARMS[:4]) == before
    assert results(run) == results(finished)


def test_fewer_rounds_are_summed_up_without_the_rest_and_more_bring_it_back(again, run, idle):
    whole = object_in(run / "summary.json")["heldout"]
    assert again(run, "--rounds", 1).code == 0
    assert [row["arm"] for row in object_in(run / "summary.json")["heldout"]["arms"]] == ARMS[:4]
    assert again(run).code == 0
    assert object_in(run / "summary.json")["heldout"] == whole


# --- what cannot be used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("filter.rogue=0.5", "--set: filter.rogue: no such setting. Did you mean filter.rouge?"),
        ("filter.rouge=nan", "expected a number above 0 and at most 1, found nan (not a finite number)."),
        ("train.learning_rate=nan", "found nan (not a finite number)."),
        ("train.alpha=inf", "found inf (not a finite number)."),
        ("rounds=many", '--set: rounds: expected a whole number from 0 to 100, found "many".'),
        ("rounds", "--set: expected section.key=value, found rounds."),
    ],
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_setting_that_cannot_be(isara, tmp_path, monkeypatch, verb, setting, said):
    monkeypatch.chdir(tmp_path)
    told = isara(verb, "misconceptions", "--model", "scripted", "--set", setting)
    assert (told.code, told.out) == (2, "")
    assert said.replace('"', "") in told.err.replace('"', "")
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_are_not_there(isara, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds.jsonl").write_text("", encoding="utf-8")
    told = isara("run", "sedes.jsonl", "--model", "scripted", "--out", "run")
    assert told.code == 2
    assert told.err == "isara: sedes.jsonl: no such file. Did you mean 'seeds.jsonl'?\n"
    assert not (tmp_path / "run").exists()


def test_seeds_with_numbers_that_are_none(isara, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"question": "What is it?", "answer": NaN}\n' * 3, encoding="utf-8")
    told = isara("run", bad, "--model", "scripted", "--out", tmp_path / "run")
    assert told.code == 2
    assert told.err.startswith(f"isara: {bad}:1: ")
    assert len(told.err.splitlines()) == 3


def test_a_model_that_cannot_be_used(isara, run):
    (run / "seeds-only" / "adapter" / "scripted.json").write_text("{}", encoding="utf-8")
    told = isara("chat", run, "--arm", "seeds-only", stdin="Hello?")
    assert told.code == 5
    assert "not the adapter of a scripted model" in told.err


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_output_directory_that_cannot_be_one(again, tmp_path, below):
    taken = tmp_path / "taken"
    taken.write_text("mine", encoding="utf-8")
    told = again(taken / below)
    assert (told.code, told.out) == (3, "")
    assert re.fullmatch(
        rf"isara: {re.escape(str(taken / below))}: cannot hold a run \([\w ]+\)\. Give another --out\.\n", told.err
    )
    assert taken.read_text(encoding="utf-8") == "mine"


def test_an_output_directory_that_may_not_be_written(again, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    told = again(locked / "run")
    assert told.code == 3
    assert "cannot hold a run (Permission denied). Give another --out." in told.err


def test_a_disk_that_fills_up_ends_in_a_sentence_and_the_run_goes_on(again, finished, tmp_path, monkeypatch):
    written = 0

    def full(handle):
        nonlocal written
        written += 1
        if written > 60:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = again(tmp_path / "small")
    assert told.code == 3
    assert "cannot be written (No space left on device)." in told.err
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert again(tmp_path / "small").code == 0
    assert results(tmp_path / "small") == results(finished)


def test_a_folder_of_somebody_elses_is_left_alone(again, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    told = again(tmp_path)
    assert told.code == 3
    assert told.err == f"isara: {tmp_path}: not empty, and no run of isara (found thesis.txt). Give another --out.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("verb", ["status", "report", "replay", "lineage", "chat"])
@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_what_is_no_run_directory_is_named(isara, tmp_path, verb, kind):
    place = tmp_path / "place"
    if kind == "empty":
        place.mkdir()
    if kind == "file":
        place.write_text("", encoding="utf-8")
    told = isara(verb, place, *(["seed-1"] if verb == "lineage" else []))
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith(f"isara: {place}")
    assert "manifest.json" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("verb", ["run", "status", "report", "replay", "chat"])
def test_a_damaged_manifest_is_named(isara, again, run, verb):
    (run / "manifest.json").write_text('{"isara": ', encoding="utf-8")
    told = again(run) if verb == "run" else isara(verb, run)
    assert told.code == 3
    assert f"{run / 'manifest.json'}" in told.err


def test_a_damaged_round_is_named_and_removing_it_helps(again, run, finished):
    path = run / "round-2" / "completions.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    told = again(run)
    assert told.code == 3
    assert f"{path}: changed: " in told.err
    assert "Computed again: round-2. Kept: base, retrieved, seeds-only, round-1 " in told.err
    assert again(run, "--force").code == 0
    assert results(run) == results(finished)


# --- status, report, replay, lineage, chat ------------------------------------------------------------------------


def test_status_of_a_run_that_is_complete(isara, run):
    told = isara("status", run)
    summary = object_in(run / "summary.json")
    manifest = object_in(run / "manifest.json")
    assert told.code == 0
    assert told.out.splitlines()[:3] == [
        f"small: complete, model scripted, started {manifest['created']}",
        *(f"  round {r['round']}: 10 of {r['drafted']} candidates accepted. {r['why']}" for r in summary["rounds"]),
    ]
    assert "6 held-out samples: NLL per token" in told.out


def test_status_of_a_run_that_is_not(isara, run):
    shutil.rmtree(run / "round-2")
    told = isara("status", run)
    assert told.code == 0
    assert told.out.splitlines()[0].startswith("small: running, model scripted, started ")
    assert told.out.splitlines()[-2:] == [
        "  scored so far: base, retrieved, seeds-only, round-1",
        "Start the same command again to go on.",
    ]
    for arm in ARMS[:4]:
        shutil.rmtree(run / arm)
    assert "  scored so far: nothing" in isara("status", run).out.splitlines()


def test_report_writes_the_same_pages_again(isara, run):
    before = {name: (run / name).read_bytes() for name in ("report.html", "report.md", "summary.json")}
    for name in before:
        (run / name).unlink()
    told = isara("report", run)
    assert (told.code, told.err) == (0, "")
    assert told.out.splitlines() == [f"wrote {run / 'report.html'}", f"wrote {run / 'report.md'}"]
    assert {name: (run / name).read_bytes() for name in before} == before


def test_replay_says_what_the_run_kept_and_what_was_surplus(isara, finished):
    told = isara("replay", finished)
    assert (told.code, told.err) == (0, "")
    found = told.out.splitlines()
    surplus = [
        sum(record["rule"] == "surplus" for record in lines(finished / f"round-{n}" / "dropped.jsonl")) for n in (1, 2)
    ]
    assert any(surplus)
    for number, spare in enumerate(surplus, start=1):
        head = f"round {number}: 10 were kept, {10 + spare} would be ({spare} more, 0 fewer)"
        after = found[found.index(head) + 1]
        said = f"  {spare} of them passed in the run too, and were surplus: it had its target already"
        assert (after == said) == bool(spare)
    rules = [line for line in found if " drops " in line]
    assert rules
    assert all(re.fullmatch(r"  \w+ +drops \d+", line) and line.index("drops") == 19 for line in rules)


def test_replay_with_another_threshold_says_what_nobody_knows(isara, finished):
    told = isara("replay", finished, "--set", "filter.rouge=1.0")
    assert told.code == 0
    assert re.search(
        r"^  \d+ more would have been answered; what their answers are worth is not known$", told.out, re.M
    )


def test_replay_changes_the_filter_and_nothing_else(isara, finished):
    told = isara("replay", finished, "--set", "train.rank=8")
    assert (told.code, told.out) == (2, "")
    assert told.err == ("isara: --set: train.rank decides what is generated. A replay can change filter.* only.\n")
    assert isara("replay", finished, "--set", "filter.rogue=8").code == 2


def test_lineage_of_nobody(isara, finished):
    told = isara("lineage", finished, "seed-222")
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith(f"isara: {finished}: no sample 'seed-222' here. Did you mean seed-")


def test_chat_lets_the_untouched_model_and_the_best_one_answer_each_line(isara, finished):
    told = isara("chat", finished, stdin="Why is the sky blue?\n\n  Who built it?\n")
    best = object_in(finished / "summary.json")["best"]
    assert (told.code, told.err) == (0, "")
    assert [line.split("> ")[0] for line in told.out.splitlines() if "> " in line] == ["base", best, "base", best]


def test_chat_with_an_arm_of_ones_choice(isara, finished):
    told = isara("chat", finished, "--arm", "seeds-only", stdin="Why is the sky blue?")
    assert [line.split("> ")[0] for line in told.out.splitlines()] == ["base", "seeds-only"]
    assert [
        line.split("> ")[0] for line in isara("chat", finished, "--arm", "base", stdin="Why?").out.splitlines()
    ] == ["base"]


@pytest.mark.parametrize("arm", ["round-9", "retrieved", "../small"])
def test_chat_with_an_arm_that_has_no_weights(isara, finished, arm):
    told = isara("chat", finished, "--arm", arm, stdin="Why?")
    assert told.code == 3
    assert told.err == f"isara: {finished}: no tuned weights for {arm!r}. `isara status {finished}` lists the arms.\n"


def test_chat_with_nothing_to_say(isara, finished):
    told = isara("chat", finished)
    assert told == type(told)(0, "", "")
