"""
The limits of this machine: how fast it multiplies matrices, and how fast it reads memory.

    python bench/limits.py

Nothing that trains or scores can be faster than the first, nothing that decodes for a few texts faster than the second.
"""

from __future__ import annotations

import sys

from table import Row, matrix_rate, memory_rate, row

from isara.backends.hf import choose_device, choose_dtype


def rows() -> list[Row]:
    """Measure, and return a row for each limit."""
    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    name = str(dtype).removeprefix("torch.")
    return [
        row("limit_matrix", matrix_rate(dtype, device) / 1e9, None, "", f"GFLOP/s in {name} on {device}"),
        row("limit_memory", memory_rate(device) / 1e9, None, "", f"GB/s read on {device}"),
    ]


if __name__ == "__main__":
    for found in rows():
        sys.stdout.write(f"{found['name']:16} {found['ours']:10.4g} {found['unit']}\n")
