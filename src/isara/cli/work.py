"""`isara run`, `status` and `report`: the run itself, how far it has come, and what it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from isara.cli.app import (
    AnswerField,
    ConfigOption,
    EngineOption,
    HeldoutOption,
    ModelOption,
    QuestionField,
    RunArgument,
    SeedsArgument,
    ServerOption,
    Sets,
    app,
    settings_from,
    show,
)

if TYPE_CHECKING:
    from isara.events import Watch


@app.command()
def run(
    seeds: SeedsArgument,
    out: Annotated[Path, typer.Option("--out", help="The run directory; one that is there is gone on with.")] = Path(
        "runs/latest"
    ),
    model: ModelOption = None,
    engine: EngineOption = None,
    server: ServerOption = None,
    rounds: Annotated[Optional[int], typer.Option("--rounds", help="Most rounds to run.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option("--seed", help="Random seed.")] = None,  # noqa: UP045
    heldout: HeldoutOption = None,
    test: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--test", help="Samples by which nothing is chosen, for an unbiased figure."),
    ] = None,
    config: ConfigOption = None,
    sets: Sets = None,
    question_field: QuestionField = None,
    answer_field: AnswerField = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute again, in place, what changed settings make stale.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Teach a model from samples: run the loop, or go on with it where it stopped."""
    from isara.api import align

    wanted = [*(sets or [])]
    wanted += [f"rounds={rounds}"] if rounds is not None else []
    wanted += [f"seed={seed}"] if seed is not None else []
    chosen = settings_from(config, wanted, model, engine, server)
    with watching(quiet=quiet) as watch:
        align(
            seeds,
            out=out,
            settings=chosen,
            heldout=heldout,
            test=test,
            force=force,
            watch=watch,
            question_field=question_field,
            answer_field=answer_field,
        )
    if not quiet:
        print_summary(out)
        show(f"The report: {out / 'report.html'}")


@contextmanager
def watching(*, quiet: bool, plain: bool = False) -> Iterator[Watch]:
    """Give what a run tells to a progress line on a terminal, to plain lines in a log or where asked, or to nobody."""
    from isara import events
    from isara.console import plain_watch, rich_watch

    if quiet:
        yield events.quiet
    elif sys.stderr.isatty() and not plain:
        from rich.console import Console

        with rich_watch(Console(stderr=True)) as watch:
            yield watch
    else:
        with plain_watch(sys.stderr) as watch:
            yield watch


def print_summary(run_folder: Path) -> None:
    """Print a run's table and verdict."""
    from rich.console import Console

    from isara.console import summary_table
    from isara.summary import summarise

    width = None if sys.stdout.isatty() else 110
    Console(width=width).print(summary_table(summarise(run_folder)))


@app.command()
def status(run_folder: RunArgument) -> None:
    """Say how far a run has come, and what it shows so far."""
    from isara.rundir import read_json
    from isara.summary import summarise

    found = summarise(run_folder)
    manifest = read_json(run_folder / "manifest.json")
    started = manifest.get("created", "?")
    show(f"{found['name']}: {found['status']}, model {found['model']}, started {started}")
    for entry in found["rounds"]:
        told = f"{entry['accepted']} of {entry['drafted']} candidates accepted. {entry.get('why', '')}"
        show(f"  round {entry['round']}: {told}")
    if found["status"] == "complete":
        print_summary(run_folder)
    else:
        show(f"  scored so far: {', '.join(row['arm'] for row in found['heldout']['arms']) or 'nothing'}")
        show("Start the same command again to go on.")


@app.command()
def report(run_folder: RunArgument) -> None:
    """Write report.html, report.md and summary.json again, from the run directory alone."""
    from isara.report import write_report
    from isara.seal import DERIVED, reseal
    from isara.summary import write_summary

    write_summary(run_folder)
    paths = write_report(run_folder)
    reseal(run_folder, DERIVED)
    show(f"wrote {paths.html}")
    show(f"wrote {paths.markdown}")
