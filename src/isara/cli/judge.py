"""`isara judge audit`: whether a judge's numbers may be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from isara.cli.app import app, show

EquateOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--equate", metavar="LABEL=LABEL", help="A label that means another; may be given many times."),
]

judge = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Whether a judge's numbers may be believed.")
app.add_typer(judge, name="judge")


@judge.command()
def audit(
    judges: Annotated[
        list[str], typer.Argument(help="The labels of the judge, and of a second one: JSONL or CSV with id and label.")
    ],
    human: Annotated[Optional[str], typer.Option("--human", help="Labels by people, for the same items.")] = None,  # noqa: UP045
    field: Annotated[Optional[str], typer.Option("--field", help="The field with the judges' labels.")] = None,  # noqa: UP045
    human_field: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--human-field", help="The field with the labels by people."),
    ] = None,
    equate: EquateOption = None,
    level: Annotated[str, typer.Option("--level", help="What labels are: nominal, ordinal or interval.")] = "nominal",
    min_alpha: Annotated[float, typer.Option("--min-alpha", help="Alpha below which no score is printed.")] = 0.5,
    tau: Annotated[
        float, typer.Option("--tau", min=0, max=1, help="List what the judge is less sure of than this.")
    ] = 0,
    out: Annotated[Optional[Path], typer.Option("--out", help="Write the audit as JSON.")] = None,  # noqa: UP045
    anyway: Annotated[bool, typer.Option("--anyway", help="Print the judge's score whatever the audit says.")] = False,
) -> None:
    """Hold a judge against a second one and against people; exit code 1 when its score should not be printed."""
    from typing import get_args

    from isara.errors import InputError
    from isara.evals.agreement import Level
    from isara.evals.audit import audit as examine
    from isara.evals.audit import judged_score, read_labels
    from isara.rundir import write_json

    if level not in get_args(Level):
        raise InputError(f"--level {level}: no such level. Take one of {', '.join(get_args(Level))}.")
    if len(judges) > 2:
        raise InputError(f"{len(judges)} files of labels: give the judge's, and one of a second judge.")
    same = equated(equate or [])
    names = ["the judge", "the second judge"]
    read = [read_labels(source, name, field=field, equated=same) for source, name in zip(judges, names, strict=False)]
    people = read_labels(human, "the people", field=human_field, equated=same) if human else None
    found = examine(read, people, level=level, least=min_alpha, tau=tau)  # type: ignore[arg-type]
    for sentence in found.verdict:
        show(sentence)
    for gate in found.gates:
        alpha = "undefined" if gate.agreement.alpha is None else f"{gate.agreement.alpha:.3f}"
        show(f"  where it is sure to {gate.tau:g} or more: {gate.delegated:.0%} of the items, alpha {alpha}")
    if tau:
        show(f"{len(found.abstained)} items to be labelled by a person: {' '.join(found.abstained) or 'none'}")
    if out is not None:
        write_json(out, found.to_json())
    if not found.trusted and not anyway:
        show("The judge's score is not printed. --anyway prints it all the same.")
        raise typer.Exit(1)
    for figure in judged_score(read[0], level):  # type: ignore[arg-type]
        show(f"{figure}{'' if found.trusted else ' (not to be trusted, see above)'}")


def equated(pairs: list[str]) -> dict[str, str]:
    """Return which label stands for which, from `LABEL=LABEL` as they were given."""
    from isara.errors import InputError

    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise InputError(f"--equate {wrong[0]}: write it as LABEL=LABEL, such as 2_full_refusal=true.")
    return {old.strip().casefold(): new.strip().casefold() for old, _, new in (pair.partition("=") for pair in pairs)}
