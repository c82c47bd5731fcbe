"""Demonstrations as a prompt, and a completion as a question or an answer. No instruction is ever added."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isara.protocols import Chat, Prompt, Role, Turn
from isara.samples import Sample

Style = Literal["text", "chat"]


@dataclass(frozen=True, slots=True)
class Separators:
    """What stands before a question and before an answer in plain few-shot text."""

    question: str
    answer: str


SEPARATORS = (Separators("Question:", "Answer:"), Separators("Q:", "A:"), Separators("Ask:", "Reply:"))
"""Tried in this order: the next when too little of what the first one brings can be read."""


def for_question(demonstrations: Sequence[Sample], style: Style, separators: Separators) -> Prompt:
    """Return a prompt that leaves the model to write one more question like those of the demonstrations."""
    if style == "chat":
        return Chat(exchanges(demonstrations), opens="user")
    lines = [f"{separators.question} {one_line(sample.question)}" for sample in demonstrations]
    return "\n".join([*lines, separators.question])


def for_answer(question: str, demonstrations: Sequence[Sample], style: Style, separators: Separators) -> Prompt:
    """Return a prompt that leaves the model to answer, the demonstrations in the order given."""
    if style == "chat":
        return Chat((*exchanges(demonstrations), Turn("user", question)))
    shown = [
        f"{separators.question} {one_line(sample.question)}\n{separators.answer} {sample.answer}\n\n"
        for sample in demonstrations
    ]
    return "".join(shown) + f"{separators.question} {one_line(question)}\n{separators.answer}"


def after(principles: str, prompt: Prompt) -> Prompt:
    """Return a plain-text prompt after written rules; as it is where there are none."""
    return f"{principles.strip()}\n\n{prompt}" if principles and isinstance(prompt, str) else prompt


def exchanges(demonstrations: Sequence[Sample]) -> tuple[Turn, ...]:
    """Return demonstrations as earlier turns of a conversation."""
    return tuple(
        turn for sample in demonstrations for turn in (Turn("user", sample.question), Turn("assistant", sample.answer))
    )


def question_stops(style: Style) -> tuple[str, ...]:
    """Return where a new question ends: with the line, in plain text."""
    return ("\n",) if style == "text" else ()


def answer_stops(style: Style, separators: Separators) -> tuple[str, ...]:
    """Return where an answer ends: where the next question would begin, in plain text."""
    return (f"\n{separators.question}", f"\n\n{separators.question}", "\n\n") if style == "text" else ()


def one_line(text: str) -> str:
    """Return text with its line breaks and runs of white space as single spaces."""
    return " ".join(text.split())


_LEAD = re.compile(
    r"^\s*(?:(?:question|q|ask|user)\s*\d*\s*[:.)]|\(?\d{1,3}\s*[.):](?!\d)|[-*•–]\s|#+\s)\s*",
    re.IGNORECASE,
)
_NEXT = re.compile(r"\b(?:Answer|Reply|A)\s*:", re.IGNORECASE)
_ANSWER_LEAD = re.compile(r"^(?:\s*(?:answer|a|reply|assistant)\s*:)+\s*", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n\s*(?:question|q|ask|user)\s*\d*\s*[:.)]", re.IGNORECASE)
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»"}


def parse_question(text: str) -> str | None:
    """
    Read a question out of a completion; None where there is none.

    Takes the first line that says something, without a repeated label, a number, a bullet or quotes around it,
    and without an answer that follows on the same line.
    """
    for line in text.splitlines():
        found = bared(line)
        if any(character.isalpha() for character in found):
            return found
    return None


def bared(line: str) -> str:
    """Return a line without the labels, numbers, bullets and quotes around it, and without an answer after it."""
    found = one_line(_NEXT.split(line, maxsplit=1)[0])
    # Until nothing changes, as a number may stand within the quotes, or quotes after the number.
    while (shorter := unquoted(_LEAD.sub("", found, count=1))) != found:
        found = shorter
    return found


def parse_answer(text: str) -> str | None:
    """Read an answer out of a completion, without a repeated label or a question after it; None where there is none."""
    found = _ANSWER_LEAD.sub("", _NEXT_QUESTION.split(text, maxsplit=1)[0], count=1).strip()
    return found if any(character.isalnum() for character in found) else None


def unquoted(text: str) -> str:
    """Return text without a pair of quotes around the whole of it."""
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        return text[1:-1].strip()
    return text


def as_messages(prompt: Prompt) -> str | list[dict[str, str]]:
    """Return a prompt for a file: text as it is, a conversation as a list of role and content."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "content": turn.text} for turn in prompt.turns]


def from_messages(written: str | Sequence[Mapping[str, Any]], opens: Role = "assistant") -> Prompt:
    """Return a prompt that `as_messages` wrote; who is to speak next is not in the file."""
    if isinstance(written, str):
        return written
    return Chat(tuple(Turn(message["role"], message["content"]) for message in written), opens)
