"""A study as one table in Markdown and one self-contained page, from its `comparison.json` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from isara.errors import RunError
from isara.report import choices, rounds, scaling, standings
from isara.report.markdown import plain
from isara.report.page import policy
from isara.report.text import count, duration, escape, number, signed

HEADS = ("Arm", "NLL", "Gain on {}", "Interval", "", "By random seed", "Accepted", "Steps", "Tokens written", "Time")
NUMBERS = {"NLL", "Gain on {}", "Interval", "Accepted", "Steps", "Tokens written", "Time"}


def comparison_at(folder: Path) -> dict[str, Any]:
    """Return what a study showed; raises RunError where the folder holds none."""
    path = folder / "comparison.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no comparison to read ({error}). Run `isara compare` with --out {folder}.") from error
    return found


def cells(arm: Mapping[str, Any], against: str) -> list[str]:
    """Return an arm as the cells of a table."""
    difference, runs = arm["difference"], arm["runs"]
    own = arm["arm"] == against
    gain = "" if own else signed(difference["mean"])
    ends = "" if own else standings.ends(difference)
    steps = spread([run["steps"] for run in runs])
    # Older comparisons have no word of trainings that ended early: there were none.
    taken = spread([run.get("taken", run["steps"]) for run in runs])
    ended = f", ended after {taken}" if taken != steps else ""
    return [
        arm["label"],
        number(arm["mean"]),
        gain,
        ends,
        "" if own else arm["words"],
        ", ".join(number(run["mean"]) for run in runs),
        spread([run["accepted"] for run in runs]),
        f"{steps}{ended}, best {spread([run['best_step'] for run in runs])}" if steps else "",
        spread([run["tokens"] for run in runs]),
        duration(sum(run["seconds"] for run in runs) / len(runs)),
    ]


def spread(values: Sequence[int]) -> str:
    """Return the least and the most of some counts; nothing where all are zero."""
    low, high = min(values), max(values)
    return "" if not high else f"{low:,}" if low == high else f"{low:,} to {high:,}"


def facts(found: Mapping[str, Any]) -> str:
    """Return what the numbers are made of, in a sentence or two."""
    judged = "test samples, by which nothing was chosen" if found["judged_by"] == "test" else "held-out samples"
    seeds = f"{count(len(found['random_seeds']), 'random seed')} ({', '.join(map(str, found['random_seeds']))})"
    # Older comparisons were written at the end alone.
    seeds += f" so far, {len(found['to_come'])} to come" if found.get("to_come") else ""
    about = f"{found['about']} " if found["about"] else ""
    return about + (
        f"Negative log-likelihood per token of the reference answers, in nats; lower is better. {found['items']} "
        f"{judged}; {seeds}; model {found['model']}. A gain above zero "
        f"is better than {label_of(found, found['against'])}; its {100 * found['confidence']:g} % interval draws items "
        "and random seeds again and again. Time is that of drafting and tuning, the mean over the random seeds."
        + (f" All runs and measures took {duration(found['spent'])} of computing." if found.get("spent") else "")
    )


def label_of(found: Mapping[str, Any], name: str) -> str:
    """Return what a person calls an arm."""
    return str(next((arm["label"] for arm in found["arms"] if arm["arm"] == name), name))


def comparison_markdown(found: Mapping[str, Any]) -> str:
    """Return a study as one table, with what it is made of above it and what was unequal below."""
    against = label_of(found, found["against"])
    heads = [head.format(against) for head in HEADS]
    rows = [heads, ["---"] * len(heads), *(cells(arm, found["against"]) for arm in found["arms"])]
    unequal = found["unequal"] or ["Budgets are equal: accepted samples, and optimiser steps of what is compared."]
    said = "\n".join(f"- {plain(line)}" for line in unequal)
    parts = [plain(facts(found)), standings.lines(rows), said, *choices.markdown(found, found["arms"])]
    parts += rounds.markdown(found, against)
    for each in found.get("measures", ()):
        parts += [standings.markdown(each, found["against"], against), *choices.markdown(each, found["arms"])]
    return "\n\n".join(parts) + "\n"


def comparison_html(found: Mapping[str, Any]) -> str:
    """Return a study as one HTML document that asks the network for nothing and runs no script."""
    style = (files("isara.report") / "assets" / "report.css").read_text(encoding="utf-8")
    unequal = "".join(f"<li>{escape(line)}</li>" for line in found["unequal"])
    said = f"<ul>{unequal}</ul>" if unequal else "<p>Accepted samples and optimiser steps are equal in all arms.</p>"
    against = label_of(found, found["against"])
    rows = [cells(arm, found["against"]) for arm in found["arms"]]
    gains = standings.gains(found["arms"], found["against"], against, "NLL saved per token")
    further = (
        standings.section(each, found["against"], against) + choices.section(each, found["arms"])
        for each in found.get("measures", ())
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(found["study"])} · isara compare</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n<main>\n<section><h2>{escape(found['study'])}</h2>"
        f"<p>{escape(facts(found))}</p>{gains}</section>\n"
        f"<section><h2>All numbers</h2>{standings.grid(HEADS, against, rows, NUMBERS)}</section>\n"
        f"{choices.section(found, found['arms'])}"
        f"<section><h2>Budgets</h2>{said}</section>\n{rounds.section(found, against)}"
        f"{scaling.section(found)}{''.join(further)}</main>\n"
        "<footer>Made by isara from comparison.json alone. This file needs no network.</footer>\n</body>\n</html>\n"
    )
