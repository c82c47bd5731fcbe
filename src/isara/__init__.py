"""Teach a language model a new domain from a handful of examples, and show whether it worked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isara.api import Backend, Result, align
    from isara.errors import IsaraError
    from isara.readers import read_seeds
    from isara.report import write_report
    from isara.samples import Sample
    from isara.settings import Settings

_HOMES = {
    "Backend": "isara.api",
    "IsaraError": "isara.errors",
    "Result": "isara.api",
    "Sample": "isara.samples",
    "Settings": "isara.settings",
    "align": "isara.api",
    "read_seeds": "isara.readers",
    "write_report": "isara.report",
}

__all__ = ["Backend", "IsaraError", "Result", "Sample", "Settings", "align", "read_seeds", "write_report"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562), so that `import isara` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'isara' has no attribute {name!r}")
    from importlib import import_module

    return vars(import_module(_HOMES[name]))[name]
