"""`isara compare`: every arm of a study with every random seed, each an ordinary run, what they share made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isara.api import Backend, align, choose_backend, read_inputs
from isara.errors import InputError, RunError, SettingsError
from isara.events import Event, Watch, named, quiet
from isara.iterations import iterations
from isara.lock import locked, locked_soon
from isara.measures import Items, Load, measured, opening, perform, set_aside, weights_of
from isara.protocols import Embedder
from isara.readers import Fields, read_seeds
from isara.recalled import recalling
from isara.report import write_comparison
from isara.rundir import fingerprint, read_json, write_json, write_jsonl
from isara.samples import Sample
from isara.settings import Settings
from isara.sharing import is_complete, lent, same_baselines, share
from isara.spent import spending, spent
from isara.study import LAST_ROUND, Arm, Study, Take, load_study
from isara.tally import Place, tally


@dataclass(frozen=True, slots=True)
class Job:
    """A run that has to be made."""

    name: str
    settings: Settings


def compare(
    study: Study | Path,
    out: Path,
    *,
    backend: Callable[[Settings], Backend] | None = None,
    watch: Watch = quiet,
) -> dict[str, Any]:
    """
    Make what is not made yet of a study, and return what it shows; the same is in `comparison.json`.

    After each random seed that file and the page show what there is, with `to_come` for the others. Called again it
    goes on where it stopped, and does nothing twice. Raises SettingsError for a study that makes no sense, and whatever
    `align` raises.
    """
    study = load_study(study) if isinstance(study, Path) else study
    with held(out, locked):
        load, embedder, let_go = opening(backend or choose_backend, watch)
        data, items, jobs, places = prepared(study, out, embedder)
        seeds = study.chosen.random_seeds
        for done, seed in enumerate(seeds, start=1):
            made = make_runs(jobs, seed, data, out, backend, watch)
            if not made and done < len(seeds) and seeds_shown(out) >= done:
                # A page that may show more random seeds is not written over.
                continue
            so_far = [place for place in places if place.seed in seeds[:done]]
            found = shown(with_seeds(study, seeds[:done]), out, so_far, items, load, watch)
            # Runs load a model of their own, and two may not fit into memory.
            let_go()
            found["to_come"] = list(seeds[done:])
            write_json(out / "comparison.json", found)
            write_comparison(out)
            if done < len(seeds):
                said = f"Random seed {seed} is done, {len(seeds) - done} to come. So far: {out / 'comparison.html'}"
                watch(Event("say", {"text": said, "level": "info"}))
    return found


def seeds_shown(out: Path) -> int:
    """Return how many random seeds the page of a study shows; none where there is no page yet."""
    path = out / "comparison.json"
    return len(read_json(path)["random_seeds"]) if path.exists() else 0


def compare_part(
    study: Study | Path,
    out: Path,
    random_seeds: Sequence[int],
    *,
    backend: Callable[[Settings], Backend] | None = None,
    watch: Watch = quiet,
) -> None:
    """
    Make the runs and measures of some of a study's random seeds, and show nothing: `compare` does, when all are made.

    Several processes can do so at once, each with random seeds of its own; on several machines they need a disk in
    common. Raises as `compare` does, and SettingsError for a random seed that the study has not.
    """
    study = load_study(study) if isinstance(study, Path) else study
    strange = [seed for seed in random_seeds if seed not in study.chosen.random_seeds]
    if strange:
        found = ", ".join(map(str, study.chosen.random_seeds))
        raise SettingsError(f"{study.path}: random_seeds: {strange[0]} is not among them (found: {found}).")
    # Begun together, each writes the same samples, one after the other.
    with held(out, locked_soon):
        load, embedder, let_go = opening(backend or choose_backend, watch)
        data, items, jobs, places = prepared(study, out, embedder)
    for seed in random_seeds:
        make_runs(jobs, seed, data, out, backend, watch)
        own = [place for place in places if place.seed == seed]
        perform(items, weights_of(study, out, own).values() if items else (), out, load, watch)
        # Runs load a model of their own, and two may not fit into memory.
        let_go()


def prepared(
    study: Study, out: Path, embedder: Callable[[], Embedder]
) -> tuple[dict[str, Path], list[Items], list[Job], list[Place]]:
    """Write what all runs of a study have in common; return its samples, further items, runs, and where arms are."""
    data = samples_of(study, out / "data")
    items = set_aside(study, out, embedder)
    return data, items, *plan(study, fingerprint([read_json(out / "data" / "hash.json")]))


def make_runs(
    jobs: Sequence[Job],
    seed: int,
    data: Mapping[str, Path],
    out: Path,
    backend: Callable[[Settings], Backend] | None,
    watch: Watch,
) -> bool:
    """Make the runs of a random seed that are not made yet, and return whether there was one."""
    with locked(out / f"seed-{seed}"):
        missing = [job for job in jobs if job.settings.seed == seed and not is_complete(out / job.name)]
        others = lent(out, facts_of(backend or choose_backend, missing[0].settings)) if missing else []
        for job in missing:
            donors = begin(job, jobs, out, others, watch)
            with spending(out, job.name):
                align(
                    str(data["seeds"]),
                    out=out / job.name,
                    settings=job.settings,
                    backend=recalling(backend or choose_backend, out / job.name, job.settings, donors),
                    watch=named(watch, job.name),
                    **judges(data),
                )
    return bool(missing)


def facts_of(
    make: Callable[[Settings], Backend], settings: Settings
) -> Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return how to find out what identifies the model and the embedder that a run would have."""

    def found() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        made = make(settings)
        return made.model_facts, made.embedder_facts

    return found


