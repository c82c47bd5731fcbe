"""
Which fields of a record hold its question and its answer, and what they say.

The names are those that people use already: question/answer, TruthfulQA's Question/Best Answer, TRL's
prompt/completion, prompt/response, Alpaca's instruction(+input)/output, and conversations of one exchange as
`messages` (role, content) or `conversations` (from, value). Case, spaces, underscores and hyphens do not matter.

Every function here raises SeedError with bare sentences; who knows the file puts the place in front.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from isara.errors import SeedError
from isara.values import kind_of, texts, visible

_PAIRS = (
    ("question", "answer"),
    ("question", "best answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
)
_CHATS = ("messages", "conversations")
_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "developer": "system",
}
MOST_SAMPLES = 10_000
"""Samples of one source; the loop is meant for 30 to 100, and every two of them are compared."""
_MOST_FIELDS = 1000
_LONGEST_NAME = 1000
"""Characters of a field's name by which it is known."""
_NAMES_SHOWN = 12
_NAME_LENGTH = 40


class Twice(dict[str, object]):
    """An object of a JSON text in which a key stands more than once, of which Python keeps the last."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.times = {key: count for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def keeping_count(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of a JSON text as a dictionary that knows which of its keys stand more than once."""
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else Twice(pairs)


class Row(NamedTuple):
    """A record as it was found."""

    number: int
    """Its line in the file, or its row in a table."""
    where: str
    """What stands before a message about it, such as `seeds.jsonl:7`."""
    record: object


@dataclass(frozen=True, slots=True)
class Rows:
    """The records of one source, and what could not be read as a record."""

    rows: list[Row]
    mistakes: list[tuple[int, str]] = field(default_factory=list)
    """Line or row, and the whole message."""
    heading: str = ""
    """Where the names of the fields stand when they are the same for all records."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The fields that a person named, in place of those that would be detected."""

    question: str | None = None
    answer: str | None = None
    also: tuple[str, ...] = ()
    """Further fields that matter, as rows are picked by them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a record keeps its question and its answer."""

    question: str
    answer: str | None
    """None where `question` holds the whole exchange, as a list of messages."""
    input: str | None = None
    """A field to join to the question where it is not empty."""


def may_hold(name: str, choice: Choice) -> bool:
    """Return whether a field of this name can matter; only such columns of a large table need decoding."""
    return _plain(name) in _known(choice)


@functools.cache
def _known(choice: Choice) -> frozenset[str]:
    known = {_plain(part) for pair in _PAIRS for part in pair} | {*_CHATS, "input"}
    named = (choice.question, choice.answer, *choice.also)
    return frozenset(known | {_plain(part) for part in named if part is not None})


def twice(record: Mapping[Any, object], choice: Choice) -> list[str]:
    """Return one sentence for each field that matters and stands more than once in an object."""
    times = record.times if isinstance(record, Twice) else {}
    return [f"'{key}' stands {times[key]} times here. Leave one." for key in times if may_hold(key, choice)]


def find_layout(names: Sequence[str], choice: Choice) -> Layout:
    """Return where a record with these fields keeps its question and answer; SeedError when none or several fit."""
    if len(names) > _MOST_FIELDS:
        raise SeedError([f"{len(names):,} fields here, and {_MOST_FIELDS:,} is the most. Leave the two that matter."])
    if choice.question is not None:
        question = _named(choice.question, names, "question_field")
        if choice.answer is not None:
            return Layout(question, _named(choice.answer, names, "answer_field"))
        if _plain(question) in _CHATS:
            return Layout(question, None)
        others = [name for name in names if name != question]
        return Layout(question, _only(_present(others, 1), names, "answer"))
    if choice.answer is not None:
        answer = _named(choice.answer, names, "answer_field")
        others = [name for name in names if name != answer]
        return _with_input(_only(_present(others, 0), names, "question"), answer, names)
    return _detect(names)


def exchange(record: Mapping[str, object], layout: Layout) -> tuple[str, str]:
    """
    Return the question and the answer of a record, stripped, each line ended by a plain newline.

    Raises SeedError with one sentence for each thing that is not text, is empty, or is no single exchange.
    """
    question = record[layout.question]
    if layout.answer is None:
        return _of_messages(question, f"'{layout.question}'")
    answer = record[layout.answer]
    if isinstance(question, list) and isinstance(answer, list):
        return _of_messages([*question, *answer], f"'{layout.question}' and '{layout.answer}'")
    more = record[layout.input] if layout.input is not None else None
    blank = more is None or (isinstance(more, str) and not visible(more))
    parts = [(f"'{layout.question}'", question), (f"'{layout.answer}'", answer)]
    first, last, *rest = texts(parts if blank else [*parts, (f"'{layout.input}'", more)])
    return "\n".join([first, *rest]), last


def not_too_many(count: int, name: str) -> None:
    """Raise SeedError where a source has more samples than are read; before they are, so that memory suffices."""
    if count > MOST_SAMPLES:
        raise SeedError([f"{name}: {count:,} samples or more, and {MOST_SAMPLES:,} is the most. Take a part of them."])


def repeated(names: Sequence[str], choice: Choice) -> list[str]:
    """Return one sentence for each column name that matters and stands more than once in a table."""
    return [
        f"{count} columns are called '{name}'. Rename or remove all but one."
        for name, count in Counter(names).items()
        if count > 1 and may_hold(name, choice)
    ]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name[:_LONGEST_NAME]).casefold()


