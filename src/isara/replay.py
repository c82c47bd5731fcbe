"""What other thresholds would have kept: the recorded candidates through the filter again, nothing generated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isara.errors import RunError
from isara.filter import Candidate, Sieve
from isara.neighbours import Neighbours
from isara.prompts import parse_answer, parse_question
from isara.protocols import Vectors
from isara.rundir import Snapshot, read_json, records_in, snapshot
from isara.samples import Sample
from isara.settings import FilterSettings


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
    pool, pool_vectors = list(seeds), vectors[: len(seeds)]
    answers = {sample.id: sample.answer for sample in seeds}
    replayed = []
    for number, folder in drafted_rounds(run):
        known = Neighbours(pool, pool_vectors)
        sieve = Sieve(settings, known, Neighbours(judges, vectors[len(seeds) :]))
        drafted = snapshot(folder)
        candidates = list(recorded(drafted, number, answers))
        replayed.append(sifted(number, drafted, sieve, candidates))
        done = folder / "round.json"
        if done.exists() and read_json(done)["kept"]:
            kept = [Sample.from_json(record) for record in drafted.records("kept.jsonl")]
            found = {c.id: c.vector for c in candidates if c.vector is not None}
            pool += kept
            pool_vectors = np.concatenate([pool_vectors, *(found[sample.id][None] for sample in kept)])
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


def sifted(number: int, drafted: Snapshot, sieve: Sieve, candidates: list[Candidate]) -> Replayed:
    """Put a round's candidates through a sieve."""
    then = tuple(record["id"] for record in drafted.records("kept.jsonl"))
    spare = {record["id"] for record in drafted.records("dropped.jsonl") if record["rule"] == "surplus"}
    kept, unknown, dropped = [], [], Counter[str]()
    answered = {record["id"] for record in drafted.records("completions.jsonl") if record["stage"] == "answer"}
    for candidate in candidates:
        drop = sieve.question(candidate)
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


def recorded(drafted: Snapshot, number: int, answers: Mapping[str, str]) -> Iterator[Candidate]:
    """Yield a round's candidates as the model left them, before any rule."""
    asked = {(r["id"], r["stage"]): r["demonstrations"] for r in drafted.records("prompts.jsonl")}
    written = {(r["id"], r["stage"]): r for r in drafted.records("completions.jsonl")}
    scores = {record["id"]: record for record in drafted.records("scores.jsonl")}
    names = [record["id"] for record in drafted.records("embedded.jsonl")]
    rows = vectors_from(drafted.content("embeddings.f16"), len(names), drafted.folder / "embeddings.f16")
    vectors = dict(zip(names, rows, strict=True))
    for name, stage in written:
        if stage != "question":
            continue
        candidate = Candidate(name, number, parse_question(written[name, stage]["text"]))
        candidate.question_parents = tuple(asked[name, stage])
        candidate.vector = vectors.get(name)
        if (name, "answer") in written:
            add_answer(candidate, written[name, "answer"], asked[name, "answer"], scores.get(name), answers)
        yield candidate


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
