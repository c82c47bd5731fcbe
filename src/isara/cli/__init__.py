"""The command line: one module for the verbs of each purpose, and what turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import typer

# Each module adds its verbs to the application, in the order in which `isara --help` shows them.
from isara.cli import prepare, work, inspect, export, judge, evaluate  # isort: skip
from isara.cli.app import app, show
from isara.errors import IsaraError

__all__ = ["app", "evaluate", "export", "inspect", "judge", "main", "prepare", "work"]


class Stopped(BaseException):
    """Somebody asked this process to stop. Not a KeyboardInterrupt, which typer would answer with its own word."""


def stop(number: int, frame: FrameType | None) -> None:
    """Stop at once when asked to, by Ctrl-C or by SIGTERM: the run directory is in order at every moment."""
    raise Stopped


def main() -> None:
    """Run the command line; every error that isara raises on purpose becomes one message and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait for each other crawl as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        app(prog_name="isara")
    except IsaraError as error:
        show(f"isara: {error}", error=True)
        sys.exit(error.exit_code)
    except Stopped:
        typer.echo("\nisara: stopped. What is done is kept; start the same command again to go on.", err=True)
        sys.exit(130)
