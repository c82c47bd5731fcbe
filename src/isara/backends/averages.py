"""
The mean of what several trainings left, as weights of the same kind.

Trainings from the same weights end apart, and their mean is often better than each of them: model soups (Wortsman et
al. 2022, arXiv 2203.05482).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from isara.backends.adapter import PARTS, read_scale, read_state, save_tensors
from isara.backends.savepoints import appearing
from isara.rundir import writing


def mean_of_adapters(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the factors, at the first one's rank and scale, of the mean of the changes that adapters make."""
    rank, alpha = read_scale(folders[0])
    found = [(read_state(folder), *read_scale(folder)) for folder in folders]
    state: dict[str, Tensor] = {}
    for name in sorted(key.removesuffix(f".{PARTS[0]}.weight") for key in found[0][0] if f".{PARTS[0]}." in key):
        first, second = (f"{name}.{part}.weight" for part in PARTS)
        # Side by side, the factors of several changes are those of their sum.
        a = torch.cat([own[first] for own, _, _ in found]).double()
        shares = [(own_alpha / own_rank) / (alpha / rank) / len(found) for _, own_rank, own_alpha in found]
        b = torch.cat([own[second] * share for (own, _, _), share in zip(found, shares, strict=True)], 1).double()
        state[first], state[second] = (factor.float().contiguous() for factor in nearest(a, b, rank))
    return state


def nearest(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """
    Return factors of that rank whose product is nearest to `b @ a`; a is (many, in), b (out, many).

    The largest singular values and their vectors are those (Eckart and Young 1936); both factors get the roots.
    """
    q_a, r_a = torch.linalg.qr(a.t())
    q_b, r_b = torch.linalg.qr(b)
    left, values, right = torch.linalg.svd(r_b @ r_a.t(), full_matrices=False)
    roots = values[:rank].sqrt()
    near_a, near_b = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
    near_a[: len(roots)] = roots[:, None] * (right[:rank] @ q_a.t())
    near_b[:, : len(roots)] = (q_b @ left[:, :rank]) * roots
    return near_a, near_b


def write_mean_of_networks(folders: Sequence[Path], out: Path) -> None:
    """Write the mean of fully tuned weights into a folder that is there once it is whole; all else as in the last."""
    with appearing(out) as scratch:
        with writing(out):
            shutil.copytree(folders[-1], scratch)
        for file in sorted(scratch.glob("*.safetensors")):
            states = [load_file(folder / file.name) for folder in folders]
            mean = {
                name: torch.stack([own[name].float() for own in states]).mean(0).to(last.dtype)
                for name, last in states[-1].items()
            }
            save_tensors(mean, file, {"format": "pt"})
