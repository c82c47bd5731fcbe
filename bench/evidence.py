"""
Writes docs/evidence.md from what studies showed.

    python bench/evidence.py runs/evidence-supportdesk runs/evidence-truthfulqa

Takes over the comparison.json of each study's folder into docs/evidence/, and makes the page of all that is there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from isara.readers import SHIPPED
from isara.report.comparison import comparison_at, comparison_markdown
from isara.study import load_study

DOCS = Path(__file__).parent.parent / "docs"
CONFIGS = Path(__file__).parent.parent / "configs"


def command_of(name: str) -> str:
    """Return the command that makes a study; `DATA` stands for the folder with what is not part of the repository."""
    study = load_study(CONFIGS / f"evidence-{name}.toml")
    more = "" if study.chosen.seeds in SHIPPED else " --data DATA"
    return f"isara compare configs/evidence-{name}.toml{more} --out runs/evidence-{name}"


def page(folder: Path) -> str:
    """Return the page: what stands in front of the tables, then each study's command and table."""
    parts = [(folder / "about.md").read_text(encoding="utf-8").rstrip()]
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        parts += [f"## {place.name}", f"```\n{command_of(place.name)}\n```"]
        parts.append(comparison_markdown(comparison_at(place)).rstrip())
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Take over the numbers of the folders named, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, metavar="STUDY", help="the folder of a study")
    for study in parser.parse_args().studies:
        place = DOCS / "evidence" / study.name.removeprefix("evidence-")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(study / "comparison.json", place / "comparison.json")
    (DOCS / "evidence.md").write_text(page(DOCS / "evidence"), encoding="utf-8")


if __name__ == "__main__":
    main()
