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
_MARKS = ".!?"
# What may follow a mark inside a run of characters for it to end a sentence there; a letter or a comma may not.
_AFTER = ")\";}]*:@'({[?!"
_INNER = re.compile(r"[(\"`{\[:;&#*@)}\]\-,]")
_RUN = re.compile(r"\S+")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+([.,]\d+)*")


def count_words(text: str) -> int:
    """Return how many runs of letters, digits and underscores a text has."""
    return len(_WORD.findall(text))


def count_sentences(text: str) -> int:
    """Return how many sentences an English text has; line breaks alone end none, as in the reference."""
    body = text.strip()
    runs = list(_RUN.finditer(body))
    last = len(body.rstrip("\"')]}"))
    if not runs:
        return 0
    count = 1
    for run, following in zip(runs, [*(run[0] for run in runs[1:]), None], strict=True):
        place = _last_mark(run[0], more=following is not None)
        if place is not None and run.start() + place + 1 < last:
            inside = place + 1 < len(run[0])
            outline = not body[body.rfind("\n", 0, run.start()) + 1 : run.start()].strip()
            count += _ends(run[0][:place], run[0][place], "" if inside else following or "", outline=outline)
    return count


def _last_mark(run: str, *, more: bool) -> int | None:
    """Return where the last mark is that may end a sentence: before a bracket or quote, or before space."""
    for place in range(len(run) - 1, -1, -1):
        if run[place] in _MARKS and (run[place + 1] in _AFTER if place + 1 < len(run) else more):
            return place
    return None


def _ends(before: str, mark: str, following: str, *, outline: bool) -> bool:
    """Whether a word with a mark after it is the last of its sentence; `outline` if it is the first of its line."""
    if mark != ".":
        return True
    word = _INNER.split(before)[-1].lower()
    lower = following[:1].islower()
    if before.endswith(".") or word in _ABBREVIATIONS:
        return _starts(following)
    if len(word) == 1 and word.isalpha():
        return bool(following) and not lower and (outline or _starts(following) or not following[:1].isupper())
    if _NUMBER.fullmatch(word):
        return not lower
    return True


def _starts(following: str) -> bool:
    """Whether a word is one that is capitalised only where a sentence begins."""
    word = _WORD.match(following)
    return word is not None and following[:1].isupper() and word[0].lower() in _STARTERS
