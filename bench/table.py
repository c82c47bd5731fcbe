"""What the measurements share: rows of results, ways that take turns, and the limits of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Way = Callable[[], object]

_LESS = {"s", "processor s", "processor ms a query", "MB", "nats per token"}
"""Units of which fewer are better."""


def row(
    name: str,
    ours: float | None,
    peer: float | None,
    peer_name: str,
    unit: str,
    *,
    limit: float | None = None,
    **more: Any,
) -> Row:
    """Return a row; `ratio` says how many times better ours is, and seconds, bytes and nats are better when fewer."""
    ratio = None
    if ours and peer:
        ratio = peer / ours if unit in _LESS else ours / peer
    numbers = {"ours": ours, "peer": peer, "ratio": ratio, "limit": limit}
    rounded = {key: None if value is None else float(f"{value:.4g}") for key, value in numbers.items()}
    return {"name": name, **rounded, "peer_name": peer_name, "unit": unit, **more}


def unmeasured(name: str, peer_name: str, unit: str, why: str) -> Row:
    """Return the row of what could not be measured here, and why not."""
    return row(name, None, None, peer_name, unit, not_measured=why)


@dataclass(frozen=True)
class Took:
    """The median of a way's turns."""

    seconds: float
    processor: float
    """Seconds of processor time: what it would take, at least, on this many cores with nothing else to do."""


def take_turns(ways: Mapping[str, Way], turns: int) -> dict[str, Took]:
    """
    Return what each way took: the median of its turns, after one to warm up.

    Ways take turns, so that a machine that is busy with other work is busy for all of them.
    """
    walls: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            begun, before = time.perf_counter(), time.process_time()
            way()
            if turn:
                walls[name].append(time.perf_counter() - begun)
                used[name].append(time.process_time() - before)
    return {name: Took(statistics.median(walls[name]), statistics.median(used[name])) for name in ways}


def compared(name: str, took: Mapping[str, Took], ours: str, peer: str, amount: float, unit: str, **more: Any) -> Row:
    """Return a row of two ways at the same work, `amount` of it a second, with the ratio of their processor time."""
    less = took[peer].processor / took[ours].processor
    rates = (amount / took[way].seconds for way in (ours, peer))
    return row(name, *rates, peer, unit, processor_ratio=round(less, 2), **more)


def matrix_rate(dtype: Any, device: Any, size: int = 2048, rows: int = 1024) -> float:
    """Return the multiplications and additions a second of a large matrix product: the best of several."""
    import torch

    a = torch.randn(rows, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    return 2 * rows * size * size / best(lambda: a @ b, device)


def memory_rate(device: Any, megabytes: int = 512) -> float:
    """Return the bytes a second that a large array is read with: the best of several."""
    import torch

    numbers = torch.ones(megabytes * 2**20 // 4, device=device)
    return numbers.numel() * 4 / best(lambda: numbers.sum(), device)


def best(way: Way, device: Any, turns: int = 8) -> float:
    """Return the fewest seconds of several turns."""
    import torch

    found = []
    for _ in range(turns):
        begun = time.perf_counter()
        way()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return min(found)