def _found(names: Sequence[str]) -> str:
    shown = ", ".join(name[:_NAME_LENGTH] for name in names[:_NAMES_SHOWN]) or "nothing"
    more = len(names) - _NAMES_SHOWN
    return f"(found: {shown}{f' and {more} more' if more > 0 else ''})"


def _matching(wanted: str, names: Sequence[str]) -> list[str]:
    """Return the fields that go by a name; the exact spelling, where it is there, rules the others out."""
    if wanted in names:
        return [wanted]
    return [name for name in names if _plain(name) == _plain(wanted)]


def _named(wanted: str, names: Sequence[str], option: str) -> str:
    matches = _matching(wanted, names)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise SeedError([f"{_either(matches)} both match {option}='{wanted}'. Set {option} to the exact name of one."])
    raise SeedError([f"no '{wanted}' here {_found(names)}. Set {option} to one of the fields."])


def _present(names: Sequence[str], side: int) -> list[str]:
    wanted = dict.fromkeys(pair[side] for pair in _PAIRS)
    return [name for part in wanted for name in _matching(part, names)]


def _only(matches: list[str], names: Sequence[str], role: str) -> str:
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise SeedError([f"no {role} here {_found(names)}. Set {role}_field to the field that holds it."])
    raise SeedError([f"{_either(matches)} could each be the {role}. Set {role}_field to the one to use."])


def _either(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)


def _with_input(question: str, answer: str, names: Sequence[str]) -> Layout:
    inputs = _matching("input", names) if _plain(question) == "instruction" and _plain(answer) != "input" else []
    return Layout(question, answer, inputs[0] if inputs else None)


def _detect(names: Sequence[str]) -> Layout:
    fits = [
        _with_input(question, answer, names)
        for pair in _PAIRS
        for question in _matching(pair[0], names)
        for answer in _matching(pair[1], names)
    ]
    fits += [Layout(name, None) for part in _CHATS for name in _matching(part, names)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise SeedError([_nothing_fits(names)])
    chats = [fit.question for fit in fits if fit.answer is None]
    shown = " and ".join(f"'{fit.question}'" + (f" with '{fit.answer}'" if fit.answer else "") for fit in fits)
    alone = f", or question_field alone to '{chats[0]}'" if chats else ""
    which = "both" if len(fits) == 2 else "all"
    raise SeedError([f"{shown} {which} fit. Set question_field and answer_field to the two to use{alone}."])


def _nothing_fits(names: Sequence[str]) -> str:
    for side, role in ((0, "question"), (1, "answer")):
        here = _present(names, side)
        if not here:
            continue
        wanted = next(pair[1 - side] for pair in _PAIRS if _plain(pair[side]) == _plain(here[0]))
        missing = "answer" if role == "question" else "question"
        others = [name for name in names if name not in here and _plain(name) not in ("id", "input")]
        if not others:
            return f"no '{wanted}' here {_found(names)}. Add the {missing} as '{wanted}'."
        the_field = "the field" if len(others) == 1 else "the right field"
        option = "" if len(others) == 1 else f", or set {missing}_field"
        return f"no '{wanted}' here {_found(names)}. Rename {the_field} to '{wanted}'{option}."
    return (
        f"no question and no answer here {_found(names)}. "
        "Rename two fields to 'question' and 'answer', or set question_field and answer_field."
    )


def _of_messages(messages: object, where: str) -> tuple[str, str]:
    if not isinstance(messages, (list, tuple)):
        raise SeedError([f"{where} is {kind_of(messages)}. It must be a list of a user and an assistant message."])
    turns = [_message(message, f"message {number} of {where}") for number, message in enumerate(messages, start=1)]
    roles = [role for role, _ in turns]
    if "system" in roles:
        raise SeedError(
            [f"{where} has a system message, and isara uses no instructions. Remove it, or say it in the question."]
        )
    if roles == ["user", "assistant"]:
        question, answer = texts((f"the {role} message of {where}", content) for role, content in turns)
        return question, answer
    if roles.count("assistant") > 1 or roles.count("user") > 1:
        raise SeedError([f"{where} has {len(turns)} messages. Leave one question and one answer."])
    shown = ", then ".join(roles) or "nothing"
    raise SeedError([f"{where} has {shown}. It must have one user message, then one assistant message."])


def _message(message: object, where: str) -> tuple[str, object]:
    if not isinstance(message, Mapping):
        raise SeedError([f"{where} is {kind_of(message)}. It must be an object with 'role' and 'content'."])
    if isinstance(message, Twice):
        raise SeedError([f"{where}: '{key}' stands {times} times. Leave one." for key, times in message.times.items()])
    for name, content in (("role", "content"), ("from", "value")):
        if name in message and content in message:
            said = message[name]
            role = _ROLES.get(said.strip().casefold()) if isinstance(said, str) else None
            if role is None:
                raise SeedError([f"{where} has the {name} {_quoted(said)}. Only 'user' and 'assistant' can be used."])
            return role, message[content]
    names = [str(name) for name in message]
    raise SeedError([f"{where} has no 'role' and 'content' {_found(names)}. Name them so."])


def _quoted(value: object) -> str:
    return f"'{value[:40]}'" if isinstance(value, str) else f"that is {kind_of(value)}"
