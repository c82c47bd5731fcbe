"""What every verb shares: the application, its options, and how text is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from isara.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach a language model a new domain from a handful of examples, and show whether it worked.",
    epilog="Exit codes: 0 done; 1 check, export or judge audit found something wrong; 2 unusable input or "
    "settings; 3 a run directory in the way, in use or damaged; 4 nothing usable was generated; 5 a model could not "
    "be loaded or used; 130 stopped by you.",
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
EngineOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--engine", help="What completes and scores: auto, transformers, openvino or server."),
]
ServerOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--server", metavar="URL", help="An OpenAI-compatible server that serves the model and completes."),
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


def settings_from(
    config: Path | None,
    sets: list[str] | None,
    model: str | None,
    engine: str | None = None,
    server: str | None = None,
) -> Settings:
    """Return the settings of a file, the command's changes on top."""
    import json

    from isara.config import load

    given = {"model.name": model, "model.engine": engine, "server.url": server}
    named = [f"{name}={json.dumps(value)}" for name, value in given.items() if value is not None]
    return load(config, [*(sets or []), *named])


def show(text: str, *, error: bool = False) -> None:
    """Write text to standard output or error, its lines and spaces as they are, control characters made visible."""
    from isara.console import clean

    parts = re.split("([ \n]+)", text)
    typer.echo("".join(clean(part) if part.strip(" \n") else part for part in parts), err=error)
