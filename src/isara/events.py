"""What a run tells while it works, and to whom.

| kind | data |
| --- | --- |
| `plan` | `stages`: a list of `{name, label, kind, units, prior}`, in order |
| `stage` | a stage begins, or is turned back to: `name`, `label`, `kind`, `units`, and `done` where work was resumed |
| `progress` | `name`, and `done` units of it in all |
| `finish` | `name` |
| `revise` | `name` has now `units`; 0 skips it |
| `say` | `text`, a sentence for the reader, and `level`: `info` or `warning` |
| `resumed` | `text`, a sentence: an interrupted run goes on |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """Something that happened in a run."""

    kind: str
    data: Mapping[str, object]


Watch = Callable[[Event], None]
"""Is told each event as it happens; must return quickly."""


def quiet(event: Event) -> None:
    """Watch a run and say nothing."""


def named(watch: Watch, run: str) -> Watch:
    """Return a watcher that is told of which run a stage is, as all runs have stages of the same names."""

    def of_run(data: Mapping[str, Any]) -> dict[str, Any]:
        return dict(data) | {key: f"{run}: {data[key]}" for key in ("name", "label") if key in data}

    def told(event: Event) -> None:
        data = of_run(event.data)
        stages = data.get("stages")
        if isinstance(stages, list):
            data["stages"] = [of_run(stage) for stage in stages]
        watch(Event(event.kind, data))

    return told
