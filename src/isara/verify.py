"""`isara verify RUN`: whether every file of a run is still what was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isara.digests import SEAL, Fault, files_below, read_sealed, sealed_or_none
from isara.errors import RunError
from isara.manifest import arms_in
from isara.seal import arm_faults, outdated, outside_arms, seal_faults


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of checking a run directory."""

    complete: bool
    """Whether it was sealed as a complete run; of another, what is committed was checked."""
    files: int
    """How many files there are."""
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    """What is there and no part of the run."""


def verify(run: Path) -> Verified:
    """
    Return what is not as it was written in a run directory; nothing is changed.

    The hashes find damage and edits, not somebody who also writes new hashes. RunError: there is no run here.
    """
    if not (run / "manifest.json").exists() and not (run / SEAL).exists():
        raise RunError(f"{run}: no run here (no manifest.json).")
    sealed = sealed_or_none(run / SEAL) or {}
    faults = [*top_faults(run), *chain_faults(run)]
    for arm in arms_in(run):
        known = {fault.file for fault in faults}
        faults += [fault for fault in arm_faults(run, arm) if fault.file not in known]
    complete = sealed.get("status") == "complete"
    count = sum(1 for _ in files_below(run))
    return Verified(complete, count, tuple(faults), tuple(notes(run, set(sealed.get("files", ())), complete=complete)))


def top_faults(run: Path) -> Iterator[Fault]:
    """Yield what is wrong outside the arms."""
    # A run killed before it began has neither a seal nor an arm.
    if not (run / SEAL).exists() and any((run / arm / "done.json").exists() for arm in arms_in(run)):
        yield Fault(SEAL, "missing; it is written as a run starts and again as it ends")
    if not (run / "manifest.json").exists():
        yield Fault("manifest.json", "missing")
    yield from (
        fault for fault in seal_faults(run) if (run / "manifest.json").exists() or fault.file != "manifest.json"
    )


def chain_faults(run: Path) -> Iterator[Fault]:
    """Yield the arms without hashes, and those that were computed from another content of an earlier one."""
    for arm in arms_in(run):
        marker = run / arm / "done.json"
        try:
            if marker.exists() and "files" not in read_sealed(marker):
                yield Fault(f"{arm}/done.json", "holds no hashes: written by an older isara, nothing to compare with")
            stale = outdated(run, arm) if marker.exists() else []
        except RunError:
            # Told as a fault of that file.
            continue
        for later in stale:
            yield Fault(f"{later}/done.json", f"computed from another content of {arm} than is here")


def notes(run: Path, listed: set[str], *, complete: bool) -> Iterator[str]:
    """Yield what is there and no part of the run."""
    for path in sorted((*run.rglob("*.writing"), *run.glob(".*.stale"))):
        yield f"{path.relative_to(run)}: left by a killed process; the next start removes it"
    if complete:
        strangers = set(outside_arms(run)) - listed
        for name in sorted({first + slash for first, slash, _ in (name.partition("/") for name in strangers)}):
            yield f"{name}: no part of the run"
