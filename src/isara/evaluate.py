"""`isara eval`: a model, or a run's untouched and tuned one, on benchmarks, with every row on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from isara.api import Backend, choose_backend
from isara.errors import InputError, RunError
from isara.evals import answered, forgetting, harness, truthfulqa
from isara.evals.benchmark import Benchmark, Rows, differences, figures
from isara.evals.judges import ASKED
from isara.evals.rates import Figure
from isara.events import Event, Watch, quiet
from isara.judging import Judges, judged, open_judge
from isara.lock import FILES, locked
from isara.protocols import Embedder, Model
from isara.readers import read_seeds
from isara.rundir import Journal, fingerprint, read_json, write_json
from isara.samples import Sample, read_samples
from isara.settings import Settings
from isara.summary import label, summarise

NAMES = ("heldout", "truthfulqa", "safety", "ifeval", "alpacaeval", "forgetting")
"""The benchmarks by name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured."""

    name: str
    settings: Settings
    adapters: Mapping[str, Path | None]
    """The tuned weights of each arm, the arm that others are held against first."""
    run: Path | None
    """The run directory it came from."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may say of a measurement."""

    data: Mapping[str, Sequence[str]]
    """Files or datasets of each benchmark."""
    limit: int | None = None
    """Take only the first so many items."""
    max_tokens: int = 512
    """Longest written answer."""
    judges: Judges = field(default_factory=Judges)
    """Who judges the written answers beside the built-in scores."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark showed."""

    benchmark: str
    items: int
    figures: Mapping[str, list[Figure]]
    """Of each arm."""
    differences: tuple[tuple[str, str], ...]
    """A measure, and the sentence of the paired difference."""
    notes: tuple[str, ...]
    folder: Path


def subject_of(target: str, settings: Settings, arm: str | None = None) -> Subject:
    """
    Return what to measure: a run's untouched model and its best arm (or `arm`), or a model by its name.

    `settings` are for a model; those of a run are its own. Raises RunError where the run has no such arm.
    """
    run = Path(target)
    if not (run / "manifest.json").exists():
        if arm is not None:
            raise InputError(f"{target}: no run directory, so there is no arm '{arm}'. Leave out --arm.")
        chosen = settings.model_copy(update={"model": settings.model.model_copy(update={"name": target})})
        return Subject(target, chosen, {"model": None}, None)
    own = Settings.model_validate(read_json(run / "manifest.json")["settings"])
    best = arm or summarise(run)["best"]
    if best is None:
        raise RunError(f"{run}: nothing is tuned yet. Start the run again to go on, then measure it.")
    if best == "base":
        return Subject(run.name, own, {"base": None}, run)
    if not (run / best / "adapter").exists():
        raise RunError(f"{run}: no tuned weights for {best!r}. `isara status {run}` lists the arms.")
    return Subject(run.name, own, {"base": None, best: run / best / "adapter"}, run)


def evaluate(
    subject: Subject,
    names: Sequence[str],
    out: Path,
    options: Options,
    *,
    force: bool = False,
    backend: Callable[[Settings], Backend] | None = None,
    watch: Watch = quiet,
) -> list[Outcome]:
    """
    Measure every arm on each benchmark, and leave rows, figures and differences under `out`.

    Benchmarks are read before any model is loaded, so that a mistake in the last one costs nothing. Called again, it
    goes on where it stopped; rows that other data or another model made are refused with RunError unless `force`.
    """
    opened: list[Backend] = []
    benchmarks = [open_benchmark(name, subject, options, lambda: opened[0].embedder) for name in dict.fromkeys(names)]
    refuse_judges(options.judges, benchmarks)
    with locked(out):
        opened.append((backend or choose_backend)(subject.settings))
        made = opened[0]
        for sentence in made.said:
            watch(Event("say", {"text": sentence, "level": "info"}))
        models = {arm: made.model.with_adapter(adapter) for arm, adapter in subject.adapters.items()}
        outcomes = []
        for benchmark in benchmarks:
            folder = out / benchmark.name
            settle(folder, request(benchmark, subject, made), force=force)
            rows = {arm: collect(folder / arm, arm, benchmark, model, watch) for arm, model in models.items()}
            if options.judges.specs and benchmark.name in ASKED:
                benchmark, rows = judged(folder, benchmark, rows, options.judges, subject.settings.gate.confidence)
            outcomes.append(conclude(folder, benchmark, rows, subject))
    return outcomes


def request(benchmark: Benchmark, subject: Subject, made: Backend) -> dict[str, Any]:
    """Return what the rows of a benchmark depend on."""
    facts = {"model": dict(made.model_facts), **arms_of(subject), **benchmark.facts}
    return facts | ({"embedder": dict(made.embedder_facts)} if benchmark.name == "heldout" else {})


def refuse_judges(judges: Judges, benchmarks: Sequence[Benchmark]) -> None:
    """Raise InputError for judges that have nothing to judge, before anything is computed."""
    if len(judges.specs) > 2:
        raise InputError(f"--judge: {len(judges.specs)} judges, and two are enough to hold one against the other.")
    if judges.specs and not any(benchmark.name in ASKED for benchmark in benchmarks):
        raise InputError(f"--judge: nothing here is judged. Judges are asked on {', '.join(ASKED)}.")
    for spec in judges.specs:
        if not spec.startswith(("http://", "https://", "hf:")):
            open_judge(spec, "safety", {})


