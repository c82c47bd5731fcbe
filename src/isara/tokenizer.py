"""A text as tokens, for ROUGE-L, and as words, for counting them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

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
