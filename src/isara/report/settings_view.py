"""The settings of a run beside the defaults of this version."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isara.settings import Section, Settings


@dataclass(frozen=True, slots=True)
class Chosen:
    """One setting: the value it had in the run, its default, and the sentence that says what it does."""

    name: str
    value: str
    default: str
    differs: bool
    words: str


def chosen_settings(settings: Mapping[str, Any]) -> list[Chosen]:
    """Return every setting in a manifest, in the order of the settings reference; unknown ones come last."""
    values = dict(_flat(settings))
    known = {name: (default, words) for name, default, words in _known(Settings())}
    names = [name for name in known if name in values] + [name for name in values if name not in known]
    return [_chosen(name, values[name], *known.get(name, (None, ""))) for name in names]


def _chosen(name: str, value: Any, default: Any, words: str) -> Chosen:
    if not words:
        return Chosen(name, _written(value), "unknown", True, "This version of isara has no such setting.")
    return Chosen(name, _written(value), _written(default), value != default, " ".join(words.split()))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _known(section: Section, before: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, default and sentence of each setting in a section and the sections inside it."""
    for name, default in section:
        if isinstance(default, Section):
            yield from _known(default, f"{before}{name}.")
        else:
            yield before + name, default, type(section).model_fields[name].description or ""