def arms_of(subject: Subject) -> dict[str, Any]:
    """Return what identifies the tuned weights: training them again makes rows stale."""
    found = {}
    for arm, adapter in subject.adapters.items():
        trained = adapter.parent / "training.json" if adapter else None
        found[arm] = fingerprint(read_json(trained)) if trained and trained.exists() else None
    return {"arms": found}


def settle(folder: Path, wanted: Mapping[str, Any], *, force: bool) -> None:
    """Write down what the rows of a folder depend on; RunError where those that are there depend on something else."""
    path = folder / "request.json"
    if folder.is_dir() and not path.exists() and any(old.name not in FILES for old in folder.iterdir()):
        raise RunError(f"{folder}: not empty, and not made by isara. Give another --out.")
    if path.exists():
        there = read_json(path)
        changed = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
        if changed and not force:
            raise RunError(
                f"{folder}: holds rows for another request ({', '.join(changed)} changed). Give another --out, or "
                "--force to compute them again."
            )
        if changed:
            for old in sorted(folder.rglob("*"), reverse=True):
                if old.name not in FILES:
                    old.rmdir() if old.is_dir() else old.unlink()
    write_json(path, dict(wanted))


def collect(folder: Path, arm: str, benchmark: Benchmark, model: Model, watch: Watch) -> Rows:
    """Return a row for each item, made in chunks that are on the disk before the next begins."""
    journal = Journal(folder)
    name = f"{benchmark.name}-{arm}"
    facts = {"name": name, "label": f"{benchmark.name}, {label(arm)}", "kind": "eval", "units": len(benchmark.items)}
    watch(Event("stage", {**facts, "prior": 1.0}))
    rows: Rows = []
    for start in range(0, len(benchmark.items), benchmark.chunk):
        step = f"rows-{start}"
        if not journal.done(step):
            journal.commit(
                step, {"rows.jsonl": benchmark.perform(model, benchmark.items[start : start + benchmark.chunk])}
            )
        rows += journal.records(step, "rows.jsonl")
        watch(Event("progress", {"name": name, "done": len(rows)}))
    watch(Event("finish", {"name": name}))
    if benchmark.write is not None:
        benchmark.write(folder, f"{model.name}, {label(arm)}", rows)
    return rows


def conclude(folder: Path, benchmark: Benchmark, rows: Mapping[str, Rows], subject: Subject) -> Outcome:
    """Return what the rows show, and write it as `summary.json`."""
    confidence = subject.settings.gate.confidence
    found = {arm: figures(benchmark, some, confidence) for arm, some in rows.items()}
    arms = list(rows)
    compared = []
    for arm in arms[1:]:
        for measure, difference, words in differences(
            benchmark, rows[arms[0]], rows[arm], (label(arms[0]), label(arm)), confidence
        ):
            compared.append({"measure": measure, **asdict(difference), "words": words})
    summary = {
        "benchmark": benchmark.name,
        "subject": subject.name,
        "items": len(benchmark.items),
        "figures": {
            arm: [{"name": figure.name, **asdict(figure.interval)} for figure in some] for arm, some in found.items()
        },
        "differences": compared,
        "notes": list(benchmark.notes),
    }
    write_json(folder / "summary.json", summary)
    said = tuple((str(each["measure"]), str(each["words"])) for each in compared)
    return Outcome(benchmark.name, len(benchmark.items), found, said, benchmark.notes, folder)


def open_benchmark(name: str, subject: Subject, options: Options, embedder: Callable[[], Embedder]) -> Benchmark:
    """
    Return a benchmark with its items read; InputError for a name that is none, or data that is missing.

    The embedder is asked for when the first answer is there.
    """
    sources = list(options.data.get(name, ()))
    if name == "heldout":
        samples, source = heldout_samples(subject, sources)
        return answered.on_heldout(samples[: options.limit], source, options.max_tokens, embedder)
    if name == "forgetting":
        return forgetting.benchmark(_only(name, sources) if sources else None, options.limit)
    if name == "truthfulqa":
        return truthfulqa.benchmark(_only(name, sources), options.limit)
    if name == "ifeval":
        return answered.on_ifeval(_only(name, sources), options.limit, options.max_tokens)
    if name == "alpacaeval":
        return answered.on_alpacaeval(_only(name, sources), options.limit, options.max_tokens)
    if name == "safety":
        _some(name, sources)
        return answered.on_safety(sources, options.limit, options.max_tokens)
    if name.startswith("lm_eval:"):
        return harness.benchmark(name.removeprefix("lm_eval:"), options.limit)
    raise InputError(f"--on {name}: no such benchmark. Take some of {', '.join(NAMES)}, or lm_eval:TASK.")


def heldout_samples(subject: Subject, sources: Sequence[str]) -> tuple[list[Sample], str]:
    """Return the samples to judge by, and where they are from: a file, or the run's test or held-out samples."""
    if sources:
        source = _only("heldout", sources)
        return read_seeds(source, prefix="heldout"), source
    if subject.run is None:
        raise InputError("--data heldout=FILE is missing: a model, unlike a run, has no held-out samples of its own.")
    test = read_samples(subject.run / "test.jsonl")
    if test:
        return test, "the run's test samples, by which nothing was chosen"
    return read_samples(subject.run / "heldout.jsonl"), "the run's held-out samples, by which the arm was chosen"


def _some(name: str, sources: Sequence[str]) -> None:
    if not sources:
        raise InputError(f"--data {name}=FILE is missing: no benchmark's data ships with isara.")


def _only(name: str, sources: Sequence[str]) -> str:
    _some(name, sources)
    if len(sources) > 1:
        raise InputError(f"--data {name}: {len(sources)} files, and it takes one.")
    return sources[0]
