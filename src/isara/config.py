"""Settings from a TOML file and from `--set`; every mistake explained at once, and every setting documented."""

from __future__ import annotations

import copy
import difflib
import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isara.errors import RunError, SettingsError
from isara.rawfiles import MOST_SETTINGS, read_plain
from isara.settings import Settings
from isara.tomllines import setting_lines, toml_table
from isara.values import printable, told, toml

LARGEST = 10**9
"""No setting without a limit of its own goes beyond this."""
_Order = tuple[bool, int, str]


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What there is to know about one setting."""

    name: str
    """Dotted, as in `filter.rouge`; a setting of no section has no dot."""
    default: Any
    type: str
    """What it takes, in words: `a number above 0 and at most 1`."""
    sentence: str


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs between two dumps; None stands for one that is not there."""

    name: str
    old: Any
    new: Any


def load(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Return the settings of a TOML file with `section.key=value` overrides on top; None stands for an empty file.

    Raises SettingsError with one line for each mistake found, the file's in its own order first.
    """
    text, table, lines = "", {}, []
    if path is not None:
        text = _text_of(path)
        try:
            table = toml_table(text)
        except (ValueError, RecursionError) as error:
            lines.append(_syntax(path, text, error))
    overridden, unreadable = _override(table, overrides)
    where = _places(path, text, overridden)
    settings, wrong = _validated(table)
    lines += [line for _, line in sorted(where(name, words) for name, words in wrong.items())] + unreadable
    if settings is None or lines:
        raise SettingsError("\n".join(lines))
    return settings


def load_over(recorded: Mapping[str, Any], overrides: Sequence[str]) -> Settings:
    """Return recorded settings with `section.key=value` overrides on top; raises SettingsError as `load` does."""
    table = copy.deepcopy(dict(recorded))
    _, lines = _override(table, overrides)
    settings, wrong = _validated(_without_none(table))
    lines = [f"--set: {printable(name)}: {words}" for name, words in wrong.items()] + lines
    if settings is None or lines:
        raise SettingsError("\n".join(lines))
    return settings


def recorded(table: Mapping[str, Any], path: Path) -> Settings:
    """Return the settings that the manifest at `path` records; raises RunError where they are none of this version."""
    settings, wrong = _validated(_without_none(table))
    if settings is None or wrong:
        raise RunError("\n".join(f"{path}: settings.{printable(name)}: {words}" for name, words in wrong.items()))
    return settings


def _without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table without the values that TOML cannot say; they are the defaults."""
    return {
        name: _without_none(value) if isinstance(value, Mapping) else value
        for name, value in table.items()
        if value is not None
    }


def reference() -> list[SettingInfo]:
    """Return every setting, those of no section first, then section by section."""
    return [
        SettingInfo(
            name=f"{section}.{key}" if section else key,
            default=field["default"],
            type=_expected(field),
            sentence=" ".join(field["description"].split()),
        )
        for section, (_, fields) in _sections().items()
        for key, field in fields.items()
    ]


def starter(settings: Settings = Settings()) -> str:  # noqa: B008  (immutable)
    """Return a complete TOML file: every setting, under the sentence that explains it. Loads back to `settings`."""
    values = settings.model_dump()
    lines = ["# Settings of an isara run: every one there is, and what it does."]
    for section, (sentence, fields) in _sections().items():
        lines += ["", *_comment(sentence), f"[{section}]"] if section else []
        for key, field in fields.items():
            value = values[section][key] if section else values[key]
            lines += ["", *_comment(field["description"])]
            lines.append(f'# {key} = "..."' if value is None else f"{key} = {toml(value)}")
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """Return the reference page of the settings."""
    lines = [
        "# Settings",
        "",
        "Generated from the docstrings in `src/isara/settings.py` by `isara.config.as_markdown`; edit them there.",
        "",
        "A TOML file sets what differs from the defaults, and `--set section.key=value` changes it for one run.",
    ]
    infos = {info.name: info for info in reference()}
    for section, (sentence, fields) in _sections().items():
        lines += ["", f"## `[{section}]`" if section else "## Above the first section", "", " ".join(sentence.split())]
        lines += ["", "| setting | default | takes | what it does |", "| --- | --- | --- | --- |"]
        for key in fields:
            info = infos[f"{section}.{key}" if section else key]
            default = "" if info.default is None else f"`{toml(info.default)}`"
            cells = (f"`{info.name}`", default, info.type, info.sentence)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two dumps of settings, by dotted name."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    names = list(before) + [name for name in after if name not in before]
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


@functools.cache
def _sections() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each section's sentence and the JSON schema of its fields; `""` holds the fields of no section."""
    schema = Settings.model_json_schema()
    sections: dict[str, tuple[str, dict[str, Any]]] = {"": (schema["description"], {})}
    for key, field in schema["properties"].items():
        if "$ref" in field:
            section = schema["$defs"][field["$ref"].rpartition("/")[2]]
            sections[key] = (section["description"], section["properties"])
        else:
            sections[""][1][key] = field
    return sections


def _expected(field: Mapping[str, Any]) -> str:
    """Return what a field takes, in words, from its JSON schema."""
    if "anyOf" in field:
        kinds = [_expected(kind) for kind in field["anyOf"] if kind["type"] != "null"]
        return " or ".join(kinds) + ", or left out"
    if "enum" in field:
        return _alternatives([toml(value) for value in field["enum"]])
    noun = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(field["type"], "text")
    least, above = field.get("minimum"), field.get("exclusiveMinimum")
    most, below = field.get("maximum"), field.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{noun} from {least} to {most}"
    bounds = (("of at least", least), ("above", above), ("at most", most), ("below", below))
    limits = [f"{word} {bound}" for word, bound in bounds if bound is not None]
    return " ".join([noun, " and ".join(limits)]).strip()


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _comment(sentence: str) -> list[str]:
    wrapped = textwrap.wrap(" ".join(sentence.split()), width=86, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < 9:  # nothing we know is nested deeper
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text_of(path: Path) -> str:
    try:
        return (content := read_plain(path, MOST_SETTINGS)).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}:{line}: this is not UTF-8 text. Save the file as UTF-8.") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SettingsError(f"{path}: cannot be read ({why}). Check the path and its permissions.") from error


def _syntax(path: Path, text: str, error: Exception) -> str:
    """Return a sentence for what `tomllib` could not read, with line and column."""
    if isinstance(error, RecursionError):
        return f"{path}: nested too deeply."
    words, _, place = str(error).partition(" (at ")
    position = re.fullmatch(r"line (\d+), column (\d+)\)", place)
    if position is not None:
        line, column = position.groups()
    elif place:
        line, column = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
    else:
        return f"{path}: a number has thousands of digits."
    # tomllib names a table as a Python tuple
    words = re.sub(r"\(('[^)]*),?\)", lambda found: found[1].replace("', '", ".").strip("',"), words)
    hint = ' Text stands in quotes: name = "text".' if words == "Invalid value" else ""
    return f"{path}:{line}:{column}: not valid TOML: {words[:1].lower()}{words[1:]}.{hint}"


def _override(table: dict[str, Any], overrides: Sequence[str]) -> tuple[set[str], list[str]]:
    """Put each `name=value` into `table`; return the names that were set, and a line for each that is none."""
    texts = {info.name for info in reference() if info.type.startswith("text")}
    sections = set(_sections())
    names: set[str] = set()
    mistakes = []
    for override in overrides:
        name, equals, written = (part.strip() for part in override.partition("="))
        if not (name and equals and written):
            mistakes.append(f"--set: expected section.key=value, found {told(override)}.")
            continue
        value = _literal(written)
        if name in texts and not isinstance(value, str):
            value = written  # a commit such as 12e4567 is text, whatever else it looks like
        leaves = _leaves({name: value})
        names |= {leaf for leaf, part in leaves if _put(table, leaf.split("."), part, sections)}
    return names, mistakes


def _literal(written: str) -> Any:
    try:
        parsed = toml_table(f"value = {written}")
    except (ValueError, RecursionError):
        return written
    return parsed["value"] if len(parsed) == 1 else written


def _put(table: dict[str, Any], parts: Sequence[str], value: Any, sections: set[str]) -> bool:
    """Set a value inside nested tables; False where a value stands in place of a section."""
    for depth, part in enumerate(parts[:-1]):
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            if depth == 0 and part in sections:
                return False  # the file says `filter = 3`: that mistake is reported, and must not be covered up
            inner = table[part] = {}
        table = inner
    table[parts[-1]] = value
    return True


def _places(path: Path | None, text: str, overridden: set[str]) -> Callable[[str, str], tuple[_Order, str]]:
    """Return a function that gives the order of a mistake, and its line of the message, from name and words."""
    lines = setting_lines(text)

    def where(name: str, words: str) -> tuple[_Order, str]:
        by_hand = path is None or any(f"{given}.".startswith(f"{name}.") for given in overridden)
        owner = name
        while owner and owner not in lines:
            owner = owner.rpartition(".")[0]
        line = lines.get(owner, 0)
        place = "--set" if by_hand else f"{path}:{line}" if line else f"{path}"
        return (by_hand, line, name), f"{place}: {printable(name)}: {words}"

    return where


def _validated(table: Mapping[str, Any]) -> tuple[Settings | None, dict[str, str]]:
    """Return the settings, or None and what is wrong with each of them."""
    expected = {info.name: info.type for info in reference()}
    settings, wrong = None, dict[str, str]()
    try:
        # strict: 3.0 or "3" is not taken for 3, nor true for 1
        settings = Settings.model_validate(table, strict=True)
    except ValidationError as errors:
        for error in errors.errors(include_url=False, include_context=False):
            name, value = ".".join(str(part) for part in error["loc"]), error["input"]
            if error["type"] == "extra_forbidden":
                wrong |= {leaf: _unknown(leaf, expected) for leaf, _ in _leaves({name: value})}
            elif name in expected:
                wrong[name] = f"expected {expected[name]}, found {told(value)}."
            else:
                wrong[name] = f"{name} is a section, found {told(value)}. Write [{name}] and its settings under it."
    for name, value in _leaves(table):
        if name in expected and name not in wrong and isinstance(value, int | float) and abs(value) > LARGEST:
            wrong[name] = f"expected {expected[name]}, and at most {LARGEST}, found {told(value)}."
    return settings, wrong


def _unknown(name: str, known: Mapping[str, str]) -> str:
    """Return a sentence for a name that is no setting, with the ones that may be meant."""
    asked = name.lower().replace("-", "_")
    bare = {full: full.rpartition(".")[2] for full in known}
    last = asked.rpartition(".")[2]
    alike = difflib.get_close_matches(last, list(bare.values()), n=1, cutoff=0.75)
    meant = (
        difflib.get_close_matches(asked, list(known), n=1, cutoff=0.85)
        or [full for full in known if bare[full] == last]
        or [full for full in known if bare[full] in alike]
    )
    if meant:
        above = " (above the first section)" if "." in name and meant == [bare[meant[0]]] else ""
        return f"no such setting. Did you mean {_alternatives(meant)}{above}?"
    section = name.partition(".")[0]
    inside = [bare[full] for full in known if full.startswith(f"{section}.")]
    if inside:
        return f"no such setting. [{section}] has {', '.join(inside)}."
    return f"no such setting. The sections are {', '.join(name for name in _sections() if name)}."
