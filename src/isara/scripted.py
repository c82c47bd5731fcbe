"""How a scripted model reads a prompt, writes and judges: words in common and hashes, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isara.protocols import Chat, Prompt
from isara.rouge import tokens

_LABEL = re.compile(
    r"^[#*\[( \t]*(?:(question|query|ask|user|problem|instruction|input|q)"
    r"|(?:answer|reply|response|assistant|output|solution|a))[ \t]*+\d*+[ \t]*+[\])*]*+(?::\**|$)",
    re.IGNORECASE | re.MULTILINE,
)
_LINKS = ("and", "with", "before", "without", "instead of", "next to", "after", "for")
_SETTINGS = (
    "in winter", "by hand", "on a rainy day", "at short notice", "for a beginner", "in one go", "on a small budget",
    "far from home", "late at night", "the old way", "for two people", "on the first try",
)  # fmt: skip
BABBLE = ("zxqv", "vrtk", "qpfh", "jxwz", "kvzd", "bqxr")
"""Words of an answer that the model itself finds unlikely; the `confidence` rule is to meet some."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a prompt shows and what it asks for."""

    demonstrations: tuple[tuple[str, str], ...]
    """Questions and answers; a question shown alone has an empty one."""
    question: str | None
    """The one to answer; None asks for a new question."""
    goes_on: str = ""
    """What a model that knows no turns writes after it is done."""


def read(prompt: Prompt) -> Scene:
    """Return what a prompt shows and asks for: labelled text, bare lines, or the turns of a conversation."""
    if isinstance(prompt, Chat):
        shown = _paired([(turn.role == "user", turn.text) for turn in prompt.turns])
        return Scene(shown, None) if prompt.opens == "user" or not shown else Scene(shown[:-1], shown[-1][0])
    labels = list(_LABEL.finditer(prompt))
    if not labels:
        *lines, last = prompt.strip().splitlines() or [""]
        return Scene(tuple((line, "") for line in lines), last)
    ends = [label.start() for label in labels[1:]] + [len(prompt)]
    parts = [(bool(label[1]), prompt[label.end() : end]) for label, end in zip(labels, ends, strict=True)]
    shown, last_is_question, last = _paired(parts), parts[-1][0], parts[-1][1].strip()
    next_question = f"{labels[0][0].strip()} and so on"
    if last_is_question == (last == "") or not shown:
        return Scene(shown, None, "\n" + next_question)
    return Scene(shown[:-1], shown[-1][0], "\n\n" + next_question)


def _paired(parts: Sequence[tuple[bool, str]]) -> tuple[tuple[str, str], ...]:
    """Join each question with the answer after it."""
    pairs: list[tuple[str, str]] = []
    for is_question, text in ((is_question, text.strip()) for is_question, text in parts):
        if is_question and text:
            pairs.append((text, ""))
        elif not is_question and pairs:
            pairs[-1] = (pairs[-1][0], text)
    return tuple(pairs)


def write_question(rng: random.Random, scene: Scene, memory: Sequence[str]) -> str:
    """Write a new question from pieces of those shown; about one in seven is bad in one of the usual ways."""
    shown = [question for question, _ in scene.demonstrations] or ["What is this about?"]
    one = rng.choice(shown)
    words = one.split()
    turn, odd = len(words) // 2, rng.randrange(len(words))
    return _drawn(
        rng,
        (0.04, one),
        (0.04, " ".join([*words[:odd], rng.choice(rng.choice(shown).split()), *words[odd + 1 :]])),
        (0.02, " ".join([*words[turn:], *words[:turn]])),
        (0.01, " ".join(words[:2])),
        (0.01, ""),
        (0.015, "* * *"),
        (0.01, " ".join(words[:3] * 30)),
        (0.03 if memory else 0.0, rng.choice(memory) if memory else ""),
        otherwise=lambda: _fresh(rng, shown),
    )


def _fresh(rng: random.Random, shown: Sequence[str]) -> str:
    """Exchange most of the telling words of one question for those of others, and add a circumstance."""
    first, other = rng.choice(shown), rng.choice(shown)
    # cut, as questions made of questions would otherwise grow from round to round
    words = _exchanged(rng, _words(first)[:9], shown, 0.7)
    words += [rng.choice(_LINKS), *_piece(rng, other, 3)] if rng.random() < 0.3 else []
    return " ".join([*words, rng.choice(_SETTINGS)]) + _end(first)


