"""
Everything isara raises on purpose.

* IsaraError
  * InputError           what you gave us cannot be used; the message says what to change
    * SettingsError      a setting is unknown, of the wrong type or out of range
    * SeedError          samples that cannot be read; holds every mistake, not only the first
  * RunError             a run directory is missing, damaged, in use, or belongs to other settings
  * GenerationError      the model answered, and nothing in the answers was usable
  * BackendError         a model, an embedder or a trainer could not be loaded or used
"""

from __future__ import annotations

from collections.abc import Sequence


class IsaraError(Exception):
    """Base of every error isara raises on purpose; catch this one to catch them all."""

    exit_code = 1


class InputError(IsaraError):
    """What you gave us cannot be used; the message says what to change."""

    exit_code = 2


class SettingsError(InputError):
    """A setting is unknown, of the wrong type, or out of range."""


class SeedError(InputError):
    """Samples that cannot be read. `mistakes` has one message for each, with file and line; the text, the first 50."""

    shown = 50

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        more = len(self.mistakes) - self.shown
        tail = [f"... and {more} more"] if more > 0 else []
        super().__init__("\n".join([*self.mistakes[: self.shown], *tail]))

    def __reduce__(self) -> tuple[type[SeedError], tuple[Sequence[str]]]:
        """Keep every mistake when a worker process hands the error over."""
        return SeedError, (self.mistakes,)


class RunError(IsaraError):
    """A run directory is missing, damaged, in use, or belongs to other settings."""

    exit_code = 3


class GenerationError(IsaraError):
    """The model answered, and nothing in the answers was usable."""

    exit_code = 4


class BackendError(IsaraError):
    """A model, an embedder or a trainer could not be loaded or used."""

    exit_code = 5
