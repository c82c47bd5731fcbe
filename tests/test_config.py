from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara import config
from isara.config import Change
from isara.errors import SettingsError
from isara.settings import ModelSettings, Settings, TrainSettings

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write isara.toml here and return its path, relative as a person would give it."""
    monkeypatch.chdir(tmp_path)

    def write(content):
        path = Path("isara.toml")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def mistakes(path, *overrides):
    with pytest.raises(SettingsError) as caught:
        config.load(path, overrides)
    return str(caught.value).split("\n")


def test_no_file_and_no_overrides_give_the_defaults():
    assert config.load(None) == Settings()


def test_a_file_sets_what_it_names_and_leaves_the_rest(write):
    loaded = config.load(write('rounds = 3\n[train]\nmethod = "full"\nlearning_rate = 1\n'))
    assert loaded == Settings(rounds=3, train=TrainSettings(method="full", learning_rate=1.0))


def test_a_byte_order_mark_and_windows_newlines_are_fine(write):
    path = write(b"\xef\xbb\xbfrounds = 3\r\n[model]\r\nname = 'q'\r\n")
    assert config.load(path) == Settings(rounds=3, model=ModelSettings(name="q"))


def test_overrides_go_on_top_of_the_file_and_the_last_one_wins(write):
    path = write("rounds = 3\n[filter]\nrouge = 0.5\necho = 0.5\n")
    loaded = config.load(path, ["rounds=4", "filter.rouge=0.6", "filter.rouge = 0.65"])
    assert (loaded.rounds, loaded.filter.rouge, loaded.filter.echo) == (4, 0.65, 0.5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.name=org/model", "org/model"),
        ('model.name="two words"', "two words"),
        ("model.name=C:\\models", "C:\\models"),
        ("model.name=3", "3"),
        ("model.name=12e4567", "12e4567"),
        ("model.name=a=b", "a=b"),
        ("model={name='inline'}", "inline"),
        ("model.name=x\nrounds = 5", "x\nrounds = 5"),
    ],
)
def test_the_value_of_an_override_is_toml_or_else_text(override, expected):
    loaded = config.load(None, [override])
    assert loaded.model.name == expected
    assert loaded.rounds == Settings().rounds


def test_an_inline_table_changes_only_what_it_names():
    loaded = config.load(None, ["model.device=cpu", "model={name='x'}"])
    assert (loaded.model.name, loaded.model.device) == ("x", "cpu")


@pytest.mark.parametrize("override", ["rounds", "=3", "rounds=", "", "rounds 3"])
def test_an_override_without_name_or_value_is_a_mistake(override):
    (line,) = mistakes(None, override)
    assert line.startswith("--set: expected section.key=value, found ")


def test_every_mistake_is_told_at_once_in_the_order_of_the_file_then_of_the_overrides(write):
    path = write('rounds = "3"\n\n[filter]\ncosine = 0\nrouge = -1 # low\nbogus = 1\n[train]\nmethod = "qlora"\n')
    assert mistakes(path, "seed=1.5", "nonsense") == [
        'isara.toml:1: rounds: expected a whole number from 0 to 100, found "3".',
        "isara.toml:4: filter.cosine: expected a number above 0 and at most 1, found 0.",
        "isara.toml:5: filter.rouge: expected a number above 0 and at most 1, found -1.",
        "isara.toml:6: filter.bogus: no such setting. [filter] has "
        + ", ".join(info.name.partition(".")[2] for info in config.reference() if info.name.startswith("filter."))
        + ".",
        'isara.toml:8: train.method: expected "lora" or "full", found "qlora".',
        "--set: seed: expected a whole number from 0 to 2147483647, found 1.5.",
        '--set: expected section.key=value, found "nonsense".',
    ]


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("rounds = true", "expected a whole number from 0 to 100, found true."),
        ("rounds = 3.0", "expected a whole number from 0 to 100, found 3.0."),
        ("rounds = 1e99", "expected a whole number from 0 to 100, found 1e+99."),
        ("rounds = [1]", "expected a whole number from 0 to 100, found a list."),
        ("rounds.x = 1", "expected a whole number from 0 to 100, found a table."),
        ("rounds = 2030-01-02", "expected a whole number from 0 to 100, found 2030-01-02."),
        ("rounds = 1" + "0" * 400, "expected a whole number from 0 to 100, found a whole number of about 401 digits."),
        (
            "rounds = 0x" + "f" * 5000,
            "expected a whole number from 0 to 100, found a whole number of about 6021 digits.",
        ),
        ("seed = -1", "expected a whole number from 0 to 2147483647, found -1."),
        ("filter.gain = inf", "expected a number, found inf (not a finite number)."),
        ("filter.gain = nan", "expected a number, found nan (not a finite number)."),
        ("train.alpha = -inf", "expected a number above 0, found -inf (not a finite number)."),
        ("train.alpha = 1" + "0" * 400, "expected a number above 0, found a whole number of about 401 digits."),
        (
            "train.checkpoint = 2000000000",
            "expected a whole number of at least 1, and at most 1000000000, found 2000000000.",
        ),
        ("train.alpha = 1e300", "expected a number above 0, and at most 1000000000, found 1e+300."),
        ("model.name = 3", "expected text, found 3."),
        ("model.revision = 3", "expected text, or left out, found 3."),
        ("gate.confidence = 1", "expected a number above 0.5 and below 1, found 1."),
    ],
)
def test_a_wrong_value_says_what_was_expected_and_what_was_found(write, toml, words):
    name = toml.partition(" = ")[0].removesuffix(".x")
    assert mistakes(write(toml)) == [f"isara.toml:1: {name}: {words}"]


@pytest.mark.parametrize("toml", ["model = 3", 'model = "gpt"', "[[model]]\nname = 'x'"])
def test_a_section_that_is_not_a_table_is_called_a_section(write, toml):
    (line,) = mistakes(write(toml))
    assert line.startswith("isara.toml:1: model: model is a section, found ")
    assert line.endswith("Write [model] and its settings under it.")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("round", "rounds"),
        ("rouge", "filter.rouge"),
        ("filters.rouge", "filter.rouge"),
        ("filter.rogue", "filter.rouge"),
        ("Filter.Rouge", "filter.rouge"),
        ("train.learning-rate", "train.learning_rate"),
        ("question.temperature", "questions.temperature"),
        ("temperature", "questions.temperature or answers.temperature"),
        ("max_tokens", "questions.max_tokens, answers.max_tokens or train.max_tokens"),
        ("filter.rounds", "rounds (above the first section)"),
    ],
)
def test_an_unknown_setting_gets_the_full_name_of_what_may_be_meant(write, name, meant):
    assert mistakes(write(f"{name} = 1")) == [f"isara.toml:1: {name}: no such setting. Did you mean {meant}?"]
    assert mistakes(None, f"{name}=1") == [f"--set: {name}: no such setting. Did you mean {meant}?"]


def test_where_nothing_is_near_the_sections_are_listed(write):
    lines = mistakes(write("[retrieve]\nexamples = 5\n[nothing]\n"))
    sections = "model, server, split, questions, answers, target, filter, train, gate"
    assert lines == [
        f"isara.toml:2: retrieve.examples: no such setting. The sections are {sections}.",
        f"isara.toml:3: nothing: no such setting. The sections are {sections}.",
    ]


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('x = """\nrounds = -1\n"""\nrounds = -1', 4),
        ("# rounds = 1\n\n  rounds=-1", 3),
        ("\n'rounds' = -1", 2),
        ("[filter]\n[train]\nbatch = 0", 3),
        ("[filter]\n\ntrain = {rank = 1}\n[train] # here\n\nbatch = 0", 6),
        ('\n"train"."batch" = 0', 2),
        ("\ntrain = {rank = 1, batch = 0}", 2),
        ("[ train ]\nbatch = 0", 2),
    ],
)
def test_the_line_is_that_of_the_setting_itself(write, toml, line):
    lines = mistakes(write(toml))
    assert any(found.startswith((f"isara.toml:{line}: rounds:", f"isara.toml:{line}: train.batch:")) for found in lines)


def test_an_override_does_not_cover_up_a_mistake_in_the_file(write):
    (line,) = mistakes(write("filter = 3"), "filter.rouge=0.5")
    assert line.startswith("isara.toml:1: filter: filter is a section, found 3.")


def test_an_override_mends_a_wrong_value(write):
    assert config.load(write("rounds = -1"), ["rounds=1"]).rounds == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "rounds = 3\nx = smollm\n",
            'isara.toml:2:5: not valid TOML: invalid value. Text stands in quotes: name = "text".',
        ),
        ("[filter]\nrouge=0.1\n[filter]\n", "isara.toml:3:8: not valid TOML: cannot declare filter twice."),
        ('x = """\nabc', "isara.toml:2:4: not valid TOML: unterminated string."),
        ("x = " + "[" * 3000, "isara.toml: nested too deeply."),
        ("x = " + "9" * 5000, "isara.toml: a number has thousands of digits."),
        (b"rounds = 3\nname = '\xff'", "isara.toml:2: this is not UTF-8 text. Save the file as UTF-8."),
    ],
)
def test_a_file_that_is_no_toml_says_where(write, content, message):
    assert mistakes(write(content)) == [message]


