"""`isara export`: the result as one ordinary checkpoint, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from isara.cli.app import RunArgument, app, show


@app.command()
def export(
    run_folder: RunArgument,
    out: Annotated[Path, typer.Argument(help="The new folder for the checkpoint.")],
    arm: Annotated[Optional[str], typer.Option("--arm", help="An arm such as round-1; else the best.")] = None,  # noqa: UP045
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, bfloat16, float16 or float32: the number format of the weights.")
    ] = "auto",
) -> None:
    """Write the tuned model as one checkpoint, and ask it again; exit code 1 when it does not say the same."""
    from isara.export import export as export_run

    exported = export_run(run_folder, out, arm=arm, dtype=dtype)
    show(exported.words)
    show(f"Every answer, before and after: {out / 'export.json'}")
    raise typer.Exit(0 if exported.same else 1)
