"""What other thresholds would have kept: the recorded candidates through the filter again, nothing generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara import config
from isara.errors import RunError
from isara.filter import Candidate, Sieve
from isara.gate import goes_on
from isara.neighbours import Neighbours
from isara.prompts import parse_answer, parse_question
from isara.protocols import Vectors
from isara.rawfiles import stands
from isara.rundir import Snapshot, content_of, look_up, read_json, records_in, refuse_gap, remedy, snapshot
from isara.samples import Sample
from isara.settings import FilterSettings
from isara.vectors import Store

_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Replayed:
    """A round under other thresholds."""

    round: int
    kept_then: tuple[str, ...]
    kept_now: tuple[str, ...]
    dropped: Mapping[str, int]
    """How many candidates each rule drops now."""
    unknown: tuple[str, ...]
    """Candidates that pass now but were dropped before they were answered: what their answers were worth is unknown."""
    surplus: tuple[str, ...] = ()
    """Kept now, and passed in the run as well, which had its target already."""

    @property
    def gained(self) -> tuple[str, ...]:
        """Kept now, and not then."""
        return tuple(name for name in self.kept_now if name not in set(self.kept_then))

    @property
    def lost(self) -> tuple[str, ...]:
        """Kept then, and not now."""
        return tuple(name for name in self.kept_then if name not in set(self.kept_now))


def replay(run: Path, settings: FilterSettings) -> list[Replayed]:
    """
    Return each round of a run under other filter settings, compared with the pools that the run really had.

    A run stops drafting at its target, so looser thresholds can only show more of what was drafted, and what was
    surplus counts as kept here. Raises RunError where the directory holds no run.
    """
    if not stands(run / "manifest.json"):
        raise RunError(f"{run}: no run here (no manifest.json).")
    seeds = [Sample.from_json(record) for record in records_in(run / "seeds.jsonl")]
    judges = [Sample.from_json(r) for part in ("heldout", "test") for r in records_in(run / f"{part}.jsonl")]
    path = run / "samples.f16"
    vectors = vectors_from(content_of(path) or b"", len(seeds) + len(judges), path)
    manifest = run / "manifest.json"
    asked = config.recorded(read_json(manifest)["settings"], manifest)
    pool, store = list(seeds), Store(vectors[: len(seeds)])
    answers = {sample.id: sample.answer for sample in seeds}
    replayed = []
    for number, folder in drafted_rounds(run):
        known = Neighbours(pool, store, floor=settings.rouge)
        heldout = Neighbours(judges, vectors[len(seeds) :], floor=settings.heldout_rouge)
        sieve = Sieve(settings, known, heldout, [seed.answer for seed in seeds], asked.target.accepted)
        drafted = snapshot(folder)
        replayed.append(sifted(number, drafted, sieve, recorded(drafted, number, answers, vectors.shape[1])))
        done = folder / "round.json"
        if asked.gate.pool == "grown" and done.exists() and goes_on(read_json(done)["kept"], asked.gate):
            kept = [Sample.from_json(record) for record in drafted.each("kept.jsonl")]
            places = {record["id"]: place for place, record in enumerate(drafted.each("embedded.jsonl"))}
            named = [look_up(places, sample.id, folder / "embedded.jsonl") for sample in kept]
            rows = embeddings(drafted, len(places))[named]
            pool += kept
            store = Store(np.concatenate([store.held, rows]))
            answers |= {sample.id: sample.answer for sample in kept}
    return replayed


def loosened(recorded: FilterSettings, settings: FilterSettings) -> Iterator[tuple[str, float, float]]:
    """Yield the rules that keep held-out questions out and would let more in: name, threshold then, threshold now."""
    pairs = (
        ("heldout_rouge", recorded.heldout_rouge, settings.heldout_rouge),
        ("heldout_cosine", recorded.heldout_cosine, settings.heldout_cosine),
    )
    for name, then, now in pairs:
        if now > then:
            yield f"filter.{name}", then, now


def drafted_rounds(run: Path) -> Iterator[tuple[int, Path]]:
    """Yield the number and the folder of every round that has drafted anything."""
    number = 1
    while (folder := run / f"round-{number}").joinpath("journal.jsonl").exists():
        yield number, folder
        number += 1


def sifted(number: int, drafted: Snapshot, sieve: Sieve, batches: Iterable[Sequence[Candidate]]) -> Replayed:
    """Put a round's candidates through a sieve, in the batches in which they were drafted."""
    then = tuple(record["id"] for record in drafted.each("kept.jsonl"))
    spare = {record["id"] for record in drafted.each("dropped.jsonl") if record["rule"] == "surplus"}
    answered = {record["id"] for record in drafted.each("completions.jsonl") if record["stage"] == "answer"}
    kept, unknown, dropped = [], [], Counter[str]()
    for candidates in batches:
        drops = sieve.questions(candidates)
        for candidate in candidates:
            drop = drops.get(candidate.id)
            if drop is None and candidate.id not in answered:
                unknown.append(candidate.id)
                continue
            drop = drop or sieve.answer(candidate)
            if drop is None:
                kept.append(candidate.id)
            else:
                dropped[drop.rule] += 1
    surplus = tuple(name for name in kept if name in spare)
    return Replayed(number, then, tuple(kept), dict(dropped), tuple(unknown), surplus)


