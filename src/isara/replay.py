"""What other thresholds would have kept: the recorded candidates through the filter again, nothing generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isara.errors import RunError
from isara.filter import Candidate, Sieve
from isara.neighbours import Neighbours
from isara.prompts import parse_answer, parse_question
from isara.protocols import Vectors
from isara.rundir import Snapshot, read_json, records_in, refuse_gap, snapshot
from isara.samples import Sample
from isara.settings import FilterSettings
from isara.vectors import Store


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
    if not (run / "manifest.json").exists():
        raise RunError(f"{run}: no run here (no manifest.json).")
    seeds = [Sample.from_json(record) for record in records_in(run / "seeds.jsonl")]
    judges = [Sample.from_json(r) for part in ("heldout", "test") for r in records_in(run / f"{part}.jsonl")]
    path = run / "samples.f16"
    vectors = vectors_from(path.read_bytes() if path.exists() else b"", len(seeds) + len(judges), path)
    pool, store = list(seeds), Store(vectors[: len(seeds)])
    answers = {sample.id: sample.answer for sample in seeds}
    replayed = []
    for number, folder in drafted_rounds(run):
        known = Neighbours(pool, store, floor=settings.rouge)
        sieve = Sieve(settings, known, Neighbours(judges, vectors[len(seeds) :], floor=settings.heldout_rouge))
        drafted = snapshot(folder)
        replayed.append(sifted(number, drafted, sieve, recorded(drafted, number, answers)))
        done = folder / "round.json"
        if done.exists() and read_json(done)["kept"]:
            kept = [Sample.from_json(record) for record in drafted.each("kept.jsonl")]
            places = {record["id"]: place for place, record in enumerate(drafted.each("embedded.jsonl"))}
            rows = embeddings(drafted, len(places))[[places[sample.id] for sample in kept]]
            pool += kept
            store = Store(np.concatenate([store.held, rows]))
            answers |= {sample.id: sample.answer for sample in kept}
    return replayed


def loosened(recorded: Mapping[str, float], settings: FilterSettings) -> Iterator[tuple[str, float, float]]:
    """Yield the rules that keep held-out questions out and would let more in: name, threshold then, threshold now."""
    pairs = (("heldout_rouge", settings.heldout_rouge), ("heldout_cosine", settings.heldout_cosine))
    for name, now in pairs:
        if now > recorded[name]:
            yield f"filter.{name}", recorded[name], now


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


def recorded(drafted: Snapshot, number: int, answers: Mapping[str, str]) -> Iterator[list[Candidate]]:
    """Yield a round's candidates as the model left them, before any rule, a batch at a time."""
    prompts, scored = in_batches(drafted, "prompts.jsonl"), in_batches(drafted, "scores.jsonl")
    places = {record["id"]: place for place, record in enumerate(drafted.each("embedded.jsonl"))}
    rows = embeddings(drafted, len(places))
    next_scored, scores = next(scored, (-1, []))
    for (batch, completions), (_, asked) in zip(in_batches(drafted, "completions.jsonl"), prompts, strict=True):
        written = {(record["id"], record["stage"]): record for record in completions}
        shown = {(record["id"], record["stage"]): record["demonstrations"] for record in asked}
        likely: dict[str, dict[str, Any]] = {}
        if batch == next_scored:
            likely = {record["id"]: record for record in scores}
            next_scored, scores = next(scored, (-1, []))
        found = []
        for name in (name for name, stage in written if stage == "question"):
            candidate = Candidate(name, number, parse_question(written[name, "question"]["text"]))
            candidate.question_parents = tuple(shown[name, "question"])
            candidate.vector = rows[places[name]].astype(np.float32) if name in places else None
            if (name, "answer") in written:
                add_answer(candidate, written[name, "answer"], shown[name, "answer"], likely.get(name), answers)
            found.append(candidate)
        yield found


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
    answers: Mapping[str, str],
) -> None:
    """Put a recorded answer into a candidate."""
    candidate.answer = parse_answer(completion["text"])
    candidate.finished = completion["finished"]
    candidate.answer_parents = tuple(demonstrations)
    candidate.shown = tuple(answers[name] for name in demonstrations)
    if score is not None:
        candidate.scores["confidence"] = score["nll"]
        candidate.scores["gain"] = score["bare_nll"] - score["nll"]


def vectors_from(content: bytes, count: int, path: Path) -> Vectors:
    """Return vectors from a file's rows of float16; raises RunError where their number is not that of the samples."""
    numbers = np.frombuffer(content[: len(content) // 2 * 2], dtype="<f2").astype(np.float32)
    if count == 0:
        return np.zeros((0, max(1, len(numbers))), dtype=np.float32)
    if len(numbers) == 0 or len(numbers) % count:
        raise RunError(f"{path}: {len(numbers)} numbers do not make {count} vectors. The file was changed or cut.")
    return numbers.reshape(count, -1)
