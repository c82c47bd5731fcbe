"""Plain text in passages: to measure what a model forgets, and to mix into training so that it forgets less."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from isara.errors import InputError
from isara.protocols import Example
from isara.textfiles import decode

_WORDS = 150
_LEAST = 5


def passages(text: str, words: int = _WORDS) -> list[str]:
    """Return a text in passages of whole paragraphs up to so many words; longer paragraphs are cut between words."""
    found: list[str] = []
    held: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        parts = paragraph.split()
        if held and sum(len(p.split()) for p in held) + len(parts) > words:
            found.append("\n\n".join(held))
            held = []
        while len(parts) > words:
            found.append(" ".join(parts[:words]))
            parts = parts[words:]
        if parts:
            held.append(" ".join(parts))
    return [*found, *(["\n\n".join(held)] if held else [])]


def read_passages(source: str) -> list[str]:
    """Return the passages of a plain text file; InputError where it cannot be read, or has no text."""
    found = [passage for passage in passages(decode(content(source), source)) if len(passage.split()) >= _LEAST]
    if not found:
        raise InputError(f"{source}: no passage of {_LEAST} words or more. Give a plain text file.")
    return found


def content(source: str) -> bytes:
    """Return the bytes of a text file."""
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror}). Give the path of a plain text file.") from error


def sha256_of_text(source: str) -> str:
    """Return the SHA-256 (hex) of a text file."""
    return hashlib.sha256(content(source)).hexdigest()


def as_replay(texts: list[str], share: float) -> list[Example]:
    """Return passages as training examples that together are drawn for so large a share of a training."""
    return [Example(f"replay-{n}", "", text, share / len(texts)) for n, text in enumerate(texts, start=1)]
