"""The command line: `isara init · check · run · status · report · replay · lineage · chat`."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from isara.errors import IsaraError

if TYPE_CHECKING:
    from isara.events import Watch
    from isara.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach a language model a new domain from a handful of examples, and show whether it worked.",
    epilog="Exit codes: 0 done; 1 check found what would spoil a run; 2 unusable input or settings; 3 a run directory "
    "in the way; 4 nothing usable was generated; 5 a model could not be loaded or used; 130 stopped by you.",
)

SeedsArgument = Annotated[
    str, typer.Argument(help="A JSONL, JSON, CSV or Parquet file, a Hugging Face dataset, or a seed set that ships.")
]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.")]
Sets = Annotated[
    Optional[list[str]],  # noqa: UP045  (typer reads it)
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting; may be given many times."),
]
ConfigOption = Annotated[Optional[Path], typer.Option("--config", help="A TOML file of settings.")]  # noqa: UP045
ModelOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", help="The model to teach: a folder, a Hugging Face name, smollm2-135m, or scripted."),
]
QuestionField = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--question-field", help="The field that holds the question, where it cannot be told."),
]
AnswerField = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--answer-field", help="The field that holds the answer, where it cannot be told."),
]
HeldoutOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--heldout", help="Samples that judge the rounds; without it, a share of the seeds is set aside."),
]


def settings_from(config: Path | None, sets: list[str] | None, model: str | None) -> Settings:
    """Return the settings of a file, the command's changes on top."""
    from isara.config import load

    wanted = list(sets or [])
    if model is not None:
        import json

        wanted.append(f"model.name={json.dumps(model)}")
    return load(config, wanted)


def show(text: str, *, error: bool = False) -> None:
    """Write text to standard output or error, its lines and spaces as they are, control characters made visible."""
    from isara.console import clean

    parts = re.split("([ \n]+)", text)
    typer.echo("".join(clean(part) if part.strip(" \n") else part for part in parts), err=error)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to put the two files.")] = Path(),
    seeds: Annotated[str, typer.Option("--seeds", help="The seed set to start from.")] = "supportdesk",
) -> None:
    """Write a settings file with every setting explained, and a seed file to replace by your own."""
    from isara.config import starter
    from isara.errors import InputError
    from isara.readers import read_seeds
    from isara.samples import to_lines

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be a folder ({error.strerror}). Give another one.") from error
    targets = {
        folder / "isara.toml": starter(),
        folder / "seeds.jsonl": to_lines({"question": s.question, "answer": s.answer} for s in read_seeds(seeds)),
    }
    there = [path for path in targets if path.exists()]
    if there:
        raise InputError(f"{there[0]}: already there. Remove it, or give another folder.")
    for path, text in targets.items():
        path.write_text(text, encoding="utf-8")
        show(f"wrote {path}")
    show("Replace seeds.jsonl by 30 to 100 samples of your own, then:")
    show(f"  isara check {folder / 'seeds.jsonl'}")
    show(f"  isara run {folder / 'seeds.jsonl'} --config {folder / 'isara.toml'} --out runs/first")


