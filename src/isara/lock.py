"""One process in a run directory at a time, and what is said of the one that has it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from isara.errors import RunError

FILES = (".lock", ".lock.held")
"""The lock of a directory, and what stands for it on a file system that has none."""
_HOLDER = re.compile(r"process (\d+) on (\S+),")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class InUseError(RunError):
    """Another process has the directory."""


@contextmanager
def locked(run: Path) -> Iterator[str | None]:
    """
    Hold a run directory for this process alone; raises RunError naming the process that has it.

    The lock is the kernel's and goes with the process, so one left by a killed process holds nobody up: its line is
    given to the caller, else None. Where the file system has no such locks, a file beside it stands for one.
    """
    path = run / FILES[0]
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{run}: cannot hold a run ({error.strerror}). Give another --out.") from error
    with file:
        stand_in = None if by_kernel(run, file) else by_file(run)
        file.seek(0)
        before = file.read().strip() or None
        try:
            file.truncate(0)
            file.write(f"{this_process()}\n")
            file.flush()
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}). Check the space left.") from error
        try:
            yield before
        finally:
            # A line that is still there tells the next process that this one was killed.
            file.truncate(0)
            if stand_in is not None:
                stand_in.unlink(missing_ok=True)


@contextmanager
def locked_soon(run: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold a directory that others hold for moments only, waiting for them; InUseError when it takes longer."""
    until = time.monotonic() + seconds
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(run))
            except InUseError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.1)
            else:
                break
        yield


def by_kernel(run: Path, file: TextIO) -> bool:
    """Take the kernel's lock; False where the file system has none. RunError: another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise InUseError(refusal(run, file.read().strip())) from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise RunError(f"{run}: cannot be locked ({error.strerror}). Give another --out.") from error
    return True


def by_file(run: Path) -> Path:
    """Take the place of the kernel's lock by a file that only one process can create; one of a dead process goes."""
    path = run / FILES[1]
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(f"{this_process()}\n")
        except FileExistsError:
            holder = path.read_text(encoding="utf-8").strip()
            if not is_dead(holder):
                words = f" If that process is gone, remove {path}."
                raise InUseError(refusal(run, holder) + words) from None
            path.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}). Give another --out.") from error
        else:
            return path
    raise InUseError(refusal(run, ""))


def this_process() -> str:
    """Return what a lock says of the process that has it."""
    return f"process {os.getpid()} on {socket.gethostname()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}"


def refusal(run: Path, holder: str) -> str:
    """Say who has a run directory."""
    return f"{run}: in use by {holder or 'another process'}. Wait for it, or give another --out."


def is_dead(holder: str) -> bool:
    """Whether the process that a lock names was of this machine and is no more."""
    found = _HOLDER.match(holder)
    if found is None or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
