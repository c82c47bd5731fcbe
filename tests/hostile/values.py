"""Settings, names and options that nobody should give: what is said to each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """Words of a command after `isara run SEEDS --model scripted --out OUT`, or a TOML file, and what is said."""

    name: str
    words: tuple[str, ...]
    refused: str
    toml: str | bytes = ""
    code: int = 2


def put(name: str, value: str, refused: str) -> Value:
    """A value for `--set`."""
    return Value(f"{name}={value[:40]!r}", ("--set", f"{name}={value}"), refused)


def file(name: str, toml: str | bytes, refused: str) -> Value:
    return Value(name, (), refused, toml)


SETS = (
    put("rounds", "-1", "rounds: expected a whole number from 0 to 100, found -1"),
    put("rounds", "101", "found 101"),
    put("rounds", "1e999", "found inf (not a finite number)"),
    put("rounds", "nan", "found nan (not a finite number)"),
    put("rounds", "-inf", "found -inf (not a finite number)"),
    put("rounds", "2.0", "found 2.0"),
    put("rounds", "true", "found true"),
    put("rounds", '"2"', 'found "2"'),
    put("rounds", "1" + "0" * 400, "found a whole number of about 401 digits"),
    put("rounds", "9" * 5000, 'found "9999'),
    put("rounds", "[1]", "found a list"),
    put("rounds", "{a = 1}", "found a table"),
    put("rounds", "0x10000000000000000", "about 20 digits"),
    put("rounds", "1979-05-27", "found 1979-05-27"),
    put("rounds", "\ud800", "found"),
    put("rounds", "\x1b[2J", "found"),
    put("rounds", "%s%n{0}", 'found "%s%n{0}"'),
    put("seed", "-1", "found -1"),
    put("seed", str(2**31), "at most 2147483647|from 0 to 2147483647"),
    put("seed", str(10**400), "about 401 digits"),
    put("target.accepted", str(10**9), "target.accepted: expected a whole number from 1 to 100000"),
    put("target.accepted", "0", "found 0"),
    put("target.batch", str(10**9), "target.batch: expected a whole number from 1 to 10000"),
    put("target.budget", "1e308", "found 1e+308"),
    put("target.budget", "inf", "not a finite number"),
    put("target.budget", "0.5", "found 0.5"),
    put("target.parse_floor", "2", "found 2"),
    put("split.heldout", "1", "found 1"),
    put("split.heldout", "nan", "not a finite number"),
    put("split.heldout", "-0.0", "found -0.0"),
    put("split.least", str(10**6), "samples are too few"),
    put("split.least", "-9", "found -9"),
    put("split.least", str(2**63), "about 20 digits"),
    put("questions.temperature", "1e308", "found 1e+308"),
    put("questions.temperature", "-1", "found -1"),
    put("questions.top_p", "0", "found 0"),
    put("questions.top_p", "1e-999", "found 0.0"),
    put("questions.max_tokens", str(10**9), "questions.max_tokens: expected a whole number from 4 to 32768"),
    put("questions.demonstrations", "65", "found 65"),
    put("questions.neighbourhood", "0", "found 0"),
    put("questions.style", "'../../x'", 'found "../../x"'),
    put("answers.max_tokens", str(2**40), "expected a whole number from 4 to 32768"),
    put("answers.demonstrations", "-1", "found -1"),
    put("filter.rouge", "0", "found 0"),
    put("filter.rouge", "1.0000001", "found 1.0000001"),
    put("filter.cosine", "inf", "not a finite number"),
    put("filter.confidence", "1e308", "at most 1000000000"),
    put("filter.confidence", "-1", "found -1"),
    put("filter.gain", "-1e308", "at most 1000000000"),
    put("filter.question_words_min", str(10**9 + 1), "at most 1000000000"),
    put("train.rank", "0", "found 0"),
    put("train.rank", str(10**9), "train.rank: expected a whole number from 1 to 4096"),
    put("train.batch", str(10**9), "train.batch: expected a whole number from 1 to 4096"),
    put("train.epochs", "1e9", "train.epochs: expected a number above 0 and at most 1000"),
    put("train.epochs", "nan", "not a finite number"),
    put("train.learning_rate", "1e308", "train.learning_rate: expected a number above 0 and at most 1,"),
    put("train.learning_rate", "0", "found 0"),
    put("train.alpha", "1e400", "not a finite number"),
    put("train.max_tokens", str(10**9), "train.max_tokens: expected a whole number from 16 to 131072"),
    put("train.checks", str(10**9), "train.checks: expected a whole number from 1 to 1000"),
    put("train.method", "pickle", 'found "pickle"'),
    put("gate.confidence", "1", "found 1"),
    put("gate.confidence", "0.5", "found 0.5"),
    put("gate.patience", "0", "found 0"),
    put("gate.min_gain", "-1e-300", "found -1e-300"),
    put("model.batch_tokens", "1", "found 1"),
    put("model.batch_tokens", str(10**9), "model.batch_tokens: expected a whole number from 64 to 16777216"),
    put("model", "x", "model is a section"),
    put("model.__class__", "x", "no such setting"),
    put("__proto__.x", "1", "no such setting"),
    put(".", "1", "no such setting|expected section.key=value"),
    put("a" * 100_000, "1", "no such setting"),
    put(".".join("a" * 5000), "1", "no such setting"),
    put("rounds\x1b[2J", "1", "no such setting"),
    Value("no equals sign", ("--set", "rounds"), "expected section.key=value"),
    Value("nothing", ("--set", ""), "expected section.key=value"),
    Value("an equals sign alone", ("--set", "="), "expected section.key=value"),
    Value("a line after the value", ("--set", "rounds=1\nseed=2"), "rounds: expected"),
    Value("an option that is no number", ("--rounds", "1e3"), "unable to parse string as an integer"),
    Value("an option of 400 digits", ("--rounds", "1" + "0" * 400), "about 401 digits"),
    Value("an option below none", ("--seed", "-5"), "found -5"),
    Value("an option that steers the terminal", ("--rounds", "\x1b[2J"), "unable to parse string as an integer"),
    Value("two fields of one name", ("--question-field", "x", "--answer-field", "x"), "Name two fields"),
    Value("a field of formatting", ("--question-field", "{0.__class__}%s"), r"no '{0.__class__}%s' here"),
    Value("a field that steers the terminal", ("--answer-field", "\x1b[2J"), "no '\\x1b[2J' here"),
    Value("a field of half a character", ("--answer-field", "\udcff"), "no '\\udcff' here"),
    Value("an empty field", ("--answer-field", ""), "no '' here"),
    Value("a held-out file of zeros", ("--heldout", "/dev/zero"), "a device and not a plain file"),
    Value("a test file that is not there", ("--test", "../../../nowhere\x1b[2J"), "no such file|no folder"),
    Value("settings without end", ("--config", "/dev/zero"), "a device and not a plain file"),
    Value("settings that are a folder", ("--config", "/"), "a folder and not a plain file"),
    Value("settings of a name too long", ("--config", "a" * 5000), "cannot be read"),
    Value("settings of a name that steers", ("--config", "\x1b[2J"), "\\x1b[2J: cannot be read"),
    Value("an engine that is not", ("--engine", "../x"), 'found "../x"'),
    Value("a run with a name too long", ("--out", "b" * 5000), "File name too long", code=3),
    Value("a run in a device", ("--out", "/dev/null"), "cannot hold a run", code=3),
    Value("a run beneath a file", ("--out", "/dev/null/x"), "cannot hold a run", code=3),
    Value("a run in a place of the system", ("--out", "/proc/x"), "cannot hold a run", code=3),
    Value("a model in a device", ("--model", "/dev/zero"), "no folder '/dev/zero' here", code=5),
    Value("a model with a name too long", ("--model", "a" * 5000), "no folder", code=5),
    Value("a model that steers the terminal", ("--model", "\x1b[2J"), "no folder '\\x1b[2J' here", code=5),
    Value("a model of half a character", ("--model", "\udcff"), "model.name", code=5),
    Value("a model of two dots", ("--model", "../.."), "no tokenizer that transformers can load here", code=5),
    Value("a model with a NUL", ("--model", "a\0b"), "no folder", code=5),
    Value("no model", ("--model", ""), "no folder", code=5),
)

FILES = (
    file("not a number", "rounds = nan", "not a finite number"),
    file("infinity", "[filter]\nconfidence = inf", "s.toml:2: filter.confidence: expected"),
    file("beyond floating point", "[filter]\nconfidence = 1e999", "not a finite number"),
    file("401 digits", f"rounds = 1{'0' * 400}", "about 401 digits"),
    file("5000 digits", f"rounds = {'9' * 5000}", "a number has thousands of digits"),
    file("the same key twice", "rounds = 1\nrounds = 2", "s.toml:2:11: not valid TOML: cannot overwrite a value"),
    file("the same table twice", "[model]\n[model]", "not valid TOML: cannot declare model twice"),
    file("a table over a value", "model = 3\n[model.x]", "not valid TOML"),
    file("a thousand lists", f"x = {'[' * 1000}", "not valid TOML|nested too deeply"),
    file("a hundred thousand lists", f"x = {'[' * 100_000}{']' * 100_000}", "nested too deeply"),
    file("a hundred thousand tables", f"x = {'{a=' * 100_000}1{'}' * 100_000}", "nested too deeply"),
    file("a key of ten thousand parts", ".".join("a" * 10_000) + " = 1", "nested too deeply"),
    file("a NUL byte", b"rounds = 1\0", "not valid TOML"),
    file("an escape character", "rounds = 1 \x1b[2J", "not valid TOML"),
    file("a byte order mark twice", b"\xef\xbb\xbf\xef\xbb\xbfrounds = 1", "not valid TOML"),
    file("UTF-16", "rounds = 1".encode("utf-16"), "this is not UTF-8 text"),
    file("UTF-32", "rounds = 1".encode("utf-32"), "not UTF-8 text|not valid TOML"),
    file("Latin-1", "x = 'Köln'".encode("latin-1"), "s.toml:1: this is not UTF-8 text"),
    file("half a character", 'x = "\\ud800"', "not valid TOML"),
    file("JSON", '{"rounds": 1}', "not valid TOML"),
    file("YAML", "rounds: 1", "not valid TOML"),
    file("a marker of a merge", "<<<<<<< HEAD\nrounds = 1", "s.toml:1:1: not valid TOML"),
    file("a quote not closed", 'x = "', "not valid TOML"),
    file("a million letters", "x" * 1_000_000, "not valid TOML"),
    file("two megabytes", "#" * 2_000_000, "more than 1 MB"),
    file("names of Python", "__class__ = 1\n[__init__]\n__globals__ = 2", "no such setting"),
    file("a section as a list", "[[model]]\nname = 'x'", "model is a section, found a list"),
    file("a date", "rounds = 1979-05-27T07:32:00Z", "found 1979-05-27"),
    file("turned-around writing", "\u202ernds\u202c = 1", "not valid TOML"),
    file("a key in quotes that steers", '"\\u001b[2J" = 1', "\\x1b[2J: no such setting"),
)

LIGHT = tuple(case for case in (*SETS, *FILES) if case.code != 5)
HEAVY = tuple(case for case in SETS if case.code == 5)
"""Those that load the model libraries first."""