@app.command()
def check(
    seeds: SeedsArgument,
    config: ConfigOption = None,
    model: ModelOption = None,
    heldout: HeldoutOption = None,
    question_field: QuestionField = None,
    answer_field: AnswerField = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine samples before any time is spent on them; exit code 1 when something would spoil the run."""
    from isara.checkup import check_seeds

    report = check_seeds(
        seeds,
        settings_from(config, sets, model),
        heldout=heldout,
        question_field=question_field,
        answer_field=answer_field,
    )
    if as_json:
        import json

        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=True))
    else:
        from isara.checkup import lines

        for line in lines(report):
            show(line)
    raise typer.Exit(1 if report.spoiled else 0)


@app.command()
def run(
    seeds: SeedsArgument,
    out: Annotated[Path, typer.Option("--out", help="The run directory; one that is there is gone on with.")] = Path(
        "runs/latest"
    ),
    model: ModelOption = None,
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
    chosen = settings_from(config, wanted, model)
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
def watching(*, quiet: bool) -> Iterator[Watch]:
    """Give what a run tells to a progress line on a terminal, to plain lines in a log, or to nobody."""
    from isara import events
    from isara.console import plain_watch, rich_watch

    if quiet:
        yield events.quiet
    elif sys.stderr.isatty():
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
    show(f"{found['name']}: {found['status']}, model {found['model']}, started {manifest['created']}")
    for entry in found["rounds"]:
        show(f"  round {entry['round']}: {entry['accepted']} of {entry['drafted']} candidates accepted. {entry['why']}")
    if found["status"] == "complete":
        print_summary(run_folder)
    else:
        show(f"  scored so far: {', '.join(row['arm'] for row in found['heldout']['arms']) or 'nothing'}")
        show("Start the same command again to go on.")


@app.command()
def report(run_folder: RunArgument) -> None:
    """Write report.html, report.md and summary.json again, from the run directory alone."""
    from isara.report import write_report
    from isara.summary import write_summary

    write_summary(run_folder)
    paths = write_report(run_folder)
    show(f"wrote {paths.html}")
    show(f"wrote {paths.markdown}")


@app.command()
def replay(run_folder: RunArgument, sets: Sets = None) -> None:
    """Show what other filter thresholds would have kept, without generating anything again."""
    from isara.config import changes, load_over
    from isara.errors import SettingsError
    from isara.replay import loosened
    from isara.replay import replay as replay_run
    from isara.rundir import read_json

    recorded = read_json(run_folder / "manifest.json")["settings"]
    settings = load_over(recorded, list(sets or []))
    others = [c.name for c in changes(recorded, settings.model_dump(mode="json")) if not c.name.startswith("filter.")]
    if others:
        raise SettingsError(f"--set: {others[0]} decides what is generated. A replay can change filter.* only.")
    for name, before, now in loosened(recorded["filter"], settings.filter):
        show(f"warning: {name} {before:g} → {now:g} lets in questions closer to those that judge the rounds.")
    for found in replay_run(run_folder, settings.filter):
        show(
            f"round {found.round}: {len(found.kept_then)} were kept, {len(found.kept_now)} would be "
            f"({len(found.gained)} more, {len(found.lost)} fewer)"
        )
        if found.surplus:
            show(f"  {len(found.surplus)} of them passed in the run too, and were surplus: it had its target already")
        for rule, count in found.dropped.items():
            show(f"  {rule:16} drops {count}")
        if found.unknown:
            show(f"  {len(found.unknown)} more would have been answered; what their answers are worth is not known")


@app.command()
def lineage(run_folder: RunArgument, sample: Annotated[str, typer.Argument(help="A sample's id.")]) -> None:
    """Print where a sample came from, back to the seeds."""
    from isara.lineage import lineage as family

    for ancestor in family(run_folder, sample):
        role = f"for the {ancestor.role}: " if ancestor.role else ""
        more = " (its own ancestors are listed above)" if ancestor.repeated else ""
        indent = "    " * ancestor.depth
        show(f"{indent}{role}{ancestor.id} [{ancestor.origin}]{more}")
        show(f"{indent}  Q: {' '.join(ancestor.question.split())}")
        show(f"{indent}  A: {' '.join(ancestor.answer.split())}")


@app.command()
def chat(
    run_folder: RunArgument,
    arm: Annotated[Optional[str], typer.Option("--arm", help="An arm such as round-1; else the best.")] = None,  # noqa: UP045
) -> None:
    """Talk to the untouched model and the tuned one side by side."""
    from isara.talk import talk

    talk(run_folder, arm, ask=prompt_line, answer=show)


def prompt_line() -> str | None:
    """Return a line from the reader; None at the end of input."""
    try:
        return input("you> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


class Stopped(BaseException):
    """Somebody asked this process to stop. Not a KeyboardInterrupt, which typer would answer with its own word."""


def stop(number: int, frame: FrameType | None) -> None:
    """Stop at once when asked to, by Ctrl-C or by SIGTERM: the run directory is in order at every moment."""
    raise Stopped


def main() -> None:
    """Run the command line; every error that isara raises on purpose becomes one message and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait for each other crawl as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        app(prog_name="isara")
    except IsaraError as error:
        show(f"isara: {error}", error=True)
        sys.exit(error.exit_code)
    except Stopped:
        typer.echo("\nisara: stopped. What is done is kept; start the same command again to go on.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
