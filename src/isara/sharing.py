"""
What runs of a study have in common: baselines, drafts and trainings are made once and copied, not made again.

Studies of the same samples in the same folder lend each other their complete runs too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from importlib import metadata
from pathlib import Path
from typing import Any

from isara.config import changes, recorded
from isara.errors import RunError
from isara.gate import decide, goes_on
from isara.heldout import likeliest, nlls
from isara.manifest import ARMS, stale, versions, without_place
from isara.replay import replay
from isara.rundir import Events, read_json, records_in, write_json
from isara.settings import FilterSettings, Settings
from isara.spent import costs

_ORDER = (*ARMS, "round-1")
_RECORDED = ("targets", "teacher")
_AFTER_DRAFTING = frozenset(f"train.{name}" for name in (*_RECORDED, "seed_share", "start", "round_steps"))
"""Settings that have no part in what the first round drafts, nor in the baselines."""
_OF_THE_GATE = frozenset(
    {
        "rounds",
        "gate.min_gain",
        "gate.standard_errors",
        "gate.patience",
        "gate.keep",
        "gate.confidence",
    }
)
"""Settings that have a part in whether a round is gone on with, and none in how it is made."""
AFTER_TRAINING = _OF_THE_GATE | {"gate.generator", "gate.pool", "train.average"}
"""Settings that have no part in the first round's training either."""
_OF_THE_WRITING = frozenset(
    {
        "target.accepted",
        "target.budget",
        "target.batch",
        "questions.demonstrations",
        "questions.neighbourhood",
        "questions.draws",
        "questions.machine",
        "answers.choice",
        "answers.shared",
    }
)
"""Settings that decide what a first round asks its models, and not what they answer to a prompt."""
_THRESHOLDS = frozenset(f"filter.{name}" for name in FilterSettings.model_fields)
_NOTED = frozenset({"filter.rouge", "filter.heldout_rouge"})
"""Thresholds below which nothing is looked for, so that what is noted of a candidate depends on them."""
_TRAINED = ("adapter", "train.jsonl", "training.json", "heldout.jsonl", "test.jsonl", "answers.jsonl")
_CONCLUDED = ("round.json", "done.json")


def is_complete(folder: Path) -> bool:
    """Whether a run of a study has ended; its folder's name says that it is the one that is wanted."""
    path = folder / "summary.json"
    return path.exists() and read_json(path)["status"] == "complete"


def lent(out: Path, facts: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Path]:
    """
    Return the complete runs of other studies of the same samples, in the folder that the study `out` is in.

    Only those whose model and embedder are the same by their facts, which `facts` returns and which are asked for where
    there is something to compare, and which this version of isara made with these versions of the packages that decide
    what a run computes. What cannot be read is passed over: it is not ours to mend.
    """
    own = out.resolve()
    samples = read_json(own / "data" / "hash.json")
    studies = [path.parent.parent for path in sorted(own.parent.glob("*/data/hash.json")) if in_json(path) == samples]
    runs = [run for study in studies if study != own for run in sorted(study.glob("seed-*/[!.]*"))]
    made = {
        run: in_json(run / "manifest.json") for run in runs if in_json(run / "summary.json").get("status") == "complete"
    }
    here = (metadata.version("isara"), versions())
    made = {
        run: manifest for run, manifest in made.items() if (manifest.get("isara"), manifest.get("packages")) == here
    }
    if not made:
        return []
    model, embedder = facts()
    same = (without_place(model), dict(embedder))
    return [run for run, manifest in made.items() if (without_place(manifest["model"]), manifest["embedder"]) == same]


def in_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of another study holds; nothing where it cannot be read."""
    try:
        found = read_json(path)
    except RunError:
        return {}
    return found if isinstance(found, dict) else {}


def same_baselines(one: Settings, other: Settings) -> bool:
    """Whether two settings give the same baselines."""
    return first_other(bare(one), bare(other)) in (None, "round-1")


def bare(settings: Settings) -> dict[str, Any]:
    """Return settings as a manifest that says nothing else."""
    return {"model": {}, "embedder": {}, "inputs": {}, "settings": settings.model_dump(mode="json")}


def first_other(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Return the first arm that a run would have to make anew to become another; None where it is that run already."""
    # The untouched model is scored in the same way whatever the random seed.
    seed = {"seed": old["settings"]["seed"]}
    _, first = stale(old, {**new, "settings": {**new["settings"], **seed}})
    if old["settings"]["seed"] == new["settings"]["seed"] or first in ("base", "retrieved"):
        return first
    return "seeds-only"


