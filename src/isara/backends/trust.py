"""What a model may bring along besides safetensors: nothing, unless a person asked for it in this run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara.errors import BackendError

_TENSORS = "*.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OWN = "sentence_transformers."


@dataclass(frozen=True, slots=True)
class Trust:
    """What a person allowed for a run; the settings of the run record it."""

    pickle: bool = False
    """Weights in files that are not safetensors; reading such a file can run code in it."""
    code: bool = False
    """The Python code that a model brings along."""

    @property
    def loading(self) -> dict[str, Any]:
        """What transformers is told; told each time, as it would ask at the terminal where nothing is said."""
        # None takes safetensors where there are some, and what else there is where not.
        return {"use_safetensors": None if self.pickle else True, "trust_remote_code": self.code}

    @property
    def for_own(self) -> Trust:
        """What may be loaded of weights that isara wrote: safetensors, and code where that is allowed."""
        return Trust(code=self.code)

    def patterns(self) -> list[str]:
        """Return which files of a model are fetched."""
        kept = [_TENSORS, "*.json", "*.jinja", "*.model", "*.txt"]
        return [*kept, *(_PICKLED if self.pickle else ()), *(("*.py",) if self.code else ())]

    def told(self) -> tuple[str, ...]:
        """Return a sentence for each thing that is allowed, for the log of a run."""
        said = []
        if self.pickle:
            said.append("Weights that are not safetensors may be loaded (model.allow_pickle): they can run code.")
        if self.code:
            said.append("Python code that comes with the model may be run (model.trust_remote_code).")
        return tuple(said)


SAFE = Trust()


def refuse_untrusted(folder: Path, name: str, trust: Trust) -> None:
    """Raise BackendError where an embedder's folder needs more than is allowed: pickled weights, or code."""
    for part, kind in parts_of(folder, name):
        if not trust.code and not kind.startswith(_OWN):
            raise BackendError(
                f"model.embedder: {name!r} is made with {kind!r}, which is not of sentence-transformers. Set "
                "model.trust_remote_code=true to run it, after reading it, or give another embedder."
            )
        pickled = sorted(path.name for pattern in _PICKLED for path in part.glob(pattern))
        if pickled and not trust.pickle and not any(part.glob(_TENSORS)):
            raise BackendError(
                f"model.embedder: {name!r} has its weights in {pickled[0]}, and only safetensors are loaded. Convert "
                "them, give another embedder, or set model.allow_pickle=true where you trust its maker."
            )


def parts_of(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the folder and the class of each part of a sentence-transformers model."""
    path = folder / "modules.json"
    if not path.exists():
        yield folder, _OWN
        return
    try:
        parts = [(folder / str(part["path"]), str(part["type"])) for part in json.loads(path.read_bytes())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackendError(f"model.embedder: {name!r} has a modules.json that cannot be read ({error!r}).") from error
    inside = folder.resolve()
    for part, kind in parts:
        if not part.resolve().is_relative_to(inside):
            raise BackendError(f"model.embedder: {name!r} has a modules.json that leads out of its folder ({part}).")
        yield part, kind