def begin(job: Job, jobs: Sequence[Job], out: Path, others: Sequence[Path], watch: Watch) -> list[Path]:
    """
    Begin a run with what an earlier one, or one of other studies, has in common with it, and say so where there is one.

    Returns the complete ones with the same random seed, which are all that are made before it.
    """
    number = jobs.index(job)
    # Another process may be at an earlier one.
    donors = [*(out / other.name for other in jobs[:number] if is_complete(out / other.name)), *others]
    donor = share(out / job.name, job.settings, donors)
    name = "" if donor is None else "/".join(donor.parts[-3:]) if donor in others else donor.name
    begun = f", beginning with what {name} has in common" if donor else ""
    watch(Event("say", {"text": f"Run {number + 1} of {len(jobs)}, {job.name}{begun}.", "level": "info"}))
    return [folder for folder in donors if folder.parent.name == f"seed-{job.settings.seed}"]


def with_seeds(study: Study, seeds: tuple[int, ...]) -> Study:
    """Return the study as if it had these random seeds only."""
    return replace(study, chosen=study.chosen.model_copy(update={"random_seeds": seeds}))


def shown(
    study: Study, out: Path, places: Sequence[Place], items: Sequence[Items], load: Load, watch: Watch
) -> dict[str, Any]:
    """Return what the runs of a study show, having measured what is missing."""
    found = tally(study, out, places)
    found |= iterations(study, out, places, found["arms"])
    weights = weights_of(study, out, places) if items else {}
    found["measures"] = measured(study, out, places, items, weights, load, watch)
    made = [place.run for place in places]
    made += [f"{some.folder}/{each.name}" for some in items for each in weights.values()]
    found["spent"] = spent(out, sorted(set(made)))
    return found


@contextmanager
def held(out: Path, lock: Callable[[Path], AbstractContextManager[object]]) -> Iterator[None]:
    """
    Hold a study's folder; raises RunError where it has something in it and is no study.

    That is looked at before the lock's file is there, so that nobody's files are mixed with ours, and after: until then
    another process may be writing the study's samples.
    """
    if strangers_in(out) != ["data"]:
        refuse_strangers(out)
    with lock(out):
        refuse_strangers(out)
        yield


def strangers_in(out: Path) -> list[str]:
    """Return the names of what is in a folder that is no study."""
    known = not out.is_dir() or (out / "data" / "hash.json").exists()
    return [] if known else sorted(entry.name for entry in out.glob("[!.]*"))


def refuse_strangers(out: Path) -> None:
    """Raise RunError where a folder has something in it and is no study."""
    strangers = strangers_in(out)
    if strangers:
        raise RunError(f"{out}: not empty, and no study of isara (found {strangers[0]}). Give another --out.")


