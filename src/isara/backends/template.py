"""
A prompt as tokens: the model's own chat template, taken apart so that each turn can be opened and closed.

Taken apart for three reasons. The next turn may be the user's, which templates do not offer. Many templates add a
system prompt of their own when none is given: tokens paid in every sample, and an instruction that nobody asked
for. And a sample that contains a marker such as `<|im_end|>` must not end a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from isara.errors import BackendError
from isara.protocols import Chat, Prompt, Role, Turn

Tokenizer = Any
"""A transformers tokenizer; its classes are not typed."""

_SPACES = ("\u0120", "\u2581")
"""How vocabularies write a space at the beginning of a token: that of bytes, and that of SentencePiece."""


@dataclass(frozen=True, slots=True)
class Template:
    """The fixed pieces of text around the turns of a conversation."""

    head: str
    """Before the first turn, such as a beginning-of-text marker; a default system prompt is not part of it."""
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str
    space: str = ""
    """What stands before the words of an answer; tokenizers make one token of it and the first word."""
    faithful: bool = True
    """Whether putting the pieces together gives what the model's own template gives, system prompt aside."""

    def pieces(self, chat: Chat) -> list[tuple[str, bool]]:
        """Return a conversation as (text, is content) pieces, the next turn left open."""
        pieces: list[tuple[str, bool]] = [(self.head, False)]
        for turn in chat.turns:
            opened, closed = self.around(turn.role)
            text = self.space + turn.text if turn.role == "assistant" else turn.text
            pieces += [(opened, False), (text, True), (closed, False)]
        return [*pieces, (self.around(chat.opens)[0], False)]

    def around(self, role: Role) -> tuple[str, str]:
        """Return what opens and what closes a turn of that role."""
        if role == "user":
            return self.user_open, self.user_close
        return self.assistant_open, self.assistant_close


PLAIN = Template("", "Question: ", "\n", "Answer: ", "\n\n")
"""For models without a chat template; the end of the answer is the model's end-of-text token."""


def chat_template(tokenizer: Tokenizer) -> Template | None:
    """
    Take a tokenizer's chat template apart; None where it has none.

    The pieces are read off three renderings with marker words. Where they do not add up to what the template
    itself renders, `faithful` is False, and `departures` says so to the reader.
    """
    if not tokenizer.chat_template:
        return None

    def render(turns: Sequence[Turn], *, go_on: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=go_on)
        return str(text)

    return take_apart(render, tokenizer.bos_token or "", tokenizer.eos_token or "")


def take_apart(render: Callable[..., str], bos: str = "", eos: str = "") -> Template:
    """Find the pieces of a template from what it renders; raises BackendError where turns cannot be told apart."""
    ask, reply, again = "isarauserone", "isaraassistantone", "isarausertwo"
    turns = (Turn("user", ask), Turn("assistant", reply), Turn("user", again))
    whole = render(turns)
    if not -1 < whole.find(ask) < whole.find(reply) < whole.find(again):
        raise BackendError(
            "model.name: the chat template does not show user and assistant turns in order. "
            "Set answers.style and questions.style to 'text'."
        )
    lead, rest = whole.split(ask, 1)
    between, rest = rest.split(reply, 1)
    boundary = rest.split(again, 1)[0]
    opened = render(turns[:1], go_on=True).split(ask, 1)[1]
    user_close = closing(render(turns[:1]).split(ask, 1)[1], opened, eos)
    # Some templates open the assistant's turn by themselves even when not asked to; then nothing closes the user's.
    user_close = "" if user_close == opened else user_close
    # Where the text's end also ends an answer, finished turns tend to be closed as the user's are.
    assistant_close = closing(render(turns[:2]).split(reply, 1)[1], boundary, eos) or closing(user_close, boundary, eos)
    user_open = boundary[len(assistant_close) :]
    # A finished turn shows how answers begin; the invitation to answer may add a thought, or leave out a space.
    known = between.startswith(user_close)
    shown = (between if known else opened)[len(user_close) :]
    assistant_open = shown.rstrip(" ")
    return Template(
        head=bos if bos and lead.startswith(bos) and not user_open.startswith(bos) else "",
        user_open=user_open,
        user_close=user_close,
        assistant_open=assistant_open,
        assistant_close=assistant_close,
        space=shown[len(assistant_open) :],
        faithful=lead.endswith(user_open) and known and opened.rstrip(" ") == user_close + assistant_open,
    )


def closing(tail: str, follows: str, eos: str) -> str:
    """Return what closes a turn: how the text ends after it, as far as that also stands before the next turn."""
    if follows.startswith(tail):
        return tail
    tail = tail.removesuffix(eos)
    return tail if follows.startswith(tail) else ""