def share(folder: Path, settings: Settings, donors: Sequence[Path]) -> Path | None:
    """
    Begin a run with what a complete one beside it has in common; returns that one, None where nothing is.

    All donors are runs of the same study or `lent`, so that samples, model and embedder are the same; when the run is
    started its manifest is compared in full all the same.
    """
    if folder.exists():
        return None
    wanted = {"settings": settings.model_dump(mode="json")}
    found = ((in_common(donor, settings), donor) for donor in donors)
    (arms, later), donor = max(found, key=lambda pair: tuple(map(len, pair[0])), default=(((), range(0)), folder))
    if not arms:
        return None
    scratch = folder.with_name(f".{folder.name}.sharing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    left_out = _CONCLUDED if same_targets(read_json(donor / "manifest.json"), wanted) else (*_CONCLUDED, "targets")
    stages = [stage for arm in arms for stage in copy_arm(donor, scratch, arm, left_out)]
    stages += [stage for number in later for stage in copy_round(donor, scratch, number)]
    events = Events(scratch / "events.jsonl")
    for stage, took in costs(donor).items():
        if stage in stages:
            events.add("stage", name=stage, seconds=round(took, 2))
    events.add("shared", of="/".join(donor.parts[-3:]), arms=[*arms, *(f"round-{number}" for number in later)])
    write_json(scratch / "manifest.json", read_json(donor / "manifest.json") | {"name": folder.name} | wanted)
    scratch.replace(folder)
    return donor


def in_common(donor: Path, settings: Settings) -> tuple[tuple[str, ...], range]:
    """Return what a run can take over as `common` does, and which rounds after the first."""
    arms = common(donor, settings)
    return arms, later_rounds(donor, settings) if "trained" in arms else range(0)


def common(donor: Path, settings: Settings) -> tuple[str, ...]:
    """Return what a run can take over: whole baselines, and `drafted` or `trained` for that much of round 1."""
    old, wanted = read_json(donor / "manifest.json"), {"settings": settings.model_dump(mode="json")}
    first = first_other(old, {**old, **wanted})
    whole = _ORDER[: _ORDER.index(first)] if first else ARMS
    names = {change.name for change in changes(old["settings"], wanted["settings"])}
    drafting = names - AFTER_TRAINING - _AFTER_DRAFTING
    if len(whole) < len(ARMS) or not old["settings"]["rounds"] or not drafting <= _THRESHOLDS - _NOTED:
        return whole
    if drafting and drops_by(donor, settings, drafting):
        return whole
    return (*whole, "drafted", "trained") if names - drafting <= AFTER_TRAINING else (*whole, "drafted")


def same_writers(donor: Path, settings: Settings) -> bool:
    """Whether a run has a first round whose models answer a prompt just as those of another run's first round do."""
    old, wanted = read_json(donor / "manifest.json"), {"settings": settings.model_dump(mode="json")}
    if first_other(old, {**old, **wanted}) not in (None, "round-1") or not old["settings"]["rounds"]:
        return False
    names = {change.name for change in changes(old["settings"], wanted["settings"])}
    return names <= AFTER_TRAINING | _AFTER_DRAFTING | _OF_THE_WRITING | _THRESHOLDS


def drops_by(donor: Path, settings: Settings, thresholds: Set[str]) -> bool:
    """Whether a first round drops anything by some thresholds, by those that its run had or by those wanted."""
    rules = {name.removeprefix("filter.").removesuffix("_min").removesuffix("_max") for name in thresholds}
    then = {record["rule"] for record in records_in(donor / "round-1" / "dropped.jsonl")}
    return not rules.isdisjoint(then) or not rules.isdisjoint(replay(donor, settings.filter)[0].dropped)


def later_rounds(donor: Path, settings: Settings) -> range:
    """
    Return which of a run's rounds after the first another makes in the same way.

    Those as long as both went on with every round before: with any round, or with those that their gates kept.
    """
    path = donor / "manifest.json"
    own = read_json(path)["settings"]
    names = {change.name for change in changes(own, settings.model_dump(mode="json"))}
    most = settings.rounds if names <= _OF_THE_GATE else 1
    number, arms, failures = 1, ["base", "seeds-only"], 0
    while number < most and (donor / f"round-{number + 1}" / "done.json").exists():
        arm, before = f"round-{number}", likeliest(donor, arms)
        kept, _ = decide(nlls(donor / before), nlls(donor / arm), (before, arm), settings.gate)
        failures = 0 if kept else failures + 1
        here = goes_on(kept, settings.gate)
        there = goes_on(read_json(donor / arm / "round.json")["kept"], recorded(own, path).gate)
        if not (here and there) or failures >= settings.gate.patience:
            break
        number, arms = number + 1, [*arms, arm]
    return range(2, number + 1)


def copy_round(donor: Path, to: Path, number: int) -> list[str]:
    """Copy a whole round but for what was decided of it; returns the stages that made it."""
    name = f"round-{number}"
    shutil.copytree(donor / name, to / name, ignore=shutil.ignore_patterns(*_CONCLUDED))
    return [f"draft-{number}", f"targets-{number}", f"train-{name}", f"score-{name}"]


def same_targets(*manifests: Mapping[str, Any]) -> bool:
    """Whether runs record the same probabilities: those of other teachers would be taken for the ones wanted."""
    settings = [manifest["settings"]["train"] for manifest in manifests]
    # What an older version wrote has no setting that is newer.
    return len({tuple(map(train.get, _RECORDED)) for train in settings}) == 1


def copy_arm(donor: Path, to: Path, arm: str, left_out: Sequence[str]) -> list[str]:
    """Copy an arm, or a part of the first round; returns the stages that made it."""
    if arm in ARMS:
        shutil.copytree(donor / arm, to / arm)
        return [f"train-{arm}", f"score-{arm}"]
    trained = arm == "trained"
    for entry in (donor / "round-1").iterdir():
        if entry.name in left_out or (entry.name in _TRAINED) != trained:
            continue
        if entry.is_dir():
            shutil.copytree(entry, to / "round-1" / entry.name)
        else:
            (to / "round-1").mkdir(exist_ok=True)
            shutil.copy2(entry, to / "round-1" / entry.name)
    return ["train-round-1", "score-round-1"] if trained else ["draft-1", "targets-1"]