def test_a_thousand_dots_are_too_deep(write):
    (line,) = mistakes(write(".".join("a" * 5000) + " = 1"))
    assert line.endswith("isara.toml: nested too deeply.")


def test_a_syntax_mistake_does_not_hide_those_of_the_overrides(write):
    lines = mistakes(write("rounds ="), "seed=-1")
    assert len(lines) == 2
    assert lines[1].startswith("--set: seed: ")


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    (line,) = mistakes(tmp_path / "none.toml")
    told = "cannot be read (No such file or directory). Check the path and its permissions."
    assert line == f"{tmp_path / 'none.toml'}: {told}"
    assert mistakes(tmp_path)[0].startswith(f"{tmp_path}: cannot be read (")


def test_messages_hold_no_control_characters_of_the_file(write):
    (first, second) = mistakes(write('"\\u001b[31m" = 1\ntrain.method = "\\u001b[2J\\u009b"\n'))
    assert (first + second).isprintable()
    assert r"\x1b[2J\x9b" in second


def test_a_long_value_is_cut_in_the_message(write):
    (line,) = mistakes(write(f'rounds = "{"x" * 5000}"'))
    assert len(line) < 200


def test_the_starter_file_loads_back_to_the_defaults(write):
    assert config.load(write(config.starter())) == Settings()


