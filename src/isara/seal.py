"""What ties the files of a run together: hashes of each arm, of what it was built on, and one seal over the whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from isara.digests import (
    SEAL,
    Facts,
    Fault,
    checksum,
    facts_in,
    facts_of,
    faults_in,
    files_below,
    journal_faults,
    read_sealed,
    sealed_or_none,
    write_sealed,
)
from isara.errors import RunError
from isara.manifest import ARMS, arms_in

INPUTS = ("manifest.json", "seeds.jsonl", "heldout.jsonl", "test.jsonl", "samples.f16")
"""What a run is computed from; each start writes them again from what it was asked for."""
DERIVED = ("summary.json", "report.html", "report.md")
"""What the end of a run, and `isara report`, make of the other files."""
EVALS = "evals"
"""The folder of `isara eval`, which measures a run again and again: no part of what the run vouches for."""
_LOG = "events.jsonl"
_LOOSE = ("test.jsonl", "answers.jsonl")
"""Files of an arm that no later arm is computed from."""


_UNTUNED = ("base", "retrieved")
_TUNED = ("heldout.jsonl", "answers.jsonl", "train.jsonl", "training.json", "adapter")


def finish_arm(run: Path, arm: str) -> None:
    """
    Write an arm's `done.json`: the hash of each of its files, and of the arms that it was computed from.

    RunError: a file that every such arm has went away while the run was at work.
    """
    folder = run / arm
    names = [name for name in files_below(folder) if name != "done.json"]
    wanted = ["heldout.jsonl", "answers.jsonl"] if arm in _UNTUNED else [*_TUNED]
    gone = [name for name in wanted if not any(there == name or there.startswith(f"{name}/") for there in names)]
    if gone:
        raise RunError(f"{folder / gone[0]}: went away while the run was at work. Start the same command again.")
    built_on = {before: content_of(run, before) for before in bases_of(run, arm)}
    write_sealed(folder / "done.json", {"arm": arm, "built_on": built_on, "files": facts_in(folder, names)})


def bases_of(run: Path, arm: str) -> Iterator[str]:
    """Yield the complete arms that an arm is computed from: those that gate it, write for it or lend it weights."""
    if arm in ARMS:
        return
    for before in arms_in(run):
        if before == arm:
            return
        if before != "retrieved" and (run / before / "done.json").exists():
            yield before


def content_of(run: Path, arm: str) -> str | None:
    """Return a hash of what later arms are computed from; None for an arm without hashes."""
    files = read_sealed(run / arm / "done.json").get("files")
    return None if files is None else checksum({name: files[name] for name in files if name not in _LOOSE})


def arm_faults(run: Path, arm: str) -> list[Fault]:
    """Return what is not as it was written in an arm; of one that is not complete, in its committed steps."""
    folder, prefix = run / arm, f"{arm}/"
    if not (folder / "done.json").exists():
        return journal_faults(folder, prefix)
    known = sealed_or_none(folder / "done.json")
    if known is None:
        return [Fault(f"{prefix}done.json", "changed since it was written")]
    if "files" not in known:
        # Of an isara that wrote none.
        return []
    extra = set(files_below(folder)) - set(known["files"]) - {"done.json", "test.jsonl"}
    added = [Fault(prefix + name, "not there when the arm was complete") for name in sorted(extra)]
    return faults_in(folder, known["files"], prefix) + added


def outdated(run: Path, arm: str) -> list[str]:
    """Return the later arms that were computed from another content of an arm than it has."""
    content = content_of(run, arm)
    found = []
    for name in arms_in(run):
        if (run / name / "done.json").exists():
            used = read_sealed(run / name / "done.json").get("built_on", {}).get(arm)
            if None not in (used, content) and used != content:
                found.append(name)
    return found


def seal(run: Path, *, complete: bool) -> None:
    """
    Write `seal.json`: the hash of every file outside the arms, and of each complete arm's `done.json`.

    While a run is under way it covers what the run is computed from, and the event log as far as it goes. RunError:
    something of that is not as it was when the run that is complete now began.
    """
    faults = seal_faults(run) if complete else []
    if faults:
        raise RunError(
            f"{run / faults[0].file}: {faults[0].what}, while the run was at work. Start the same command again: it "
            "is written again."
        )
    names = outside_arms(run) if complete else [name for name in (*INPUTS, _LOG) if (run / name).exists()]
    status = "complete" if complete else "running"
    files = facts_in(run, names)
    write_sealed(run / SEAL, {"isara": metadata.version("isara"), "status": status, "files": files})


def outside_arms(run: Path) -> list[str]:
    """Return what the seal of a complete run lists: of an arm its `done.json`, which lists the others."""
    arms = set(arms_in(run))
    markers = {f"{arm}/done.json" for arm in arms}
    return [n for n in files_below(run) if n != SEAL and (n in markers or n.partition("/")[0] not in {*arms, EVALS})]


def reseal(run: Path, names: Iterable[str]) -> None:
    """Note new contents of some files in the seal of a complete run, and vouch for no others."""
    known = sealed_or_none(run / SEAL)
    if known is not None and known["status"] == "complete":
        write_sealed(run / SEAL, {**known, "files": {**known["files"], **facts_in(run, names)}})


def seal_faults(run: Path) -> list[Fault]:
    """Return what the seal covers and is not as it was written; a missing seal is not told here."""
    if not (run / SEAL).exists():
        return []
    try:
        files: dict[str, Facts] = read_sealed(run / SEAL)["files"]
    except (RunError, KeyError):
        return [Fault(SEAL, "changed since it was written")]
    log = {name: facts for name, facts in files.items() if name == _LOG}
    faults = faults_in(run, {name: facts for name, facts in files.items() if name != _LOG})
    # The log grows; what was there when it was sealed has to be there still.
    for name, facts in log.items():
        if facts_of(run / name, facts["bytes"]) != facts:
            faults.append(Fault(name, "changed since it was written" if (run / name).exists() else "missing"))
    return faults


@dataclass(frozen=True, slots=True)
class Damage:
    """What in a run directory is not as it was written, as a run that goes on sees it."""

    said: tuple[str, ...] = ()
    """Sentences about what each start writes anew."""
    arms: Mapping[str, Sequence[Fault]] = field(default_factory=dict)
    """What is wrong with each damaged arm."""


def examine(run: Path) -> Damage:
    """Return what in a run directory is not as it was written; nothing is changed."""
    said, broken = [], {}
    for fault in seal_faults(run):
        arm = fault.file.partition("/")[0]
        if fault.file in (*INPUTS, *DERIVED, SEAL):
            said.append(f"{fault}; it is written again.")
        elif fault.file == _LOG:
            said.append(f"{fault}; nothing but times is read from it, and it is left as it is.")
        elif fault.file == f"{arm}/done.json" and (run / fault.file).exists():
            broken[arm] = [fault]
    for arm in arms_in(run):
        found = arm_faults(run, arm)
        if found:
            broken[arm] = found
    return Damage(tuple(said), broken)


def refuse(run: Path, damage: Damage, kept: Sequence[str], *, force: bool) -> None:
    """Raise RunError where an arm that is to be kept is damaged, unless `force` allows to compute it again."""
    arms = [arm for arm in kept if arm in damage.arms]
    if not arms or force:
        return
    lines = [f"  {run / fault.file}: {fault.what}\n" for arm in arms for fault in damage.arms[arm][:5]]
    others = [arm for arm in kept if arm not in arms]
    depends = " (as far as what is computed again comes out the same)" if others else ""
    raise RunError(
        f"{run}: files were changed after they were written.\n{''.join(lines)}"
        f"Computed again: {', '.join(arms)}. Kept: {', '.join(others) or 'nothing'}{depends}.\n"
        "Put back a copy of them, add --force to compute that again in place, or give another --out."
    )


def mend(run: Path, damage: Damage, *, force: bool) -> list[str]:
    """
    Take out of a run directory what is damaged or left over, so that it is computed again; return sentences about it.

    RunError: arms were computed from another content of an earlier one, and `force` does not allow to do that again.
    """
    for left in run.rglob("*.writing"):
        remove(left)
    arms = [arm for arm in arms_in(run) if arm in damage.arms]
    for arm in reversed(arms):
        set_aside(run, arm)
    said = list(damage.said)
    if arms:
        faults = "; ".join(str(damage.arms[arm][0]) for arm in arms)
        said.append(f"Computing {', '.join(arms)} again: {faults}.")
    for arm in arms_in(run):
        if (run / arm / "done.json").exists():
            drop_unlisted(run, arm)
            said += retire(run, arm, force=force)
    return said


def drop_unlisted(run: Path, arm: str) -> None:
    """Remove test scores that a complete arm does not list: they were to go when the run was killed."""
    files = read_sealed(run / arm / "done.json").get("files")
    if files is not None and "test.jsonl" not in files:
        (run / arm / "test.jsonl").unlink(missing_ok=True)


def set_aside(run: Path, arm: str) -> None:
    """Remove an arm's folder: out of the way at once, so that a kill leaves all of it or none."""
    shutil.rmtree((run / arm).rename(run / f".{arm}.stale"))


def remove(path: Path) -> None:
    """Remove a file or a folder that a killed process left behind."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def retire(run: Path, arm: str, *, force: bool) -> list[str]:
    """
    Take out the later arms that were computed from another content of an arm, and return a sentence that says so.

    RunError: there are some, and `force` does not allow it.
    """
    stale = outdated(run, arm)
    if not stale:
        return []
    words = f"{arm} came out different from what {', '.join(stale)} had been computed from"
    if not force:
        raise RunError(f"{run}: {words}. Add --force to compute that again in place, or give another --out.")
    for name in reversed(stale):
        set_aside(run, name)
    return [f"{words}: computing that again."]