def _exchanged(rng: random.Random, words: Sequence[str], others: Sequence[str], share: float) -> list[str]:
    """Return words with a share of the telling ones exchanged for some of other texts, each used once."""
    spare = {word.strip("?.!,") for text in others for word in _words(text)[1:]} - set(words)
    # in this order, as that of a set is another one in each process
    telling = sorted(word for word in spare if len(word) > 3)
    rng.shuffle(telling)
    return [
        telling.pop() if place and telling and len(word) > 3 and rng.random() < share else word
        for place, word in enumerate(words)
    ]


def _end(text: str) -> str:
    return text[-1] if text[-1] in "?.!" else ""


def _piece(rng: random.Random, text: str, most: int) -> list[str]:
    """Return some neighbouring words of a text, without the punctuation at its end."""
    words = _words(text)
    length = rng.randint(2, most)
    start = rng.randint(0, max(0, len(words) - length))
    return words[start : start + length]


def write_answer(rng: random.Random, scene: Scene, question: str, most: int) -> str:
    """Answer in the words of the demonstration most like the question; about one in seven is bad in a usual way."""
    asked = set(tokens(question))
    answered = [(len(asked & set(tokens(about))), answer) for about, answer in scene.demonstrations if answer]
    nearest = max(answered)[1] if answered else f"It depends on {question.rstrip('?')}."
    loop = " ".join(_piece(rng, nearest, 3))
    return _drawn(
        rng,
        (0.02, nearest + scene.goes_on),
        (0.02, question + scene.goes_on),
        (0.02, f"{loop} {loop} {loop} {loop} {loop}." + scene.goes_on),
        (0.02, " ".join([loop] * (most + 1))),
        (0.015, " ".join(rng.choice(nearest.split()) for _ in range(most + 1))),
        (0.01, ""),
        (0.01, "…"),
        (0.02, " ".join(rng.choice(BABBLE) for _ in range(9)) + scene.goes_on),
        otherwise=lambda: _varied(rng, nearest, question) + scene.goes_on,
    )


def _varied(rng: random.Random, answer: str, question: str) -> str:
    """Return an answer in part in words of the question, and with a circumstance at its end."""
    words = _words(answer)
    kept = _exchanged(rng, words[: max(3, len(words) - rng.randint(0, 4))], [question], 0.35)
    return " ".join([*kept, rng.choice(_SETTINGS)]) + _end(answer)


def _words(text: str) -> list[str]:
    return text.rstrip("?.!, ").split() or ["it"]


def _drawn(rng: random.Random, *outcomes: tuple[float, str], otherwise: Callable[[], str]) -> str:
    """Return one of the outcomes, each with its probability."""
    roll = rng.random()
    for share, text in outcomes:
        roll -= share
        if roll < 0:
            return text
    return otherwise()


def judge(scene: Scene, completion: str, strength: float) -> float:
    """Make up an NLL per token: lower with demonstrations in the words of the completion, and with training."""
    words = set(tokens(completion))
    if words and len(words & set(BABBLE)) > len(words) / 2:
        return 4.2 + 0.8 * noise("babble", completion)
    nll = 2.0 + 0.9 * noise("difficulty", completion)
    if scene.demonstrations:
        seen = set(tokens(" ".join(f"{question} {answer}" for question, answer in scene.demonstrations)))
        led_astray = noise("astray", completion) < 0.02
        likeness = len(words & seen) / max(1, len(words))
        nll += 1.3 if led_astray else -(0.05 + 0.25 * likeness) * (1 - 0.6 * strength)
    nll -= strength * (0.6 + 0.6 * noise("affinity", completion))
    nll += 0.1 * (noise("training", strength, completion) - 0.5) if strength else 0.0
    return min(3.98, max(0.52, nll))


def flat(prompt: Prompt) -> str:
    """Return a prompt as one text."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.text}" for turn in prompt.turns)


def number(*parts: object) -> int:
    """Return a number below 2**64 that depends on nothing but the parts."""
    text = json.dumps([str(part) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode("ascii"), digest_size=8).digest(), "big")


def noise(*parts: object) -> float:
    """Return a number from 0 to 1 that depends on nothing but the parts."""
    return number(*parts) / 2**64


def dice(*parts: object) -> random.Random:
    """Return a source of random numbers that depends on nothing but the parts."""
    return random.Random(number(*parts))
