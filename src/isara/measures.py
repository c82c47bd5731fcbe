"""Further measures of a study: items that no arm learns from, and every arm's weights on them, each only once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara.api import Backend, plain
from isara.digests import facts_in, files_below
from isara.errors import InputError
from isara.evals.benchmark import Benchmark, Rows
from isara.evals.files import read_rows, records_of
from isara.evaluate import Options, Subject, collect, conclude, open_benchmark, request, settle
from isara.events import Event, Watch, named
from isara.lock import locked_soon
from isara.picking import picked
from isara.protocols import Embedder
from isara.rundir import fingerprint, records_in, snapshot, write_jsonl
from isara.samples import read_jsonl
from isara.settings import Settings
from isara.spent import spending
from isara.study import MeasureSettings, Part, Study
from isara.tally import Place, arm_at, beside, judging_file, means_of, pairs, rounds_of

_PROMPTS = ("prompt", "goal", "question", "instruction")
_WHOLE = ("forgetting",)
"""Benchmarks whose file has no prompts, so that no row of it can be one that was learned from."""
_LONGEST = 24 * 3600.0
"""Seconds to wait for another process that is measuring the same."""
LEFT_OUT = "not measured: its demonstrations stand in the prompts of a run, and a benchmark has prompts of its own"


@dataclass(frozen=True, slots=True)
class Items:
    """A benchmark of a study, its items set aside."""

    benchmark: Benchmark
    folder: str
    """Where its rows are, within the study's folder: named for its content, so that other items go elsewhere."""
    notes: tuple[str, ...]
    """What was left out, and why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of a study that are measured, whichever arms they are."""

    name: str
    """The arm of a run, and a hash of its weights and of the model they belong to."""
    arm: str
    adapter: Path | None
    settings: Settings


Load = Callable[[Settings], Backend]
"""Gives the model of an arm: loaded when something has to be measured, and again only for other settings of it."""


def opening(make: Load, watch: Watch) -> tuple[Load, Callable[[], Embedder], Callable[[], None]]:
    """Return how the model of an arm is loaded, the embedder that came with the last one, and how both are let go."""
    held: list[tuple[str, Backend]] = []

    def load(settings: Settings) -> Backend:
        key = model_key(settings)
        if not held or held[0][0] != key:
            # What is there goes first: two models may not fit into memory.
            held.clear()
            held.append((key, make(settings)))
            for sentence in held[0][1].said:
                watch(Event("say", {"text": sentence, "level": "info"}))
        return held[0][1]

    return load, lambda: held[0][1].embedder, held.clear


def set_aside(study: Study, out: Path, embedder: Callable[[], Embedder]) -> list[Items]:
    """
    Return the benchmarks that a study names, without the items that its arms learn from or are chosen by.

    The items are written into the study's folder `data`, as files that `isara eval` takes as well. Nothing is loaded:
    a mistake in one of the files is told before any time is spent.
    """
    data = out / "data"
    learned = {plain(each["question"]) for part in ("seeds", "heldout") for each in read_jsonl(data / f"{part}.jsonl")}
    found = []
    for name, chosen in study.chosen.measures.items():
        sources, notes = sources_of(study, name, chosen, data, learned)
        options = Options({name: sources}, None if sources and name not in _WHOLE else chosen.limit, chosen.max_tokens)
        subject = Subject(study.path.stem, study.arms[0].settings, {}, None)
        try:
            benchmark = open_benchmark(name, subject, options, embedder)
        except InputError as error:
            raise InputError(f"{study.path}: measures.{name}: {str(error).removeprefix('--on ')}") from error
        told = [named_by_study(note, sources, [part.file for part in chosen.parts]) for note in benchmark.notes]
        stem = re.sub(r"[^\w-]+", "-", name)
        content = fingerprint([name, dict(benchmark.facts)])[:8]
        found.append(Items(benchmark, f"measures/{stem}-{content}", (*told, *notes)))
    return found


