"""
Writes docs/evidence.md from what studies showed.

    python bench/evidence.py runs/evidence-supportdesk runs/evidence-truthfulqa
    python bench/evidence.py --make DATA [--workers 2] runs

Takes over the comparison.json of each study's folder into docs/evidence/, and makes the page of all that is there.
With `--make` the studies are made first, into the folder named, several random seeds at a time, each on its share of
the cores; DATA is the folder of the files that are not part of the repository.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from isara.compare import compare
from isara.console import plain_watch
from isara.readers import SHIPPED
from isara.report import standings
from isara.report.comparison import comparison_at, comparison_markdown
from isara.report.text import number, signed
from isara.study import load_study
from isara.workers import compare_parts, parts_of

DOCS = Path(__file__).parent.parent / "docs"
CONFIGS = Path(__file__).parent.parent / "configs"
HEADLINES = (
    "untouched",
    "retrieved",
    "seeds",
    "seeds-longer",
    "self-instruct",
    "self-align",
    "one-shot",
    "two-rounds",
    "kept",
)
"""Arms of the table that stands in front, where a study has all of them."""
DEFAULTS = ("one-shot", "two-rounds")
"""Arms at the defaults, of which others change a single choice."""


def command_of(name: str) -> str:
    """Return the command that makes a study; `DATA` stands for the folder with what is not part of the repository."""
    study = load_study(CONFIGS / f"evidence-{name}.toml")
    more = "" if study.chosen.seeds in SHIPPED else " --data DATA"
    return f"isara compare configs/evidence-{name}.toml{more} --out runs/evidence-{name}"


def page(folder: Path) -> str:
    """Return the page: what stands in front of the tables, what it comes to, then each study's command and table."""
    studies = {path.name: comparison_at(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    about = (folder / "about.md").read_text(encoding="utf-8").rstrip()
    parts = [about.replace("{headlines}", headlines(studies)).replace("{choices}", choices(studies))]
    for name, found in studies.items():
        parts += [f"## {name}", f"```\n{command_of(name)}\n```", comparison_markdown(found).rstrip()]
    return "\n\n".join(parts) + "\n"


def headlines(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one table of the studies that have all of the arms of `HEADLINES`: the gain of each, and its interval."""
    arms = {name: {arm["arm"]: arm for arm in found["arms"]} for name, found in studies.items()}
    whole = [name for name, own in arms.items() if own.keys() >= set(HEADLINES)]
    rows = [["Arm", *whole], ["---"] * (len(whole) + 1)]
    for headline in HEADLINES:
        own = [arms[name][headline] for name in whole]
        rows.append([own[0]["label"], *(gain(arm, studies[name]) for name, arm in zip(whole, own, strict=True))])
    return standings.lines(rows)


def choices(studies: Mapping[str, Mapping[str, Any]]) -> str:
    """Return one table of every choice of the defaults that studies changed by itself: the gain, and its interval."""
    made: dict[str, dict[str, str]] = {}
    for name, found in studies.items():
        labels = {arm["arm"]: arm["label"] for arm in found["arms"]}
        for pair in found.get("pairs", ()):
            if pair["beside"] in DEFAULTS:
                made.setdefault(labels[pair["arm"]], {})[name] = told(pair)
    columns = [name for name in studies if any(name in row for row in made.values())]
    rows = [["Choice", *columns], ["---"] * (len(columns) + 1)]
    rows += [[label, *(row.get(name, "") for name in columns)] for label, row in made.items()]
    return standings.lines(rows)


def gain(arm: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Return an arm's gain with its interval and what that says; the NLL of the arm that others are compared with."""
    if arm["arm"] == found["against"]:
        return f"NLL {number(arm['mean'])}"
    return told(arm)


def told(compared: Mapping[str, Any]) -> str:
    """Return a paired difference, its interval, and what that says, where it says anything."""
    difference = compared["difference"]
    shown = f"{signed(difference['mean'])} ({standings.ends(difference)})"
    return f"{shown}, {compared['words']}" if compared["words"] in ("better", "worse") else shown


def make(out: Path, data: Path, workers: int) -> list[Path]:
    """Make every study of the page into folders below `out`, and return these."""
    configs = sorted(CONFIGS.glob("evidence-*.toml"))
    studies = {out / config.stem: load_study(config, data=data) for config in configs}
    # The longest first, so that no core is idle for long at the end, and shorter ones of the same samples begin with
    # what these have.
    parts = [part for place, study in studies.items() for part in parts_of(study, place)]
    parts.sort(key=lambda part: -sum(arm.settings.rounds for arm in part.study.arms))
    with ExitStack() as watches:
        compare_parts(parts, workers, watch_of=lambda part: watches.enter_context(plain_watch(sys.stderr, every=60.0)))
        for place, study in studies.items():
            compare(study, place, watch=watches.enter_context(plain_watch(sys.stderr)))
    return list(studies)


def main() -> None:
    """Take over the numbers of the folders named, made first where that is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_argument("--make", type=Path, metavar="DATA", help="make all studies, below the one folder named")
    parser.add_argument("--workers", type=int, default=2, help="random seeds at a time")
    chosen = parser.parse_args()
    if chosen.make and len(chosen.studies) != 1:
        parser.error("--make: name one folder, for all studies to be below")
    studies = make(chosen.studies[0], chosen.make, chosen.workers) if chosen.make else chosen.studies
    for study in studies:
        place = DOCS / "evidence" / study.name.removeprefix("evidence-")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(study / "comparison.json", place / "comparison.json")
    (DOCS / "evidence.md").write_text(page(DOCS / "evidence"), encoding="utf-8")


if __name__ == "__main__":
    main()
