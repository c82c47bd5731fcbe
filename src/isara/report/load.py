"""A run directory, read once into records; a run in progress has gaps, and they are named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from isara.errors import RunError
from isara.report import records
from isara.report.rows import R, Rows, parse, unreadable
from isara.report.text import arm_label, capital

BASELINES = ("base", "retrieved", "seeds-only")
ROUND = re.compile(r"round-([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Arm:
    """One model that was judged: what its folder and the summary say of it."""

    name: str
    label: str
    heldout: dict[str, float]
    """NLL per token of each held-out sample, by id."""
    shown: dict[str, float]
    """The same with demonstrations in view, where it was measured."""
    answers: dict[str, records.ItemAnswer]
    training: records.Training | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Round:
    """One round: its outcome, where it has one yet, and its candidates."""

    number: int
    facts: records.RoundFacts | None
    kept: Rows[records.Kept]
    dropped: Rows[records.Dropped]


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a report is made of."""

    name: str
    manifest: records.Manifest
    summary: records.Summary | None
    seeds: tuple[records.Pair, ...]
    heldout: tuple[records.Pair, ...]
    test: tuple[records.Pair, ...]
    arms: tuple[Arm, ...]
    rounds: tuple[Round, ...]
    missing: tuple[str, ...]
    """A sentence for each thing that is not there."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return _finished(self.summary)

    def arm(self, name: str) -> Arm | None:
        """Return the arm of that name, where it is there."""
        return next((arm for arm in self.arms if arm.name == name), None)

    def label(self, name: str | None) -> str:
        """Return what a person calls the arm of that name."""
        if name is None:
            return "none yet"
        arm = self.arm(name)
        return arm.label if arm else arm_label(name)


def load_run(path: Path) -> Run:
    """
    Return what is in the run directory `path`, complete or not.

    RunError: it is not a run directory, or one of its files is damaged.
    """
    manifest = read_object(path, "manifest.json", records.Manifest)
    if manifest is None:
        raise RunError(f"{path}: no manifest.json here, so this is not a run directory. Give the folder of a run.")
    summary = read_object(path, "summary.json", records.Summary)
    heldout = read_rows(path, "heldout.jsonl", records.Pair)
    rounds = _rounds(path, summary)
    names = _arm_names(path, summary)
    return Run(
        name=(summary.name if summary else "") or manifest.name or path.resolve().name,
        manifest=manifest,
        summary=summary,
        seeds=read_rows(path, "seeds.jsonl", records.Pair),
        heldout=heldout,
        test=read_rows(path, "test.jsonl", records.Pair),
        arms=tuple(_arm(path, name, summary, heldout) for name in names),
        rounds=rounds,
        missing=tuple(_missing(path, summary, names, rounds)),
    )


def read_object(run: Path, file: str, shape: type[R]) -> R | None:
    """Return the one object in a JSON file, or None where there is no such file; RunError when it is damaged."""
    try:
        content = (run / file).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(run / file, error) from error
    return parse(content, shape, run, file)


def read_rows(run: Path, file: str, shape: type[R], *, torn: bool = False) -> tuple[R, ...]:
    """Return all records of a JSONL file, as `Rows` has them."""
    return tuple(Rows(run, file, shape, torn=torn))


def _finished(summary: records.Summary | None) -> bool:
    return summary is not None and summary.status == "complete"


def _arm_names(path: Path, summary: records.Summary | None) -> list[str]:
    """Baselines first, then the rounds in order: those with a folder, and those that the summary names."""
    named = {arm.arm for arm in summary.heldout.arms} if summary else set()
    # A finished run speaks for itself; folders that its summary passes over are left from other settings.
    found = set() if _finished(summary) else {f"round-{n}" for n in _round_numbers(path)}
    rounds = sorted(named.difference(BASELINES) | found, key=_by_number)
    return [name for name in BASELINES if name in named or (path / name).is_dir()] + rounds


def _by_number(name: str) -> tuple[int, str]:
    found = ROUND.fullmatch(name)
    return (int(found[1]) if found else 0, name)


def _round_numbers(path: Path) -> list[int]:
    return [int(found[1]) for entry in path.iterdir() if entry.is_dir() and (found := ROUND.fullmatch(entry.name))]


def _arm(path: Path, name: str, summary: records.Summary | None, heldout: tuple[records.Pair, ...]) -> Arm:
    mean = next((arm for arm in summary.heldout.arms if arm.arm == name), None) if summary else None
    done = read_object(path, f"{name}/done.json", records.Done)
    # Without done.json the arm may be in the middle of writing any of these.
    torn = done is None
    scores = read_rows(path, f"{name}/heldout.jsonl", records.ItemScore, torn=torn)
    nll = {row.id: row.nll for row in scores}
    if not nll and mean and len(mean.values) == len(heldout):
        nll = {sample.id: value for sample, value in zip(heldout, mean.values, strict=True)}
    return Arm(
        name=name,
        label=(mean.label if mean else "") or arm_label(name),
        heldout=nll,
        shown={row.id: row.shown_nll for row in scores if row.shown_nll is not None},
        answers={row.id: row for row in read_rows(path, f"{name}/answers.jsonl", records.ItemAnswer, torn=torn)},
        training=read_object(path, f"{name}/training.json", records.Training),
        seconds=done.seconds if done else {},
    )


def _rounds(path: Path, summary: records.Summary | None) -> tuple[Round, ...]:
    told = {facts.round: facts for facts in summary.rounds} if summary else {}
    found = [] if _finished(summary) else _round_numbers(path)
    return tuple(_round(path, number, told.get(number)) for number in sorted({*told, *found}))


def _round(path: Path, number: int, told: records.RoundFacts | None) -> Round:
    folder = f"round-{number}"
    facts = read_object(path, f"{folder}/round.json", records.RoundFacts) or told
    torn = facts is None
    kept, dropped = "kept.jsonl", "dropped.jsonl"
    lengths: dict[str, int] = {}
    if torn and (path / folder / "journal.jsonl").exists():
        # Still generating: what lies after the last committed step may yet be thrown away.
        lengths = {kept: 0, dropped: 0}
        for step in Rows(path, f"{folder}/journal.jsonl", records.Committed, torn=True):
            lengths |= step.lengths
    return Round(
        number=number,
        facts=facts,
        kept=Rows(path, f"{folder}/{kept}", records.Kept, lengths.get(kept), torn),
        dropped=Rows(path, f"{folder}/{dropped}", records.Dropped, lengths.get(dropped), torn),
    )


def _missing(path: Path, summary: records.Summary | None, names: list[str], rounds: tuple[Round, ...]) -> list[str]:
    if not _finished(summary):
        return ["The run is in progress or was stopped; start it again to go on.", *_unfinished(path, names, rounds)]
    expected = ["seeds.jsonl", "heldout.jsonl"]
    for name in names:
        expected += [f"{name}/heldout.jsonl", f"{name}/answers.jsonl"]
        expected += [f"{name}/training.json"] if name not in ("base", "retrieved") else []
    for entry in rounds:
        expected += [f"round-{entry.number}/kept.jsonl", f"round-{entry.number}/dropped.jsonl"]
    gone = [file for file in expected if not (path / file).exists()]
    return [f"{file} is missing; what it holds is not shown." for file in gone]


def _unfinished(path: Path, names: list[str], rounds: tuple[Round, ...]) -> list[str]:
    missing = [f"{capital(arm_label(name))}: not started." for name in BASELINES if name not in names]
    missing += [
        f"{capital(arm_label(name))}: not complete." for name in names if not (path / name / "done.json").exists()
    ]
    if not rounds:
        missing.append("No round has started.")
    return missing
