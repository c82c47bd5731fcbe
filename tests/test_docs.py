"""What the pages say is so: examples run, links lead somewhere, settings and tables are those of the code."""

from __future__ import annotations

import contextlib
import io
import json
import math
import operator
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from isara import errors, manifest, stats
from isara.advice import held_out
from isara.cli import app
from isara.config import load, reference
from isara.filter import FUNNEL
from isara.readers import SHIPPED, read_seeds
from isara.settings import Settings, SplitSettings
from isara.study import OVERRIDES, load_study

pytestmark = pytest.mark.usefixtures("unsynced")

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "isara"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GUIDE, DESIGN, PAPER, PYTHON = (ROOT / "docs" / f"{name}.md" for name in ("guide", "design", "paper", "python"))

SETTINGS = {info.name: info for info in reference()}
SECTIONS = sorted({name.partition(".")[0] for name in SETTINGS if "." in name})
NO_SETTINGS = {"filter.rogue", "model.prompts", "section.key"}
"""A mistake made on purpose, an attribute of a stand-in, and a placeholder."""
FILES = {"py", "md", "toml", "json", "jsonl"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page):
    text = page.read_text(encoding="utf-8")
    if not text.strip():
        pytest.skip(f"{page.name} is still empty")
    return text


def blocks(text):
    """The fenced blocks of a page: line, language, content."""
    for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text.count("\n", 0, found.start(2)) + 1, found[1].strip(), found[2]


def prose(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def shell(text):
    """The `isara` commands of the fenced blocks, as words, in order."""
    lines = [
        line for _, language, block in blocks(text) if language in ("", "sh", "bash") for line in block.split("\n")
    ]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("isara ")]


def table(page, heading):
    """The rows under a table's heading, as cells."""
    _, found, rest = text_of(page).partition(f"| {heading}")
    assert found, f"{page.name} has no table that begins with '{heading}'"
    rows = rest.split("\n\n")[0].split("\n")[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def slug(heading):
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@each_page
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@each_page
def test_every_setting_named_exists(page):
    pattern = rf"(?<![\w./\-])({'|'.join(SECTIONS)})\.([a-z_]\w*)(?!\w*\()"
    for section, key in re.findall(pattern, text_of(page)):
        name = f"{section}.{key}"
        assert name in SETTINGS or name in NO_SETTINGS or key in FILES, f"{page.name}: no setting {name}"


@each_page
def test_every_default_named_is_the_default(page):
    for name, default in re.findall(r"`([a-z_.]+)`\s+\(default\s+`([^`]+)`\)", text_of(page)):
        assert json.loads(default) == SETTINGS[name].default, f"{page.name}: {name}"


def test_the_page_on_the_paper_names_the_default_of_each_step():
    assert len(re.findall(r"`[a-z_.]+`\s+\(default\s+`", text_of(PAPER))) > 30


def changes_in(page):
    """The changes of settings that a page's commands make."""
    found = re.findall(r"--set ([a-z_.]+=[^\s`|\"]+)", text_of(page))
    return [change for change in found if not change.startswith("section.key")]


@each_page
def test_every_change_of_a_setting_is_accepted(page):
    settings = load(None, changes_in(page))
    for name in {change.partition("=")[0] for change in changes_in(page)}:
        assert operator.attrgetter(name)(settings) is not None, f"{page.name}: {name}"


def settings_files_in(page):
    """The settings files that a page shows."""
    return [block for _, language, block in blocks(text_of(page)) if language == "toml"]


@each_page
def test_every_settings_file_shown_is_accepted(page, tmp_path):
    for block in settings_files_in(page):
        (tmp_path / "isara.toml").write_text(block, encoding="utf-8")
        reads = load_study if "[arms]" in block else load
        assert reads(tmp_path / "isara.toml") is not None


def test_pages_show_changes_and_settings_files():
    assert sum(len(changes_in(page)) for page in PAGES) > 10
    assert sum(len(settings_files_in(page)) for page in PAGES) > 1


@each_page
def test_every_sample_shown_can_be_read(page, tmp_path):
    for _, language, block in blocks(text_of(page)):
        if language == "json":
            (tmp_path / "seeds.jsonl").write_text(block, encoding="utf-8")
            assert len(read_seeds(tmp_path / "seeds.jsonl")) == block.count("\n")


@each_page
def test_every_command_and_option_exists(page):
    group = get_command(app)
    text = text_of(page)
    spans = [" ".join(span.split()) for span in re.findall(r"`(isara [^`]+)`", prose(text))]
    for words in [*shell(text), *map(shlex.split, spans)]:
        if words[1].startswith("-"):
            assert words[1] in ("--help", "-h"), words
            continue
        assert words[1] in group.commands, words
        command = group.commands[words[1]]
        if isinstance(command, type(group)):
            assert words[2] in command.commands, words
            command = command.commands[words[2]]
        known = {name for option in command.params for name in option.opts} | {"--help", "-h"}
        assert {word.partition("=")[0] for word in words[2:] if word.startswith("-")} <= known, words


@each_page
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = text_of(page)
    named = re.findall(r"`make ([a-z-]+)", text)
    named += [word for _, _, block in blocks(text) for word in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)]
    assert set(named) <= targets


