"""`isara report RUN`: one self-contained HTML page and a short Markdown report, from the run directory alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from isara.report.comparison import comparison_at, comparison_html, comparison_markdown
from isara.report.load import load_run
from isara.report.markdown import markdown_page
from isara.report.page import html_page
from isara.rundir import write_text

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
    write_text(paths.html, html_page(loaded))
    write_text(paths.markdown, markdown_page(loaded))
    return paths


def write_comparison(folder: Path) -> ReportPaths:
    """Write comparison.html and comparison.md into the folder of a study, from its comparison.json alone."""
    found = comparison_at(folder)
    paths = ReportPaths(html=folder / "comparison.html", markdown=folder / "comparison.md")
    write_text(paths.html, comparison_html(found))
    write_text(paths.markdown, comparison_markdown(found))
    return paths
