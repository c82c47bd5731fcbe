"""`isara score`: measuring recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from isara.cli.app import app, show


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