def judges(data: Mapping[str, Path]) -> dict[str, Any]:
    """Return the files of samples that judge."""
    return {part: str(data[part]) for part in ("heldout", "test") if part in data}


def samples_of(study: Study, folder: Path) -> dict[str, Path]:
    """Write the samples of each part into a folder of their own, the same for all runs, and return their files."""
    chosen = study.chosen
    named = {"seeds": chosen.seeds, "heldout": chosen.heldout, "test": chosen.test}
    sources = {part: study.source(name) for part, name in named.items() if name}
    fields = Fields(question_field=chosen.question_field, answer_field=chosen.answer_field)
    samples = read_inputs(sources, fields)[0] if chosen.take is None else taken(sources["seeds"], chosen.take, fields)
    files = {}
    for part, some in samples.items():
        if some:
            files[part] = folder / f"{part}.jsonl"
            write_jsonl(files[part], [{"question": s.question, "answer": s.answer} for s in some])
    write_json(
        folder / "hash.json", {p: fingerprint([[s.question, s.answer] for s in some]) for p, some in samples.items()}
    )
    return files


def taken(source: str, take: Take, fields: Fields) -> dict[str, list[Sample]]:
    """Return each part with its rows, drawn once from one file; where some rows only test, the rest from the others."""
    if not take.test_where:
        samples = read_seeds(source, where=take.where, **fields)
        return drawn(samples, {"test": take.test, "heldout": take.heldout, "seeds": take.seeds}, source)
    tests = read_seeds(source, where={**take.where, **take.test_where}, **fields)
    others = read_seeds(source, where=take.where, unless=take.test_where, **fields)
    testing = drawn(tests, {"test": take.test}, f"{source}, rows that only test")
    return testing | drawn(others, {"heldout": take.heldout, "seeds": take.seeds}, f"{source}, the other rows")


def drawn(samples: Sequence[Sample], counts: Mapping[str, int], source: str) -> dict[str, list[Sample]]:
    """Return so many samples for each part, at random: those that judge first, so that more seeds add to the seeds."""
    if sum(counts.values()) > len(samples):
        raise InputError(f"{source}: {len(samples)} samples, and take asks for {sum(counts.values())}. Ask for fewer.")
    order = np.random.default_rng([0, 11]).permutation(len(samples)).tolist()
    parts, start = {}, 0
    for part, count in counts.items():
        parts[part] = [samples[i] for i in order[start : start + count]]
        start += count
    return parts


def plan(study: Study, data: str) -> tuple[list[Job], list[Place]]:
    """Return the runs to make, in order, and in which of them each arm is for each random seed."""
    jobs: dict[str, Job] = {}
    places = []
    # Arms that generate first, as their runs have the baselines that others are.
    ordered = sorted(study.arms, key=lambda arm: not arm.generating)
    for seed in study.chosen.random_seeds:
        hosts: list[Job] = []
        for arm in ordered:
            settings = arm.settings.model_copy(update={"seed": seed})
            job = host_of(arm, settings, hosts) or Job(f"seed-{seed}/{folder_name(arm, settings, data)}", settings)
            jobs.setdefault(job.name, job)
            hosts += [job] if job not in hosts else []
            places.append(Place(arm.name, seed, job.name, result_of(arm, job.settings)))
    return list(jobs.values()), places


def host_of(arm: Arm, settings: Settings, hosts: Sequence[Job]) -> Job | None:
    """Return the run that an arm is part of, where there is one."""
    if arm.generating:
        return next((job for job in hosts if job.settings == settings), None)
    return next((job for job in hosts if same_baselines(job.settings, settings)), None)


def folder_name(arm: Arm, settings: Settings, data: str) -> str:
    """Return where a run is: named for its first arm, and for its content, so that other settings go elsewhere."""
    return f"{arm.name}-{fingerprint([settings.model_dump(mode='json'), data])[:8]}"


def result_of(arm: Arm, settings: Settings) -> str:
    """Return the arm of its run that an arm is, where that is known beforehand."""
    return f"round-{settings.rounds}" if arm.result == LAST_ROUND else arm.result
