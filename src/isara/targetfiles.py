"""
Targets on the disk: raw little-endian arrays with an index beside them, appended by committed steps.

`index.jsonl` has a sample's id, the tokens of its answer, and `k`; `ids.i32` and `probabilities.f16` have `k` numbers
for each token, sample after sample. What was recorded while answers were written has `written-` before these names, and
what their writer found likely without demonstrations has `alone-`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.errors import RunError
from isara.protocols import Targets
from isara.rawfiles import stands
from isara.rundir import Snapshot, refuse_gap, remedy, snapshot

Files = dict[str, Sequence[Mapping[str, Any]] | bytes]
"""What a step appends: the lines or the bytes of each file."""
WRITTEN = "written-"
"""Before the names of files whose targets were recorded while answers were written."""
ALONE = "alone-"
"""Before those of the same answers without demonstrations in view, recorded while they were scored."""


def as_files(found: Iterable[tuple[str, Targets]], prefix: str = "") -> Files:
    """Return the targets of samples (their ids) as what a step appends to each file."""
    pairs = list(found)
    return {
        f"{prefix}index.jsonl": [
            {"id": name, "tokens": list(one.tokens), "k": one.ids.shape[1]} for name, one in pairs
        ],
        f"{prefix}ids.i32": b"".join(one.ids.astype("<i4").tobytes() for _, one in pairs),
        f"{prefix}probabilities.f16": b"".join(one.probabilities.astype("<f2").tobytes() for _, one in pairs),
    }


def targets_in(folder: Path, prefix: str = "") -> dict[str, Callable[[], Targets]]:
    """
    Return what reads the targets of each sample in a folder, by its id; raises RunError where the folder is damaged.

    The numbers stay on the disk until they are asked for: a training draws a few hundred samples of a pool that can
    have tens of thousands.
    """
    written, index = snapshot(folder), f"{prefix}index.jsonl"
    ids = mapped(written, f"{prefix}ids.i32", "<i4")
    probabilities = mapped(written, f"{prefix}probabilities.f16", "<f2")
    found: dict[str, Callable[[], Targets]] = {}
    start = 0
    for record in written.each(index):
        tokens, k = array("i", record["tokens"]), record["k"]
        end = start + len(tokens) * k
        if end > len(ids) or end > len(probabilities):
            raise RunError(f"{folder / index}: says more than is recorded of {record['id']}. {remedy(folder)}")
        found[record["id"]] = partial(read_one, ids, probabilities, tokens, k, start)
        start = end
    return found


def read_one(
    ids: NDArray[np.int32], probabilities: NDArray[np.float16], tokens: Sequence[int], k: int, start: int
) -> Targets:
    """Return the targets that begin at `start` in the arrays of a round, as a copy in memory."""
    shape, end = (len(tokens), k), start + len(tokens) * k
    return Targets(
        tuple(tokens), np.array(ids[start:end]).reshape(shape), np.array(probabilities[start:end]).reshape(shape)
    )


def mapped(written: Snapshot, name: str, number_format: str) -> NDArray[Any]:
    """Return the numbers that the committed steps wrote to a file, left on the disk; raises RunError: some are gone."""
    path, length = written.folder / name, written.lengths.get(name, 0)
    refuse_gap(path, path.stat().st_size if stands(path) else 0, length)
    count = length // np.dtype(number_format).itemsize
    # An empty file cannot be mapped.
    return np.memmap(path, number_format, "r", shape=(count,)) if count else np.empty(0, number_format)
