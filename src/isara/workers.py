"""A study's random seeds at once: each in a process of its own, with its share of the processor's cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from isara.api import Backend
from isara.compare import compare_part
from isara.errors import IsaraError, RunError, SettingsError
from isara.events import Event, Watch, quiet
from isara.settings import Settings
from isara.study import Study, load_study

Cores = frozenset[int]
"""Numbers of processor cores; empty where a process may have all of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A random seed of a study."""

    study: Study
    out: Path
    seed: int


def parts_of(study: Study | Path, out: Path) -> list[Part]:
    """Return the parts of a study whose folder is `out`."""
    study = load_study(study) if isinstance(study, Path) else study
    return [Part(study, out, seed) for seed in study.chosen.random_seeds]


def compare_parts(
    parts: Sequence[Part],
    workers: int,
    *,
    backend: Callable[[Settings], Backend] | None = None,
    watch_of: Callable[[Part], Watch] = lambda part: quiet,
) -> None:
    """
    Make the runs and measures of parts of one study or several, `workers` at a time, and show nothing.

    `compare` shows them. A process for each makes what `compare_part` would; `watch_of` gives who is told of one, and
    `backend` has to be a function of a module. An error in one of them ends the others and is raised here; what is done
    is kept, and the next call goes on. Processes end when this one does, however it does.
    """
    if workers < 1:
        raise SettingsError(f"--workers: {workers} processes make nothing. Give 1 or more.")
    waiting = list(parts)
    free = shares_of_cores(min(workers, len(waiting)))
    at_work: dict[Connection, Worker] = {}
    try:
        while waiting or at_work:
            while waiting and free:
                part = waiting.pop(0)
                worker = begin(part, free.pop(0), backend, watch_of(part))
                at_work[worker.told] = worker
            for told in [told for told in wait(list(at_work)) if isinstance(told, Connection)]:
                if not heard(at_work[told]):
                    free.append(at_work.pop(told).cores)
    finally:
        for worker in at_work.values():
            worker.process.terminate()
        for worker in at_work.values():
            worker.process.join()


@dataclass(frozen=True, slots=True)
class Worker:
    """A process at a part."""

    part: Part
    cores: Cores
    process: SpawnProcess
    told: Connection
    """What it says: events, and at last None or the error that ended it."""
    watch: Watch


def shares_of_cores(workers: int) -> list[Cores]:
    """Return the cores of each worker: as many for each, no core for two; all for each where there are too few."""
    own = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(own) < workers:
        return [frozenset()] * workers
    return [frozenset(own[i * len(own) // workers : (i + 1) * len(own) // workers]) for i in range(workers)]


def begin(part: Part, cores: Cores, backend: Callable[[Settings], Backend] | None, watch: Watch) -> Worker:
    """Start a process for a part."""
    # A fresh interpreter: a fork would have half of the threads and locks of what is loaded here.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(part, cores, backend, theirs))
    process.start()
    theirs.close()
    return Worker(part, cores, process, ours, watch)


def heard(worker: Worker) -> bool:
    """Pass on what a worker says next; False where that was its last word. Raises what ended it."""
    try:
        word = worker.told.recv()
    except EOFError:
        worker.process.join()
        raise RunError(
            f"random seed {worker.part.seed}: its process ended without a word ({end_of(worker.process)}). "
            "Start the same command again to go on, with fewer --workers where it was ended for want of memory."
        ) from None
    if isinstance(word, Event):
        worker.watch(word)
        return True
    worker.process.join()
    worker.told.close()
    if word is not None:
        raise word
    return False


def end_of(process: SpawnProcess) -> str:
    """Return how a process ended: the signal that ended it, or its exit code."""
    code = process.exitcode
    return f"signal {-code}: {signal.strsignal(-code)}" if code is not None and code < 0 else f"exit code {code}"


def work(part: Part, cores: Cores, backend: Callable[[Settings], Backend] | None, told: Connection) -> None:
    """Make a part, in a process of its own, and say how it goes."""
    end_with_parent()
    keep_to(cores)
    try:
        compare_part(part.study, part.out, [part.seed], backend=backend, watch=told.send)
    except (IsaraError, OSError) as error:
        told.send(error)
    else:
        told.send(None)


def end_with_parent() -> None:
    """
    End this process as soon as the one that started it is gone; that one alone answers to Ctrl-C.

    Told to end, it unwinds, so that locks of libraries are given back to the system and nothing warns of them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        # A kill at any moment spoils nothing, and so does this.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def keep_to(cores: Cores) -> None:
    """Compute on these cores alone from now on, in every thread that is begun later."""
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
