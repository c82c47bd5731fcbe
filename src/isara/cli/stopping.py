"""Ending soon when asked to, by Ctrl-C or SIGTERM, whatever native code is doing at that moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 4.0
"""Seconds that a process has to unwind after it was asked to stop; then it is ended."""
WORD = "isara: stopped. What is done is kept; start the same command again to go on."


class Stopped(BaseException):
    """Somebody asked this process to stop. Not a KeyboardInterrupt, which typer would answer with its own word."""


def stop(number: int, frame: FrameType | None) -> None:
    """Stop at once when asked to: the run directory is in order at every moment. Asked again, do not unwind either."""
    for each in SIGNALS:
        signal.signal(each, leave)
    raise Stopped


def leave(number: int = 0, frame: FrameType | None = None) -> None:
    """End this process here and now, with the same word; a kill at any moment spoils nothing, and so does this."""
    os.write(2, f"\n{WORD}\n".encode())
    os._exit(130)


@contextmanager
def stopping() -> Iterator[None]:
    """
    Turn SIGINT and SIGTERM into Stopped, and see that the process ends within GRACE seconds of one.

    Python runs its handlers between two of its own instructions, which can be a long wait for a matrix product, and
    loses what they raise inside a destructor. The kernel writes each signal to a pipe as well; a thread reads it.
    """
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    over = threading.Event()

    def watch() -> None:
        asked = b""
        while not over.is_set() and not set(asked) & set(SIGNALS):
            asked = os.read(ours, 1)
            if not asked:
                return
        if not over.wait(GRACE):
            leave()

    for each in SIGNALS:
        signal.signal(each, stop)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(-1)
        os.close(theirs)
        watcher.join()
        os.close(ours)
