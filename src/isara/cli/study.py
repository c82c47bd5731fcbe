"""`isara compare`: arms with equal budgets, over several random seeds, in one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from isara.cli.app import Sets, app, show

SeedsOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--seeds", help="Samples in place of those that the file names."),
]


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="A TOML file that names the samples and the arms.")],
    out: Annotated[Path, typer.Option("--out", help="The study's folder; one that is there is gone on with.")] = Path(
        "runs/compare"
    ),
    seeds: SeedsOption = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", help="A folder with the files that it names and that are not beside it."),
    ] = None,
    random_seeds: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(
            "--random-seed",
            help="Make the runs and measures of this random seed of the study's and show nothing, so that several "
            "machines share the work; without it, all is made and shown. Repeatable.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            help="Random seeds to make at once, each in a process with its share of the cores and a model of its own.",
        ),
    ] = 1,
    sets: Sets = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Compare arms with equal budgets over several random seeds; what they share is made once."""
    from isara.cli.work import watching
    from isara.compare import compare as run_study
    from isara.compare import compare_part
    from isara.errors import SettingsError
    from isara.study import load_study
    from isara.workers import compare_parts, parts_of

    if random_seeds and workers != 1:
        raise SettingsError("--workers makes all random seeds, --random-seed one. Give one of the two.")
    study = load_study(config, list(sets or []), seeds=seeds, data=data)
    if random_seeds:
        with watching(quiet=quiet) as watch:
            compare_part(study, out, random_seeds, watch=watch)
        if not quiet:
            made = ", ".join(map(str, random_seeds))
            show(f"Made: random seed {made}. Without --random-seed the same command makes the others and shows all.")
        return
    if workers != 1:
        with ExitStack() as watches:
            # Several progress lines at once are plain lines, each of its own random seed.
            compare_parts(
                parts_of(study, out),
                workers,
                watch_of=lambda part: watches.enter_context(watching(quiet=quiet, plain=True)),
            )
    with watching(quiet=quiet) as watch:
        found = run_study(study, out, watch=watch)
    if not quiet:
        print_comparison(found, out)


def print_comparison(found: Mapping[str, Any], out: Path) -> None:
    """Print a study's tables and sentences."""
    from rich.console import Console

    from isara.console import choices_table, comparison_table, measure_table

    tables = [comparison_table(found)]
    tables += [choices_table(found, "NLL per token", found["pairs"])] if found["pairs"] else []
    for each in found["measures"]:
        tables.append(measure_table(found, each))
        what = f"{each['benchmark']}: {each['measure']}"
        tables += [choices_table(found, what, each["pairs"])] if each["pairs"] else []
    Console(width=None if sys.stdout.isatty() else 140).print(*tables)
    for each in found["rounds"]:
        show(f"{each['label']}: {each['sentence']}")
    for each in found["one_shot"]:
        show(each["sentence"])
    for line in found["unequal"]:
        show(f"unequal: {line}")
    show(f"The page: {out / 'comparison.html'}")
