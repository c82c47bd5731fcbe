"""The short report, for a terminal, a pull request or a notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from isara.report.items import means_so_far
from isara.report.load import Run
from isara.report.page import HOW_TO_READ
from isara.report.records import Evidence
from isara.report.sections import OPTIMISTIC, STILL_LEARNING, verdict_of
from isara.report.settings_view import chosen_settings
from isara.report.tables import sizes
from isara.report.text import number, one_line, p_value, reveal, signed


def markdown_page(run: Run) -> str:
    """Return the report as Markdown: the verdict, the scores, the rounds and the settings that differ."""
    parts = [f"# {plain(run.name)}", *_verdict(run), *_scores(run), *_rounds(run), *_settings(run), *_how_to_read()]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return hostile text as one line that Markdown shows as it is: no tags, links, images, code or table cells."""
    line = " ".join(reveal(text).split())
    line = re.sub(r"([\\`*|])", r"\\\1", line)
    line = re.sub(r"<(?=\S)", "&lt;", re.sub(r"&(?=[#\w])", "&amp;", line))
    return re.sub(r"\](?=[(\[:])", r"\\]", line)


def _verdict(run: Run) -> list[str]:
    summary = run.summary
    first, *rest = verdict_of(run)
    if summary is None or not run.finished:
        return [f"**{first}**", _list(run.missing)]
    parts = [f"**{plain(first)}**"]
    parts += [" ".join(map(plain, rest))] if rest else []
    facts = [f"Result: {plain(run.label(summary.best))}" + (f" ({plain(summary.adapter)})" if summary.adapter else "")]
    facts += [f"Stopped: {plain(summary.stopped)}"] if summary.stopped else []
    if summary.generated:
        facts.append(f"Generated: {summary.generated.accepted:,} kept of {summary.generated.candidates:,} candidates")
    return [*parts, _list([*facts, *map(plain, run.missing)])]


def _scores(run: Run) -> list[str]:
    summary = run.summary
    if summary is None or not run.finished:
        means = means_so_far(run)
        rows = [(plain(arm.label), f"{arm.n:,}", number(arm.mean)) for arm in means]
        return ["## Scores so far", _table(("Model", "n", "NLL per token"), rows)] if rows else []
    parts = ["## Scores", "Negative log-likelihood per token of the reference answers, in nats. Lower is better."]
    parts += _evidence(run, "Held-out samples", summary.heldout, summary.best)
    parts.append(OPTIMISTIC)
    return parts + (_evidence(run, "Test samples", summary.test, summary.best) if summary.test else [])


def _evidence(run: Run, title: str, evidence: Evidence, best: str | None) -> list[str]:
    parts = [f"### {title} ({evidence.n:,})"]
    rows = [
        (
            plain(arm.label or run.label(arm.arm)) + (" ← the result" if arm.arm == best else ""),
            number(arm.mean),
            f"{number(arm.low)} to {number(arm.high)}",
        )
        for arm in evidence.arms
    ]
    parts.append(_table(("Model", "Mean", "Interval"), rows))
    differences = [
        (
            f"{plain(run.label(diff.arm))} against {plain(run.label(diff.against))}",
            signed(diff.mean),
            f"{signed(diff.low)} to {signed(diff.high)}",
            plain(p_value(diff.p)),
            number(diff.smallest_effect),
            plain(diff.words),
        )
        for diff in evidence.differences
    ]
    if differences:
        heads = ("Paired difference", "NLL saved", "Interval", "p", "Shows from", "In words")
        parts.append(_table(heads, differences))
    return parts


def _rounds(run: Run) -> list[str]:
    parts: list[str] = []
    learning = {arm.name for arm in run.arms if arm.training and arm.training.still_learning}
    for entry in run.rounds:
        facts = entry.facts
        if facts is None:
            parts.append(f"### Round {entry.number}: in progress")
            continue
        outcome = "" if facts.kept is None else ": kept" if facts.kept else ": not kept"
        parts.append(f"### Round {entry.number}{outcome}")
        said = [sizes(facts), facts.why or "", facts.reason, *facts.adapted]
        said += [STILL_LEARNING] if f"round-{entry.number}" in learning else []
        parts.append(_list(plain(sentence) for sentence in said if sentence))
        rows = [(plain(step.rule), f"{step.left:,}", f"{step.dropped:,}") for step in facts.funnel]
        parts += [_table(("Rule, in order", "Left", "Dropped"), rows)] if rows else []
    return ["## Rounds", *parts] if parts else []


def _settings(run: Run) -> list[str]:
    differing = [setting for setting in chosen_settings(run.manifest.settings) if setting.differs]
    rows = [(plain(chosen.name), plain(one_line(chosen.value, 200)), plain(chosen.default)) for chosen in differing]
    body = _table(("Setting", "Value", "Default"), rows) if rows else "All settings have their default values."
    return ["## Settings that differ from the defaults", body]


def _how_to_read() -> list[str]:
    return ["## How to read this", _list(f"**{term}**: {meaning}" for term, meaning in HOW_TO_READ)]


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