def recorded(drafted: Snapshot, number: int, answers: Mapping[str, str], dimensions: int) -> Iterator[list[Candidate]]:
    """Yield a round's candidates as the model left them, before any rule, batch by batch; RunError: files disagree."""
    path = drafted.folder / "prompts.jsonl"
    scored = in_batches(drafted, "scores.jsonl")
    places = {record["id"]: place for place, record in enumerate(drafted.each("embedded.jsonl"))}
    rows = embeddings(drafted, len(places))
    refuse_others(rows, dimensions, drafted.folder / "embeddings.f16")
    next_scored, scores = next(scored, (-1, []))
    for batch, completions, asked in side_by_side(drafted):
        written = {(record["id"], record["stage"]): record for record in completions}
        shown = {(record["id"], record["stage"]): record["demonstrations"] for record in asked}
        likely: dict[str, dict[str, Any]] = {}
        if batch == next_scored:
            likely = {record["id"]: record for record in scores}
            next_scored, scores = next(scored, (-1, []))
        found = []
        for name in (name for name, stage in written if stage == "question"):
            candidate = Candidate(name, number, parse_question(written[name, "question"]["text"]))
            candidate.question_parents = tuple(look_up(shown, (name, "question"), path))
            candidate.vector = rows[places[name]].astype(np.float32) if name in places else None
            if (name, "answer") in written:
                few = look_up(shown, (name, "answer"), path)
                candidate.shown = tuple(look_up(answers, one, drafted.folder.parent / "seeds.jsonl") for one in few)
                add_answer(candidate, written[name, "answer"], few, likely.get(name))
            found.append(candidate)
        yield found


def side_by_side(drafted: Snapshot) -> Iterator[tuple[int, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yield the completions and the prompts of each batch; raises RunError where they are not of the same batches."""
    pairs = zip_longest(in_batches(drafted, "completions.jsonl"), in_batches(drafted, "prompts.jsonl"))
    for completions, prompts in pairs:
        if completions is None or prompts is None or completions[0] != prompts[0]:
            path = drafted.folder / "completions.jsonl"
            raise RunError(f"{path}: not of the same batches as prompts.jsonl. {remedy(path)}")
        yield completions[0], completions[1], prompts[1]


def refuse_others(rows: NDArray[np.float16], dimensions: int, path: Path) -> None:
    """Raise RunError where vectors cannot be compared with those of the seeds: another length, or no numbers."""
    if len(rows) and rows.shape[1] != dimensions:
        raise RunError(f"{path}: vectors of {rows.shape[1]} numbers, and the seeds' have {dimensions}. {remedy(path)}")
    for start in range(0, len(rows), _BLOCK):
        if not np.isfinite(rows[start : start + _BLOCK]).all():
            raise RunError(f"{path}: numbers that are none. {remedy(path)}")


def embeddings(drafted: Snapshot, count: int) -> NDArray[np.float16]:
    """Return the stored embeddings of a round's `count` parsed questions, left on the disk until they are looked at."""
    path, length = drafted.folder / "embeddings.f16", drafted.lengths.get("embeddings.f16", 0)
    refuse_gap(path, path.stat().st_size if path.exists() else 0, length)
    if not length:
        return vectors_from(b"", count, path).astype(np.float16)
    if not count or length // 2 % count:
        raise RunError(f"{path}: {length // 2} numbers do not make {count} vectors. The file was changed or cut.")
    return np.memmap(path, dtype="<f2", mode="r", shape=(count, length // 2 // count))


def in_batches(drafted: Snapshot, name: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the records of a file with the number of their batch."""
    for batch, records in groupby(drafted.each(name), key=lambda record: int(record["batch"])):
        yield batch, list(records)


def add_answer(
    candidate: Candidate,
    completion: Mapping[str, Any],
    demonstrations: list[str],
    score: Mapping[str, Any] | None,
) -> None:
    """Put a recorded answer into a candidate."""
    candidate.answer = parse_answer(completion["text"])
    candidate.finished = completion["finished"]
    candidate.answer_parents = tuple(demonstrations)
    if score is not None:
        candidate.scores["confidence"] = score["nll"]
        candidate.scores["gain"] = score["bare_nll"] - score["nll"]


def vectors_from(content: bytes, count: int, path: Path) -> Vectors:
    """Return vectors from a file's rows of float16; raises RunError where their number is not that of the samples."""
    numbers = np.frombuffer(content[: len(content) // 2 * 2], dtype="<f2").astype(np.float32)
    if not np.isfinite(numbers).all():
        raise RunError(f"{path}: numbers that are none. {remedy(path)}")
    if count == 0:
        return np.zeros((0, max(1, len(numbers))), dtype=np.float32)
    if len(numbers) == 0 or len(numbers) % count:
        raise RunError(f"{path}: {len(numbers)} numbers do not make {count} vectors. The file was changed or cut.")
    return numbers.reshape(count, -1)
