"""How the report writes things down: hostile text made harmless, numbers, and the words for arms and rules."""

from __future__ import annotations

import html
import re

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
"""Characters that act on the text around them or show nothing: controls, bidi overrides, fillers, half surrogates."""

LONGEST = 4000
"""Characters of one text that a report shows."""

ARM_LABELS = {
    "base": "the untouched model",
    "retrieved": "the untouched model with retrieved demonstrations",
    "seeds-only": "tuning on the seeds alone",
}

RULE_WORDS = {
    "parse": "can be read as a question and an answer",
    "no_answer": "has an answer",
    "truncated": "comes to an end",
    "words": "of a sensible length",
    "question_words": "question of a sensible length",
    "keywords": "question without the words ruled out",
    "answer_words": "answer of a sensible length",
    "repetition": "answer does not repeat itself",
    "echo": "answer is not its own question",
    "copied": "answer not copied from a demonstration",
    "common": "answer not that of too many others",
    "topic": "question is about the domain",
    "rouge": "question is new in its wording",
    "cosine": "question is new in its meaning",
    "heldout_rouge": "not a held-out question, by wording",
    "heldout_cosine": "not a held-out question, by meaning",
    "confidence": "model finds the answer likely",
    "gain": "demonstrations made the answer likelier",
    "surplus": "round was not full yet",
}


def reveal(text: str) -> str:
    """Return `text` with every hidden or text-bending character spelled out, as in <U+202E>."""
    return HIDDEN.sub(lambda found: f"<U+{ord(found.group()):04X}>", text)


def escape(text: object) -> str:
    """Return `text` ready to stand in HTML, as content or in a quoted attribute."""
    return html.escape(reveal(str(text)))


def marked(text: str) -> str:
    """Return `text` as HTML content in which spelled-out characters stand out, and keep their place among Arabic."""
    return re.sub(r"&lt;U\+[0-9A-F]{4,6}&gt;", r'<span class="token">\g<0></span>', escape(text))


def clip(text: str, longest: int = LONGEST) -> str:
    """Return at most `longest` characters of `text`, and how many more there are."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters in the run's files)"


def one_line(text: str, longest: int) -> str:
    """Return the start of `text` on one line, for a label."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of digits and a real minus sign; a dash for None."""
    if value is None:
        return "–"
    return _minus(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number that always shows its sign; a dash for None."""
    if value is None:
        return "–"
    return _minus(f"{value:+.{digits}f}")


def _minus(text: str) -> str:
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", "\u2212")


def short(value: float) -> str:
    """Return a number with no more digits than it needs, for axes and settings."""
    return _minus(f"{value:.6g}")


def p_value(value: float | None) -> str:
    """Return a p value with three digits; a dash for None."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int, noun: str, plural: str | None = None) -> str:
    """Return `1 sample`, `2,400 samples`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def capital(text: str) -> str:
    """Return text whose first letter is a capital, for the start of a sentence."""
    return text[:1].upper() + text[1:]


def arm_label(name: str) -> str:
    """Return what a person calls an arm, where the run has left no label."""
    return ARM_LABELS.get(name, name.replace("-", " "))


def rule_words(rule: str) -> str:
    """Return what a candidate that passes `rule` is, in plain words; nothing for a rule unknown here."""
    return RULE_WORDS.get(rule, "")