@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE], ids=lambda page: page.name)
def test_the_commands_run_in_their_order(page, small, isara, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, part in (("seeds", slice(18)), ("heldout", slice(18, 24)), ("test", slice(24, None))):
        lines = "".join(json.dumps(record) + "\n" for record in small.records[part])
        Path(f"{name}.jsonl").write_text(lines, encoding="utf-8")
    ran = []
    for words in shell(text_of(page)):
        if not files_exist(words):
            continue
        ended = isara(*with_stand_in(words[1:], small))
        if words[1] == "export":
            assert "The scripted stand-in has no weights to export." in ended.err
            continue
        assert ended.code == 0, (words, ended.err)
        ran.append(words[1])
    assert {"init", "check", "run", "report"} <= set(ran)
    assert page != GUIDE or {"status", "replay", "lineage"} <= set(ran)


def files_exist(words):
    """Whether the files that a command is to read are there; what it writes need not be."""
    if words[1] == "init":
        return True
    named = [words[2], *(words[place + 1] for place, word in enumerate(words) if word in ("--heldout", "--test"))]
    return all(name in SHIPPED or Path(name).exists() for name in named)


def with_stand_in(words, small):
    """A command with the stand-in for its model, and for a run the settings of a quick one."""
    if words[0] not in ("check", "run"):
        return words
    if "--model" in words:
        place = words.index("--model")
        words = [*words[:place], *words[place + 2 :]]
    return [*words, *(small.flags if words[0] == "run" else ["--model", "scripted"])]


def test_the_python_page_runs_and_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed, compared = {"__name__": "page"}, None, 0
    for line, language, block in blocks(text_of(PYTHON)):
        if language == "python":
            assert not printed, f"python.md:{line}: nothing stands under the block before, which printed {printed!r}"
            # The empty lines make a traceback point into the page.
            code = compile("\n" * (line - 1) + block, str(PYTHON), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, names)
            printed = out.getvalue()
        elif language == "text":
            assert printed == block, f"python.md:{line}"
            printed, compared = None, compared + 1
    assert not printed
    assert compared >= 10


def test_what_a_changed_setting_makes_stale_is_as_the_table_says():
    arms = {"nothing": None, "the rounds": "round-1", "everything": "base"}
    said = {}
    for what, again in table(DESIGN, "what differs"):
        arm = arms.get(again, "seeds-only")
        said |= {name.strip("[]"): arm for name in re.findall(r"`([^`]+)`", what)}
    assert set(said.values()) == {None, "round-1", "seeds-only"}
    settings = Settings().model_dump(mode="json")
    same = {"model": {}, "embedder": {}, "inputs": {}}
    for name in SETTINGS:
        section, _, key = name.rpartition(".")
        changed = settings | ({section: settings[section] | {key: "other"}} if section else {key: "other"})
        _, first = manifest.stale(same | {"settings": settings}, same | {"settings": changed})
        assert first == said.get(name, said.get(section, "base")), name


def test_the_kinds_of_arms_are_those_of_a_study():
    assert [row[0].strip("`") for row in table(GUIDE, "kind | what")] == list(OVERRIDES)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_file_of_settings_that_ships_is_accepted(path):
    if path.stem == "demo":
        load(path)
    else:
        study = load_study(path)
        assert study.chosen.against in study.chosen.arms


def test_the_page_of_evidence_is_what_its_numbers_make(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    from evidence import page

    assert (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8") == page(ROOT / "docs" / "evidence")


def test_the_rules_are_those_of_the_filter():
    rows = table(GUIDE, "rule | drops")
    assert tuple(row[0].strip("`") for row in rows) == FUNNEL


@pytest.mark.parametrize("page", [GUIDE, PYTHON], ids=lambda page: page.name)
def test_the_exit_codes_are_those_of_the_errors(page):
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    if page == GUIDE:
        assert {int(row[0]) for row in table(GUIDE, "exit code")} == codes | {0, 1, 130}
    else:
        said = {row[0].strip("`"): int(row[1]) for row in table(PYTHON, "error | exit code")}
        assert {name: vars(errors)[name].exit_code for name in said} == said
        assert set(said.values()) == codes - {1}


def test_the_sizes_in_the_guide_are_computed():
    for samples, held, left, effect in (map(float, row) for row in table(GUIDE, "samples in the file")):
        assert held == held_out(int(samples), SplitSettings())
        assert left == samples - held
        spread = np.linspace(-1, 1, int(held))
        found = stats.compare(spread / np.std(spread, ddof=1), np.zeros(int(held))).smallest_effect
        assert math.isclose(found, effect, abs_tol=0.005)


def test_the_changelog_begins_with_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    first, *lines = re.findall(r"^(?:## |- )(.*)$", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert first.startswith(version)
    assert [line for line in lines if len(line.split()) > 26] == []
