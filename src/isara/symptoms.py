"""What can be wrong with single samples: answers cut off or left out, odd lengths, too long to train on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isara.rouge import tokens
from isara.samples import Sample
from isara.settings import TrainSettings

Level = Literal["spoils", "warning", "note"]
"""Whether a finding makes the outcome worthless, should be mended, or is only worth knowing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found in the samples."""

    level: Level
    what: str
    """A short name, the same for all findings of a kind."""
    where: tuple[str, ...]
    """Ids of the samples it is about; empty where it is about all of them."""
    words: str
    """A sentence that says what was found, and one that says what to do."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return {"level": self.level, "what": self.what, "where": list(self.where), "words": self.words}


_SHOWN = 4
_CLOSERS = "\"'”’»）)]}*_`"
_END = tuple(".!?…。！？।؟")
_DANGLING = tuple(",:-–—/&+=、，：")
_OPENERS = tuple("([{“‘«„（")
_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("“", "”"), ("«", "»"))
# Words that no sentence ends with: English, German, French, Spanish.
_JOINING = re.compile(
    r"(and|or|but|nor|because|although|though|while|whereas|if|unless|than|that|which|who|whose|with|without|of|to|from"
    r"|for|by|the|an?|und|oder|aber|weil|dass|mit|der|die|das|et|ou|mais|parce|que|avec|les?|la|y|o|pero|porque|con|el"
    r"|los|las)"
)
_PLACEHOLDER = re.compile(r"todo|tb[da]|n/?a|none|null|nan|nil|xxx|fixme|placeholder|unknown")
_FEWEST_TO_COMPARE = 8
_USUAL = 0.8
# Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers": 3.5 robust standard deviations from the median.
_ROBUST = 3.5 * 1.4826
_TIMES = 3.0


def ids(where: Sequence[str]) -> str:
    """Return ids for a sentence: the first few, and how many more."""
    more = len(where) - _SHOWN
    return ", ".join(where[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def cut_off(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield the answers that look cut off, one finding for each sign of it."""
    sentences = [sample for sample in samples if len(sample.answer.split()) > 3]
    ended = sum(_ends(sample.answer) for sample in sentences)
    usual = len(sentences) >= _FEWEST_TO_COMPARE and _USUAL * len(sentences) <= ended < len(sentences)
    found: dict[str, list[str]] = {}
    for sample in samples:
        sign = _dangling(sample.answer)
        if sign is None and usual and len(sample.answer.split()) > 3 and not _ends(sample.answer):
            sign = f"ends without a full stop, where {ended} of {len(sentences)} have one"
        if sign is not None:
            found.setdefault(sign, []).append(sample.id)
    for sign, where in found.items():
        if len(where) == 1:
            words = f"The answer of {where[0]} {sign}. Finish it, or remove the sample."
        else:
            words = (
                f"{len(where)} answers look cut off: each {sign} ({ids(where)}). Finish them, or remove the samples."
            )
        yield Finding("warning", "cut off", tuple(where), words)


def left_out(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield the answers that say nothing: no word at all, a placeholder, or the question again."""
    for sample in samples:
        bare = sample.answer.strip(" .!?-–—_…()[]{}<>\"'").casefold()
        if _PLACEHOLDER.fullmatch(bare) or not re.search(r"\w", sample.answer):
            words = f"The answer of {sample.id} is '{sample.answer[:20]}', which looks like a placeholder."
            yield Finding("warning", "no answer", (sample.id,), f"{words} Write the answer, or remove the sample.")
        elif tokens(sample.answer) and tokens(sample.answer) == tokens(sample.question):
            words = f"The answer of {sample.id} is its question again."
            yield Finding("warning", "no answer", (sample.id,), f"{words} Write the answer, or remove the sample.")


def blank_lines(samples: Sequence[Sample], style: str) -> Iterator[Finding]:
    """Yield the answers with an empty line in them, at which a plain-text demonstration would be taken to end."""
    where = tuple(sample.id for sample in samples if re.search(r"\n[^\S\n]*\n", sample.answer))
    if not where or style == "chat":
        return
    words = f"{_count(where, 'answer has', 'answers have')} an empty line inside ({ids(where)})."
    if style == "text":
        yield Finding(
            "warning",
            "empty line",
            where,
            f"{words} In plain text an answer ends there, so join the paragraphs, or set answers.style to chat.",
        )
    else:
        yield Finding(
            "note", "empty line", where, f"{words} With a model without a chat template, join the paragraphs."
        )


def odd_lengths(samples: Sequence[Sample], part: str, lengths: Sequence[int]) -> Iterator[Finding]:
    """Yield the questions or answers (`part`) that are far longer or shorter than most, lengths in tokens."""
    if len(samples) < _FEWEST_TO_COMPARE:
        return
    logs = np.log(np.maximum(1, lengths))
    middle = float(np.median(logs))
    limit = max(_ROBUST * float(np.median(np.abs(logs - middle))), np.log(_TIMES))
    typical = round(float(np.median(lengths)))
    for word, chosen in (("long", logs - middle > limit), ("short", middle - logs > limit)):
        places = np.flatnonzero(chosen).tolist()
        where = tuple(samples[i].id for i in places)
        if not where:
            continue
        reached = [lengths[i] for i in places]
        extreme = max(reached) if word == "long" else min(reached)
        words = f"{_count(where, f'{part} is', f'{part}s are')} far {word}er than most ({ids(where)})"
        fix = "Check for text that does not belong there." if word == "long" else "Check that nothing is missing."
        yield Finding("note", f"{word} {part}", where, f"{words}: {extreme} tokens, where {typical} are usual. {fix}")


def too_long(samples: Sequence[Sample], lengths: Sequence[int], train: TrainSettings) -> Iterator[Finding]:
    """Yield the samples that are longer than a training example may be, lengths in tokens."""
    where = tuple(sample.id for sample, length in zip(samples, lengths, strict=True) if length > train.max_tokens)
    if not where:
        return
    words = (
        f"{_count(where, 'sample is', 'samples are')} longer than train.max_tokens={train.max_tokens} ({ids(where)}; "
        f"the longest has {max(lengths)})"
    )
    if train.overlong == "refuse":
        fix = "Nothing will train like this: raise train.max_tokens, shorten them, or set train.overlong to drop."
        yield Finding("spoils", "too long", where, f"{words}. {fix}")
    else:
        yield Finding("warning", "too long", where, f"{words} and will not be trained on. Raise it, or shorten them.")


def word_counts(texts: Sequence[str]) -> NDArray[np.intp]:
    """Return the number of words in each text, as the filters count them: what white space separates."""
    return np.array([len(text.split()) for text in texts], dtype=np.intp)


def _count(where: Sequence[str], one: str, many: str) -> str:
    return f"{len(where)} {one if len(where) == 1 else many}"


def _ends(answer: str) -> bool:
    return answer.rstrip(_CLOSERS).endswith(_END) or answer.endswith(_END)


def _dangling(answer: str) -> str | None:
    """Return the sign that an answer goes on where it ends, in the words that follow `an answer`."""
    if answer.endswith(("...", "…")):
        return "ends with dots"
    if answer.endswith(_OPENERS):
        return "ends with an open bracket or quote"
    words = answer.split()
    if len(words) < 2:
        return None
    if answer.endswith(_DANGLING):
        return "ends with a comma, a colon or a dash"
    if len(words) > 2 and _JOINING.fullmatch(words[-1]):
        return "ends with a word that joins it to the next"
    if not _ends(answer) and any(answer.count(left) > answer.count(right) for left, right in _BRACKETS):
        return "has a bracket or quote that is never closed"
    return None
