"""`isara init` and `isara check`: before a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isara.cli.app import (
    AnswerField,
    ConfigOption,
    HeldoutOption,
    ModelOption,
    QuestionField,
    SeedsArgument,
    Sets,
    app,
    settings_from,
    show,
)


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