def test_the_starter_file_names_every_setting_under_its_sentence():
    text = config.starter()
    flat = " ".join(line.removeprefix("# ") for line in text.split("\n"))
    for info in config.reference():
        assert f"{info.sentence} " in flat
        assert f"{info.name.rpartition('.')[2]} = " in text
    assert '\n# revision = "..."\n' in text
    assert max(len(line) for line in text.split("\n") if line.startswith("#")) <= 88


@given(st.text(st.characters(codec="utf-8")), st.floats(1e-300, 1e9), st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_any_settings_survive_the_starter_file(name, alpha, seed):
    unusual = Settings(seed=seed, model=ModelSettings(name=name, revision=name), train=TrainSettings(alpha=alpha))
    table = tomllib.loads(config.starter(unusual))
    assert Settings.model_validate(table, strict=True) == unusual


def test_the_reference_has_every_setting_with_default_type_and_sentence():
    infos = {info.name: info for info in config.reference()}
    dumped = Settings().model_dump()
    leaves = {key: value for key, value in dumped.items() if not isinstance(value, dict)}
    leaves |= {
        f"{section}.{key}": value for section in dumped.keys() - leaves.keys() for key, value in dumped[section].items()
    }
    assert {name: info.default for name, info in infos.items()} == leaves
    assert all(info.sentence.endswith(".") and "\n" not in info.sentence for info in infos.values())
    assert infos["rounds"].type == "a whole number from 0 to 100"
    assert infos["model.revision"].type == "text, or left out"
    assert infos["train.start"].type == '"base", "seeds" or "previous"'
    assert infos["target.budget"].type == "a number from 1 to 1000"


def test_the_settings_page_is_current():
    current = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert current == config.as_markdown(), "write docs/settings.md anew from isara.config.as_markdown()"


def test_changes_are_the_dotted_names_that_differ():
    old = Settings().model_dump()
    new = Settings(rounds=5, train=TrainSettings(rank=8, alpha=32)).model_dump()
    assert config.changes(old, new) == [Change("rounds", 2, 5), Change("train.rank", 16, 8)]
    assert config.changes(old, old) == []


def test_changes_tell_of_settings_that_one_side_does_not_have():
    assert config.changes({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": 2}) == [
        Change("a.b", 1, None),
        Change("a.d", None, 3),
    ]


def test_recorded_settings_take_overrides_and_explain_mistakes_as_a_file_does():
    recorded = Settings(rounds=5).model_dump()
    loaded = config.load_over(recorded, ["filter.rouge=0.5"])
    assert (loaded.rounds, loaded.filter.rouge, loaded.model.revision) == (5, 0.5, None)
    assert recorded == Settings(rounds=5).model_dump()
    with pytest.raises(SettingsError, match=r"--set: filter\.rouge: expected a number above 0 and at most 1, found 2"):
        config.load_over(recorded, ["filter.rouge=2"])