def named_by_study(note: str, sources: Sequence[str], names: Sequence[str]) -> str:
    """Return a benchmark's note with files as the study calls them: where they lie on one machine tells nobody."""
    for source, name in zip(sources, names or [Path(source).name for source in sources], strict=True):
        note = note.replace(source, name)
    return note


def sources_of(
    study: Study, name: str, chosen: MeasureSettings, data: Path, learned: set[str]
) -> tuple[list[str], list[str]]:
    """Return the files of a benchmark's items, and a sentence for each thing that was left out of them."""
    if name == "heldout":
        return [str(data / judging_file(data.parent))], []
    if name in _WHOLE:
        return [study.source(part.file) for part in chosen.parts], []
    sources, notes = [], []
    for number, part in enumerate(chosen.parts, start=1):
        rows, said = items_of(study, part, chosen.limit, learned)
        path = data / f"{name}-{number}.jsonl"
        write_jsonl(path, rows)
        sources.append(str(path))
        notes += said
    return sources, notes


def items_of(study: Study, part: Part, limit: int, learned: set[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """
    Return the rows of a file that measure: of each prompt the first, none that is learned from, so many at most.

    Which ones depends on their prompts alone, so that another draw of seeds changes as little as it can.
    """
    source = study.source(part.file)
    rows = picked(read_rows(source), part.where, {}, source) if part.where else read_rows(source)
    by_prompt: dict[str, dict[str, Any]] = {}
    for where, record in records_of(rows):
        by_prompt.setdefault(plain(prompt_of(record)) or where, dict(record))
    unseen = [prompt for prompt in by_prompt if prompt not in learned]
    if not unseen:
        raise InputError(f"{source}: every prompt here is a seed or a held-out sample. Name a file with others.")
    chosen = set(sorted(unseen, key=fingerprint)[:limit])
    notes = []
    if len(unseen) < len(by_prompt):
        notes.append(
            f"{part.file}: {len(by_prompt) - len(unseen)} of {len(by_prompt)} prompts are left out, being among the "
            "seeds or the samples that choose."
        )
    if len(chosen) < len(unseen):
        notes.append(f"{part.file}: {len(chosen)} of {len(unseen)} prompts were drawn.")
    return [by_prompt[prompt] for prompt in unseen if prompt in chosen], notes


def prompt_of(record: Mapping[str, Any]) -> str:
    """Return the text that a row asks; empty where it cannot be told."""
    named_so = {str(key).strip().casefold(): value for key, value in record.items()}
    return next((str(named_so[name]) for name in _PROMPTS if isinstance(named_so.get(name), str)), "")


def weights_of(study: Study, out: Path, places: Sequence[Place]) -> dict[tuple[str, int], Weights]:
    """Return what is measured for each arm and random seed; nothing for demonstrations without tuned weights."""
    settings = {arm.name: arm.settings for arm in study.arms}
    found = {}
    for place in places:
        result = arm_at(out, place)
        if result == "retrieved":
            continue
        own = settings[place.arm]
        adapter = None if result == "base" else out / place.run / result / "adapter"
        content = fingerprint([model_key(own), facts_in(adapter, files_below(adapter)) if adapter else None])
        found[place.arm, place.seed] = Weights(f"{result}-{content[:8]}", result, adapter, own)
    return found


def model_key(settings: Settings) -> str:
    """Return a hash of the settings that say which model is at work, and by what."""
    return fingerprint([settings.model.model_dump(mode="json"), settings.server.model_dump(mode="json")])


def perform(all_items: Sequence[Items], weights: Iterable[Weights], out: Path, load: Load, watch: Watch) -> None:
    """
    Measure what is not measured yet, weights that several arms have only once; killed, the next call goes on.

    Processes at different random seeds have some weights in common, the untouched model's: one of them measures those.
    """
    for each in {one.name: one for one in weights}.values():
        for items in all_items:
            folder = out / items.folder / each.name
            if is_measured(folder, each.arm):
                continue
            with locked_soon(folder, _LONGEST):
                if not is_measured(folder, each.arm):
                    made = load(each.settings)
                    # Nothing here was complete, so what another version of the model began is no loss.
                    with spending(out, f"{items.folder}/{each.name}"):
                        measure(folder, items.benchmark, each, made, watch)


def measure(folder: Path, benchmark: Benchmark, weights: Weights, made: Backend, watch: Watch) -> None:
    """Measure weights on a benchmark into a folder."""
    subject = Subject(weights.name, weights.settings, {weights.arm: weights.adapter}, None)
    settle(folder, request(benchmark, subject, made), force=True)
    model = made.model.with_adapter(weights.adapter)
    rows = collect(folder / weights.arm, weights.arm, benchmark, model, named(watch, weights.name))
    conclude(folder, benchmark, {weights.arm: rows}, subject)


def is_measured(folder: Path, arm: str) -> bool:
    """Whether weights did all items; the folder's name says which weights and items."""
    return (folder / "summary.json").exists() and (folder / arm / "journal.jsonl").exists()


def measured(
    study: Study,
    out: Path,
    places: Sequence[Place],
    all_items: Sequence[Items],
    weights: Mapping[tuple[str, int], Weights],
    load: Load,
    watch: Watch,
) -> list[dict[str, Any]]:
    """Return what `comparison.json` is to hold of the further measures, having measured what is missing."""
    if not all_items:
        return []
    perform(all_items, weights.values(), out, load, watch)
    seen = written_in(out, places)
    return [entry for items in all_items for entry in entries(study, out, items, weights, seen)]


def written_in(out: Path, places: Sequence[Place]) -> set[str]:
    """Return the questions that any arm wrote and was tuned on."""
    rounds = {out / place.run / f"round-{n}" for place in places for n in rounds_of(out / place.run, place.result)}
    return {plain(record["question"]) for folder in rounds for record in records_in(folder / "kept.jsonl")}


def entries(
    study: Study, out: Path, items: Items, weights: Mapping[tuple[str, int], Weights], seen: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield each measure of a benchmark: the mean of every arm and its paired difference to the chosen one."""
    rows: dict[tuple[str, int], Rows] = {
        key: snapshot(out / items.folder / each.name / each.arm).records("rows.jsonl") for key, each in weights.items()
    }
    asked = [plain(str(row.get("prompt", row.get("question", "")))) for row in next(iter(rows.values()), [])]
    unseen = [place for place, prompt in enumerate(asked) if prompt not in seen]
    notes = list(items.notes)
    if len(unseen) < len(asked):
        notes.append(f"{len(asked) - len(unseen)} items are left out: an arm wrote the same question, and learned it.")
    for measure in items.benchmark.measures:
        kept = {key: measure.values([some[place] for place in unseen]) for key, some in rows.items()}
        if measure.perplexity or not any(kept.values()):
            continue
        yield {
            "benchmark": items.benchmark.name,
            "measure": measure.name,
            "better": measure.better,
            "items": len(next(iter(kept.values()))),
            "folder": items.folder,
            "notes": notes,
            **standings(study, kept, -1.0 if measure.better == "higher" else 1.0),
        }


def standings(study: Study, values: Mapping[tuple[str, int], Sequence[Any]], sign: float) -> dict[str, Any]:
    """
    Return the arms, each with its mean, by random seed as well, and its difference, and the pairs with theirs.

    A difference is above zero where the arm is better.
    """
    chosen, confidence = study.chosen, study.arms[0].settings.gate.confidence
    scores = {
        arm.name: [[sign * float(value) for value in values[arm.name, seed]] for seed in chosen.random_seeds]
        for arm in study.arms
        if all((arm.name, seed) in values for seed in chosen.random_seeds)
    }
    found: list[dict[str, Any]] = []
    for arm in study.arms:
        if arm.name not in scores:
            found.append({"arm": arm.name, "label": arm.label, "left_out": LEFT_OUT})
            continue
        entry = {"arm": arm.name, "label": arm.label, **means_of(scores[arm.name], sign)}
        if chosen.against in scores:
            entry |= beside((arm.name, scores[arm.name]), (chosen.against, scores[chosen.against]), confidence)
        found.append(entry)
    return {"arms": found, "pairs": pairs(study, scores, confidence)}
