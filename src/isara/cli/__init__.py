"""The command line: one verb in each command, listed by `isara --help`."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress

# Each module adds its verbs to the application, in the order in which `isara --help` shows them.
from isara.cli import prepare, work, study, inspect, export, evaluate, judge  # isort: skip
from isara.cli.app import app, show
from isara.cli.stopping import Stopped, leave, stopping
from isara.errors import IsaraError, RunError

__all__ = ["app", "evaluate", "export", "inspect", "judge", "main", "prepare", "study", "work"]


def main() -> None:
    """Run the command line; every error that isara raises on purpose becomes one message and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Hugging Face's libraries tell their maker of the libraries beside them, unless they are told not to.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # A terminal that cannot show a character shows its number, and the command goes on.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Threads that spin while they wait for each other crawl as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        with stopping():
            app(prog_name="isara")
    except IsaraError as error:
        show(f"isara: {error}", error=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # What no step foresaw: a disk that fails, a file that went away.
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        show(f"isara: {what}. What is done is kept; mend that and start the same command again to go on.", error=True)
        sys.exit(RunError.exit_code)
    except Stopped:
        # All is put away by now. Taking the interpreter down as well would wait for native threads, or crash in them.
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        leave()
