"""The bytes of a file that somebody names, whatever stands there: a pipe, a device, more than memory holds."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST = 64 * 2**20
"""Bytes of the largest file of samples that is read: a hundred samples take a hundredth of a megabyte."""

MOST_SETTINGS = 2**20
"""Bytes of the largest file of settings: all of them, explained, take a fiftieth of that."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_plain(path: Path, most: int | None = LARGEST) -> bytes:
    """Return the bytes of a plain file; OSError where there is none, or one of more than `most` bytes."""
    # Without waiting, since opening a pipe lasts until somebody writes into it.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = next((words for holds, words in _KINDS if holds(mode)), "something else")
            raise OSError(errno.EINVAL, f"{kind} and not a plain file", str(path))
        with open(handle, "rb", closefd=False) as file:
            # The size that the system tells is not asked: of some files it knows none.
            content = file.read() if most is None else file.read(most + 1)
    finally:
        os.close(handle)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most / 2**20:g} MB", str(path))
    return content


def stands(path: Path) -> bool:
    """Return whether there is something at a path; no for one that no file could have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is a folder at a path; no for one that cannot be looked at."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
