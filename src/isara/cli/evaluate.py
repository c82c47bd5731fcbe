"""`isara eval` and `score`: measuring models, and answers that are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from isara.cli.app import ConfigOption, EngineOption, Sets, app, settings_from, show
from isara.cli.judge import EquateOption, equated
from isara.cli.work import watching


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="A run directory, or a model as for `run`.")],
    on: Annotated[str, typer.Option("--on", metavar="NAME[,NAME]", help="Benchmarks, such as heldout,truthfulqa.")],
    data: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--data", metavar="NAME=FILE", help="A benchmark's file, or dataset on the hub; repeatable."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Where rows and figures go; for a run, its folder `evals`."),
    ] = None,
    arm: Annotated[Optional[str], typer.Option("--arm", help="An arm such as round-1; else the best.")] = None,  # noqa: UP045
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Take only the first so many items.")] = None,  # noqa: UP045
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest written answer, in tokens.")] = 512,
    judge: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--judge", metavar="URL|hf:NAME", help="A judge of written answers; give two to audit one."),
    ] = None,
    equate: EquateOption = None,
    min_alpha: Annotated[float, typer.Option("--min-alpha", help="Agreement below which no judge is believed.")] = 0.5,
    anyway: Annotated[bool, typer.Option("--anyway", help="Show a judge's score whatever the audit says.")] = False,
    engine: EngineOption = None,
    config: ConfigOption = None,
    sets: Sets = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what another request left there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Measure a model, or a run's untouched and tuned one side by side, on benchmarks."""
    from isara.errors import InputError
    from isara.evaluate import Options, subject_of
    from isara.evaluate import evaluate as measure
    from isara.judging import Judges
    from isara.seal import EVALS

    subject = subject_of(target, settings_from(config, sets, None, engine), arm)
    if subject.run is not None and (engine or config or sets):
        raise InputError("--engine, --config and --set are for a model by its name: a run has its own settings.")
    if out is None and subject.run is None:
        raise InputError("--out is missing: it names the folder for the rows of a model that no run made.")
    judges = Judges(tuple(judge or ()), equated(equate or []), min_alpha, anyway)
    options = Options(by_name(data or []), limit, max_tokens, judges)
    names = [name.strip() for name in on.split(",") if name.strip()]
    folder = out or Path(target) / EVALS
    with watching(quiet=quiet) as watch:
        outcomes = measure(subject, names, folder, options, force=force, watch=watch)
    for outcome in outcomes if not quiet else ():
        show(f"{outcome.benchmark}, {outcome.items} items, {subject.settings.gate.confidence:.0%} intervals")
        for name, figures in outcome.figures.items():
            show(f"  {name}")
            for figure in figures:
                show(f"    {figure}")
        for name, sentence in outcome.differences:
            show(f"  {name}: {sentence}")
        for note in outcome.notes:
            show(f"  {note}")
        show(f"  rows and summary.json are in {outcome.folder}")


def by_name(given: list[str]) -> dict[str, list[str]]:
    """Return the files of each benchmark, from `NAME=FILE` as they were given."""
    from isara.errors import InputError

    found: dict[str, list[str]] = {}
    for word in given:
        name, sign, source = word.partition("=")
        if not (sign and name and source):
            raise InputError(f"--data {word}: write it as NAME=FILE, such as truthfulqa=TruthfulQA.csv.")
        found.setdefault(name, []).append(source)
    return found


@app.command()
def score(
    responses: Annotated[str, typer.Argument(help="Recorded answers: JSONL with prompt, response and perhaps id.")],
    on: Annotated[str, typer.Option("--on", help="The benchmark: ifeval, safety or heldout.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write one scored row for each answer.")],
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--data", help="The benchmark's file: prompts with instructions, with references or with kinds."),
    ] = None,
    embedder: Annotated[
        str, typer.Option("--embedder", help="For heldout: minilm, hash or a sentence-transformers name.")
    ] = "minilm",
) -> None:
    """Score recorded answers of any model, without loading one."""
    from typing import get_args

    from isara.api import choose_embedder
    from isara.errors import InputError
    from isara.evals.recorded import Benchmark, score_file

    names = get_args(Benchmark)
    if on not in names:
        raise InputError(f"--on {on}: no such benchmark for recorded answers. Take one of {', '.join(names)}.")
    found = score_file(responses, on, data, out, lambda: choose_embedder(embedder)[0])  # type: ignore[arg-type]
    for note in found.notes:
        show(note, error=True)
    show(f"{on}, {len(found.rows)} answers, 95 % intervals")
    for figure in found.figures:
        show(f"  {figure}")
    show(f"wrote {out}")
