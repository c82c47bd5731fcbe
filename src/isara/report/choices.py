"""Choice by choice: each arm that changes a single choice of another, beside that other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isara.report.markdown import plain
from isara.report.standings import ends, gains, lines, title
from isara.report.text import escape, signed

HEADS = ("Choice", "Beside", "Gain", "Interval", "")
FACTS = (
    "Each arm that changes a single choice of another, beside that other; above zero it is better than the other. "
    "Intervals as above, each for itself: at 95 %, one in twenty leaves zero out by chance alone."
)


def labels(arms: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what a person calls each arm."""
    return {arm["arm"]: arm["label"] for arm in arms}


def markdown(found: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the parts of a report that tell of the pairs of a measure, or of a study; none where there are none."""
    if not found.get("pairs"):
        return []
    named = labels(arms)
    rows = [
        [named[pair["arm"]], named[pair["beside"]], signed(d["mean"]), ends(d), pair["words"]]
        for pair in found["pairs"]
        for d in [pair["difference"]]
    ]
    return ["#### Choice by choice", plain(FACTS), lines([HEADS, ["---"] * len(HEADS), *rows])]


def section(found: Mapping[str, Any], arms: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of the page that tells of pairs, drawn and in numbers; nothing where there are none."""
    if not found.get("pairs"):
        return ""
    named = labels(arms)
    drawn = [pair | {"label": f"{named[pair['arm']]} (beside {named[pair['beside']]})"} for pair in found["pairs"]]
    heading = f"{title(found)}, choice by choice" if "measure" in found else "Choice by choice"
    return (
        f"<section><h2>{escape(heading)}</h2><p>{escape(FACTS)}</p>"
        f"{gains(drawn, '', 'the arm it stands beside', 'Gain')}</section>\n"
    )
