"""`isara report RUN`: one self-contained HTML page and a short Markdown report, from the run directory alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isara.errors import RunError
from isara.report.comparison import comparison_at, comparison_html, comparison_markdown
from isara.report.load import load_run
from isara.report.markdown import markdown_page
from isara.report.page import html_page

__all__ = ["ReportPaths", "write_comparison", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where a report was written."""

    html: Path
    markdown: Path


def write_report(run: Path) -> ReportPaths:
    """
    Write report.html and report.md into the run directory `run`, complete or in progress, and return their paths.

    The same files give the same bytes. RunError: it is no run directory, a file is damaged, or it cannot be written.
    """
    loaded = load_run(run)
    paths = ReportPaths(html=run / "report.html", markdown=run / "report.md")
    _write(paths.html, html_page(loaded))
    _write(paths.markdown, markdown_page(loaded))
    return paths


def write_comparison(folder: Path) -> ReportPaths:
    """Write comparison.html and comparison.md into the folder of a study, from its comparison.json alone."""
    found = comparison_at(folder)
    paths = ReportPaths(html=folder / "comparison.html", markdown=folder / "comparison.md")
    _write(paths.html, comparison_html(found))
    _write(paths.markdown, comparison_markdown(found))
    return paths


def _write(path: Path, text: str) -> None:
    """Put the whole text there at once, so that nobody reads half a page."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}). Check the folder and its permissions."
        ) from error
