"""Judges at work in `isara eval`: their labels on disk, and their numbers only where they can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from isara.errors import InputError
from isara.evals.audit import LEAST, Audit
from isara.evals.benchmark import Benchmark, Rows
from isara.evals.judges import ASKED, Judge, classifier_judge, examined, server_judge
from isara.rundir import Journal, fingerprint, write_json

_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Judges:
    """Who judges, and when they are believed."""

    specs: tuple[str, ...] = ()
    """`hf:NAME` for a classifier, the address of an OpenAI-compatible server otherwise; two at most."""
    equated: Mapping[str, str] = field(default_factory=dict)
    """What a classifier's labels mean."""
    least: float = LEAST
    """Alpha below which their numbers are kept back."""
    anyway: bool = False
    """Show them all the same."""


def open_judge(spec: str, benchmark: str, equated: Mapping[str, str]) -> Judge:
    """Return a judge by what a person called it; InputError for one that cannot judge this benchmark."""
    if benchmark not in ASKED:
        raise InputError(f"--judge: no judge is asked on {benchmark}. They are on {', '.join(ASKED)}.")
    if spec.startswith(("http://", "https://")):
        return server_judge(spec, benchmark)
    if spec.startswith("hf:"):
        from isara.backends.classify import Classifier

        return classifier_judge(Classifier(spec.removeprefix("hf:")).labels, benchmark, equated)
    raise InputError(f"--judge {spec}: give the address of a server (http://...), or hf:NAME for a classifier.")


def judged(
    folder: Path, benchmark: Benchmark, rows: Mapping[str, Rows], judges: Judges, confidence: float
) -> tuple[Benchmark, dict[str, Rows]]:
    """
    Return the benchmark with what the first judge measures, and the rows of each arm with its labels.

    The labels are written beside the rows, and the audit as `audit.json`. Where the audit fails, what the judge
    measures is left out and a note says why, unless it is to be shown anyway.
    """
    asked = ASKED[benchmark.name]
    work = prepared(benchmark.name, rows)
    labelled = [
        {
            arm: labels(folder / arm / f"judge-{number}", spec, benchmark.name, some, judges)
            for arm, some in work.items()
        }
        for number, spec in enumerate(judges.specs, start=1)
    ]
    flat = [row for some in work.values() for row in some]
    found, marked = examined(
        benchmark.name,
        flat,
        [[row for some in each.values() for row in some] for each in labelled],
        least=judges.least,
        confidence=confidence,
    )
    write_json(folder / "audit.json", found.to_json())
    given: dict[str, Rows] = {}
    for arm, some in work.items():
        given[arm], marked = marked[: len(some)], marked[len(some) :]
    notes = (*benchmark.notes, *told(found, judges, flat, [row for some in given.values() for row in some]))
    if not (found.trusted or judges.anyway):
        return replace(benchmark, notes=notes), dict(rows)
    return replace(benchmark, notes=notes, measures=benchmark.measures + asked.measures), {**rows, **given}


def prepared(benchmark: str, rows: Mapping[str, Rows]) -> dict[str, Rows]:
    """Return the rows of each arm that a judge can see; AlpacaEval's need something to be compared with."""
    if benchmark != "alpacaeval":
        return dict(rows)
    arms = list(rows)
    if all(row.get("reference") for row in rows[arms[0]]):
        return dict(rows)
    if len(arms) == 1:
        raise InputError("--judge: alpacaeval needs answers to compare with: an 'output' in each row of its data.")
    base = rows[arms[0]]
    return {
        arm: [{**row, "reference": other["response"]} for row, other in zip(rows[arm], base, strict=True)]
        for arm in arms[1:]
    }


def labels(folder: Path, spec: str, benchmark: str, rows: Rows, judges: Judges) -> Rows:
    """Return a judge's labels of rows, asked in chunks that are on the disk before the next begins."""
    request = fingerprint([spec, ASKED[benchmark].question, dict(judges.equated), [row["response"] for row in rows]])
    journal = Journal(folder / request)
    judge: Judge | None = None
    found: Rows = []
    for start in range(0, len(rows), _CHUNK):
        step = f"labels-{start}"
        if not journal.done(step):
            judge = judge or open_judge(spec, benchmark, judges.equated)
            journal.commit(step, {"labels.jsonl": judge(rows[start : start + _CHUNK])})
        found += journal.records(step, "labels.jsonl")
    return found


def told(found: Audit, judges: Judges, before: Sequence[object], rows: Rows) -> list[str]:
    """Return what a reader must know of the judge."""
    silent = sum("judge" not in row for row in rows)
    said = list(found.verdict)
    if silent:
        said.append(f"The judge gave no usable label to {silent} of {len(before)} answers; they are not counted.")
    if not found.trusted:
        shown = "It is shown because of --anyway." if judges.anyway else "--anyway shows it all the same."
        said.append(f"The judge's score is {'not to be trusted' if judges.anyway else 'not shown'}. {shown}")
    return said