class Encoder:
    """Turns prompts into token ids, the same way for generation, scoring and training."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.template = chat_template(tokenizer)
        self.markers = markers_of(tokenizer)
        self.end = end_of_turn(tokenizer, self.template)
        """The token that ends an answer: it closes the assistant's turn, or the text."""
        asked = self.template.user_close + self.template.assistant_open if self.template else ""
        self.user_ends = frozenset(marker_ids(tokenizer, asked)[:1])
        """The token that ends a question, where the template has one."""

    def prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt, its last turn open."""
        if isinstance(prompt, str):
            return self.start() + self.content(prompt) or self.nothing()
        template = self.template or PLAIN
        pieces = template.pieces(prompt)
        ids = self.start() if self.template is None else []
        whole = self.ids("".join(text for text, _ in pieces))
        if self.marks(whole) == sum(self.marks(self.ids(text)) for text, is_content in pieces if not is_content):
            return ids + whole
        for text, is_content in pieces:
            ids = ids + (self.content(text) if is_content else self.ids(text))
        return ids

    def completion(self, prompt: Prompt, completion: str) -> list[int]:
        """Return the ids of a completion as they follow that prompt, the end of the turn not included."""
        return self.content(self.spaced(prompt, completion))

    def pairs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[list[int], list[int]]]:
        """Return prompts and completions as ids."""
        return [(self.prompt(prompt), self.completion(prompt, completion)) for prompt, completion in pairs]

    def with_ends(
        self, pairs: Sequence[tuple[Prompt, str]], encoded: Sequence[tuple[list[int], list[int]]]
    ) -> list[tuple[list[int], list[int]]]:
        """Return pairs that are encoded already with the end of each answer, where it says something."""
        return [(ids, self.ended(prompt, own)) for (prompt, _), (ids, own) in zip(pairs, encoded, strict=True)]

    def ended(self, prompt: Prompt, completion: list[int]) -> list[int]:
        """Return the ids of a completion with the end of its turn, where that says something."""
        # After plain text a model would go on with another question, so the end of the turn says nothing there.
        return [*completion, self.end] if isinstance(prompt, Chat) else completion

    def ends(self, configured: int | Sequence[int] | None) -> frozenset[int]:
        """Return every token that ends a completion: those of the template, the tokenizer and a configuration."""
        ends = {self.end, *self.user_ends}
        if self.tokenizer.eos_token_id is not None:
            ends.add(self.tokenizer.eos_token_id)
        ends.update([configured] if isinstance(configured, int) else configured or [])
        return frozenset(ends)

    @cached_property
    def unspaced(self) -> Mapping[int, int]:
        """The tokens that begin with a space, each with the one of the same text without it, where there is one."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        pairs = ((number, vocabulary.get(token[1:])) for token, number in vocabulary.items() if token[:1] in _SPACES)
        return {number: bare for number, bare in pairs if bare is not None}

    def spaced(self, prompt: Prompt, completion: str) -> str:
        """Put the space between a prompt and its completion where tokenizers learned it: in front of the word."""
        if isinstance(prompt, Chat):
            return self.template.space + completion if self.template and prompt.opens == "assistant" else completion
        return " " + completion if prompt and not prompt[-1].isspace() else completion

    def nothing(self) -> list[int]:
        """Return a prompt for text that comes after nothing: the beginning of a text, or the end of one before it."""
        tokenizer = self.tokenizer
        return [self.end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)]

    def start(self) -> list[int]:
        """Return what the model expects before any plain text: its beginning-of-text token, where it adds one."""
        ids: list[int] = self.tokenizer("a").input_ids
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and ids[:1] == [bos] else []

    def ids(self, text: str) -> list[int]:
        """Return the ids of text in which markers are markers."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def content(self, text: str) -> list[int]:
        """Return the ids of text in which nothing is a marker; BackendError where the tokenizer makes one of it."""
        ids = self.ids(text)
        if self.marks(ids):
            ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)
        # What is left stands for an unknown character, which is no harm, or is read off other characters that look like
        # a marker.
        left = [token for token in ids if token in self.markers and token != self.tokenizer.unk_token_id]
        if left:
            raise BackendError(
                f"model.name: the tokenizer cannot read {self.tokenizer.decode(left[:1])!r} in a sample as plain text, "
                f"so a sample could end a turn. Remove it (it stands in {text[:60]!r}), or take another model."
            )
        return ids

    def marked(self, text: str) -> bool:
        """Whether the tokenizer reads a marker in a text that nobody kept it from."""
        return self.marks(self.ids(text)) > 0

    def marks(self, ids: Sequence[int]) -> int:
        """Return how many of some ids are markers."""
        return sum(token in self.markers for token in ids)


def markers_of(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids of a tokenizer's markers, such as the end of a turn."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*tokenizer.all_special_ids, *added})


def departures(template: Template | None) -> tuple[str, ...]:
    """Return a sentence for the reader where turns are not put together as the model's own template does."""
    if template is None or template.faithful:
        return ()
    return (
        "The model's chat template writes a finished answer otherwise than it invites a new one (often with a thought "
        "in front); isara writes all answers as finished ones, without it.",
    )


def end_of_turn(tokenizer: Tokenizer, template: Template | None) -> int:
    """Return the id of the token that ends an answer; raises BackendError where the model has none."""
    markers = marker_ids(tokenizer, template.assistant_close if template else "")
    if markers:
        return markers[0]
    if tokenizer.eos_token_id is None:
        raise BackendError("model.name: the tokenizer has no end-of-text token, so answers could never end.")
    return int(tokenizer.eos_token_id)


def marker_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of the markers in a piece of a template, in order."""
    markers = markers_of(tokenizer)
    return [int(number) for number in tokenizer(text, add_special_tokens=False).input_ids if number in markers]
