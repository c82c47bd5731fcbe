"""
English sentences and words counted as the IFEval scorer counts them, without NLTK and its downloaded model.

The reference counts sentences with NLTK's Punkt model for English (Kiss and Strunk 2006, "Unsupervised Multilingual
Sentence Boundary Detection"). The decisions here are of the same kind (a full stop ends a sentence unless its word is
an abbreviation, an initial or a list number that goes on), with word lists of our own in place of what Punkt learned.
How often the two agree is measured in docs/evals.md.
"""

from __future__ import annotations

import re

# Those after which the reference model does not end a sentence; it does after "e.g.", "i.e.", "etc." and "P.S.".
_ABBREVIATED = (
    "a.d a.m adm ariz aug ave bros calif co col corp d.c dec dr feb fla fri ft gen inc j.k j.r jan jr kan"
    " l.a lt ltd maj mr mrs ms n.y nov oct okla ore pa p.m ph.d prof rep sen sep sept sr st tenn tues u.k"
    " u.n u.s u.s.a va vs vt wed wis"
)
# Words that begin a sentence when they are capitalised, because otherwise they hardly ever are.
_STARTING = (
    "although because despite every furthermore he her here his how however i if in instead it its moreover"
    " nevertheless please remember senator she since some such thank that the their then there therefore"
    " these they this those though thus to unlike we what when where whether which while who why with yet"
    " your"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_STARTERS = frozenset(_STARTING.split())
# A word up to its last mark, where what follows is not part of a word: space, or a bracket, quote, asterisk or mark.
_END = re.compile(r"(\S*)([.!?])(?=[)\";}\]*:@'({\[?!]|\s+(\S+))")
_INNER = re.compile(r"[(\"`{\[:;&#*@)}\]\-,]")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+([.,]\d+)*")


def count_words(text: str) -> int:
    """Return how many runs of letters, digits and underscores a text has."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Return how many sentences an English text has; line breaks alone end none, as in the reference."""
    body = text.strip()
    if not body:
        return 0
    last = len(body.rstrip("\"')]}"))
    return 1 + sum(_ends(found) for found in _END.finditer(body) if found.end() < last)


def _ends(found: re.Match[str]) -> bool:
    """Whether a word with a mark after it is the last of its sentence."""
    before, mark, following = found[1], found[2], found[3] or ""
    if mark != ".":
        return True
    word = _INNER.split(before)[-1].lower()
    lower = following[:1].islower()
    if before.endswith(".") or word in _ABBREVIATIONS:
        return _starts(following)
    if len(word) == 1 and word.isalpha():
        outline = not found.string[: found.start()].rpartition("\n")[2].strip()
        return bool(following) and not lower and (outline or _starts(following) or not following[:1].isupper())
    if _NUMBER.fullmatch(word):
        return not lower
    return True


def _starts(following: str) -> bool:
    """Whether a word is one that is capitalised only where a sentence begins."""
    word = _WORD.match(following)
    return word is not None and following[:1].isupper() and word[0].lower() in _STARTERS
