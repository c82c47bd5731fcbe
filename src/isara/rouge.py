"""
ROUGE-L between two texts, and an exact search for the most similar of many.

ROUGE-L (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") is the F-measure of the longest common
subsequence (LCS) of two token lists of lengths m and n: F1 = 2 LCS / (m + n).

The search skips what cannot win, and therefore still returns what scoring every pair would. To reach a score t, two
texts must share at least `need = t (m + n) / 2` tokens, so lengths too far apart are out, and so is every text that
has none of the `m - need + 1` rarest tokens of the query: the prefix filter of set-similarity joins (Bayardo, Ma and
Srikant 2007, "Scaling Up All Pairs Similarity Search"; Xiao, Wang, Lin and Yu 2008, PPJoin).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import LCSseq

_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts written without spaces: Thai, Lao, Burmese, Khmer, kana, bopomofo, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def tokens(text: str) -> list[str]:
    """
    Return the tokens of a text: exactly those of Google's rouge_score (no stemmer) where the letters are all a-z.

    That tokenizer drops every other letter, which would leave nothing of a Greek or a Chinese text. So where a text
    has a letter (or a decimal digit) outside a-z and 0-9, its tokens are runs of Unicode letters, digits and their
    marks after NFKC normalisation, and single characters in scripts that do not put spaces between words.
    """
    lowered = text.lower()
    if lowered.isascii() or not _has_other_letters(unicodedata.normalize("NFC", lowered)):
        return _ASCII_WORD.findall(lowered)
    return list(_unicode_words(unicodedata.normalize("NFKC", lowered).lower()))


def words(text: str) -> list[str]:
    """Return the words of a text: what stands between spaces, and single characters in scripts without spaces."""
    return [word for part in text.split() for word in (tokens(part) if _UNSPACED.search(part) else [part])]


def _has_other_letters(text: str) -> bool:
    return any((char.isalpha() or char.isdecimal()) and not char.isascii() for char in text)


def _unicode_words(text: str) -> Iterator[str]:
    word = ""
    for char in text:
        kind = unicodedata.category(char)
        if kind == "Cf" or (kind[0] == "M" and not word):
            continue  # joiners and soft hyphens stand inside words; a mark needs something to stand on
        if kind[0] == "M":
            word += char
        elif kind[0] not in "LN":
            yield from [word] if word else []
            word = ""
        elif word and (_UNSPACED.match(char) or _UNSPACED.match(word)):
            yield word
            word = char
        else:
            word += char
    yield from [word] if word else []


def f1(a: str, b: str) -> float:
    """Return the ROUGE-L F-measure of two texts, 0 to 1; a text without tokens is like nothing."""
    left, right = tokens(a), tokens(b)
    codes: dict[str, int] = {}
    rows = [[codes.setdefault(token, len(codes)) for token in row] for row in (left, right)]
    return _f_measure(LCSseq.similarity(*rows), len(left), len(right))


def _f_measure(common: int, m: int, n: int) -> float:
    # One division: 7 of 10 and 10 tokens is then exactly the 0.7 that a threshold says.
    return 2 * common / (m + n) if common else 0.0


class Nearest(NamedTuple):
    """The most similar text of an index: its id, and its ROUGE-L with the query."""

    id: str | None
    score: float


class Index:
    """Texts that can be searched by ROUGE-L; it grows, and forgets nothing. Holds up to 1.1 million distinct words."""

    def __init__(self, texts: Iterable[tuple[str, str]] = ()) -> None:
        """Start from pairs of id and text."""
        self._ids: list[str] = []
        # A text is kept as a string with one character for each token, the form that rapidfuzz compares fastest.
        self._texts: list[str] = []
        self._characters: dict[str, str] = {}
        self._postings: dict[int, dict[tuple[str, int], list[int]]] = {}
        for name, text in texts:
            self.add(name, text)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, name: str, text: str) -> None:
        """Make a text findable; `name` is the id that `nearest` gives back."""
        words = tokens(text)
        for word in words:
            if word not in self._characters:
                self._characters[word] = chr(len(self._characters) + 1)
        coded = "".join(map(self._characters.__getitem__, words))
        postings = self._postings.setdefault(len(coded), {})
        for key in _numbered(coded):
            postings.setdefault(key, []).append(len(self._ids))
        self._ids.append(name)
        self._texts.append(coded)

    def nearest(self, text: str, threshold: float = 0.0) -> Nearest:
        """
        Return the most similar text and its exact ROUGE-L F-measure; of equals, the one added first.

        Where none reaches `threshold` (or none shares a token), that is `(None, 0.0)`: below the threshold nothing is
        said about how close the closest is. A high threshold is much faster. Raises ValueError for a threshold that
        is not between 0 and 1.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, but ROUGE-L lies between 0 and 1.")
        # Character 0 stands for words that no text here has.
        query = "".join(self._characters.get(word, "\0") for word in tokens(text))
        # A near text, if there is one, is found cheaply from a high floor; each miss costs little against the next.
        for floor in [*(step for step in (0.7, 0.5, 0.3) if step > threshold), threshold]:
            position, score = self._search(query, floor)
            if position is not None:
                return Nearest(self._ids[position], score)
        return Nearest(None, 0.0)

    def _search(self, query: str, floor: float) -> tuple[int | None, float]:
        keys = _numbered(query)
        m, best, score = len(query), None, floor
        # The nearer a length, the higher the score it may reach, and the sooner the others are ruled out.
        for n in sorted(self._postings, key=lambda n: (-_f_measure(min(m, n), m, n), n)):
            need = max(1, math.ceil(score * (m + n) / 2 - 1e-6))  # rounded down in doubt; the score decides
            if need > min(m, n):
                break
            candidates = _sharing(self._postings[n], keys, m - need + 1)
            found = process.extractOne(
                query, [self._texts[i] for i in candidates], scorer=LCSseq.similarity, score_cutoff=need
            )
            if found is None:
                continue
            position, reached = candidates[found[2]], _f_measure(int(found[1]), m, n)
            if reached > score or (reached == score and (best is None or position < best)):
                best, score = position, reached
        return best, score


def _numbered(coded: str) -> list[tuple[str, int]]:
    """Tell repeats of a token apart, so that a second "the" is as rare as it is."""
    seen: Counter[str] = Counter()
    keys = []
    for token in coded:
        keys.append((token, seen[token]))
        seen[token] += 1
    return keys


def _sharing(postings: dict[tuple[str, int], list[int]], keys: Sequence[tuple[str, int]], most: int) -> list[int]:
    """Return the texts, first added first, that have one of the `most` rarest keys."""
    lists = sorted((postings.get(key, []) for key in keys), key=len)[:most]
    return sorted(set().union(*lists))
