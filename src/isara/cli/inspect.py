"""`isara verify`, `replay`, `lineage` and `chat`: looking closer at a run that is there."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from isara.cli.app import RunArgument, Sets, app, show


@app.command()
def verify(run_folder: RunArgument) -> None:
    """Check that every file of a run is still as it was written; exit code 3 when one is not."""
    from isara.verify import verify as verify_run

    found = verify_run(run_folder)
    for note in found.notes:
        show(f"note: {note}")
    what = "the complete run" if found.complete else "a run that is not complete, as far as it is committed"
    if not found.faults:
        show(f"{run_folder}: {found.files} files checked, {what}: all as they were written.")
        return
    show(f"{run_folder}: {found.files} files checked, {what}: {len(found.faults)} are not as they were written.")
    for fault in found.faults:
        show(f"  {fault}")
    show("Put back a copy of them, or start the run's command again: it says what it can write anew and what it would")
    show("compute again, which --force does in place.")
    raise typer.Exit(3)


@app.command()
def replay(run_folder: RunArgument, sets: Sets = None) -> None:
    """Show what other filter thresholds would have kept, without generating anything again."""
    from isara.config import changes, load_over, recorded
    from isara.errors import SettingsError
    from isara.replay import loosened
    from isara.replay import replay as replay_run
    from isara.rundir import read_json

    path = run_folder / "manifest.json"
    found = read_json(path)["settings"]
    before = recorded(found, path)
    settings = load_over(found, list(sets or []))
    others = [c.name for c in changes(found, settings.model_dump(mode="json")) if not c.name.startswith("filter.")]
    if others:
        raise SettingsError(f"--set: {others[0]} decides what is generated. A replay can change filter.* only.")
    for name, then, now in loosened(before.filter, settings.filter):
        show(f"warning: {name} {then:g} → {now:g} lets in questions closer to those that judge the rounds.")
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
    """Return a line from the reader; None at the end of input. Raises InputError for bytes that are no text."""
    from isara.errors import InputError

    try:
        line = input("you> " if sys.stdin.isatty() else "")
        line.encode("utf-8")
    except EOFError:
        return None
    except UnicodeError as error:
        raise InputError(f"The question is not text in the encoding of this terminal ({error}). Ask again.") from error
    return line
