"""The tables of the report, most of them with a chart in the middle of each row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from isara.report.charts import Scale, axis, bar, interval, scale_of
from isara.report.load import Run
from isara.report.records import ArmMean, Difference, RoundFacts
from isara.report.settings_view import Chosen
from isara.report.text import capital, count, duration, escape, number, p_value, rule_words, short, signed

MEASURES: tuple[tuple[str, str, str], ...] = (
    ("distinct_1", "Different words", "share of the words that are different ones; higher is more varied"),
    ("distinct_2", "Different word pairs", "the same for two words in a row"),
    ("distinct_3", "Different word triples", "the same for three words in a row"),
    ("self_bleu", "Self-BLEU", "how alike the texts are to each other, 0 to 1; lower is more varied"),
    ("spread", "Spread", "mean cosine distance between two questions; higher is more varied"),
    ("to_seeds", "Distance to seeds", "mean cosine distance of a question to the nearest seed (of a seed, to another)"),
    ("copy_rate", "Copy rate", "share of answers that are nearly a seed's answer (of a seed, another's)"),
    ("question_words", "Words in a question", "mean length"),
    ("answer_words", "Words in an answer", "mean length"),
)


def scores_table(run: Run, arms: Sequence[ArmMean], best: str | None) -> str:
    """Return the mean NLL of every arm with its interval, drawn and in numbers."""
    scale = scale_of(end for arm in arms for end in (arm.mean, arm.low, arm.high) if end is not None)
    lowest = min(arms, key=lambda arm: arm.mean).arm
    base = next((arm.mean for arm in arms if arm.arm == "base"), None)
    rows = []
    for arm in arms:
        tags = _tag("the result", "result") if arm.arm == best else ""
        tags += _tag("lowest mean", "plain") if arm.arm == lowest != best else ""
        tone = "result" if arm.arm == best else "other"
        name = escape(capital(arm.label or run.label(arm.arm)))
        rows.append(
            f'<tr class="{tone}"><th scope="row">{name}{tags}</th>'
            f'<td class="viz">{interval(scale, arm.mean, arm.low, arm.high, tone, base)}</td>'
            f'<td class="num strong">{number(arm.mean)}</td><td class="num soft">{_range(arm.low, arm.high)}</td></tr>'
        )
    return _plot_table(
        ("Model", "NLL per token <span class='soft'>(← lower is better)</span>", "Mean", "Interval"), rows, scale
    )


def differences_table(run: Run, differences: Sequence[Difference]) -> str:
    """Return each paired difference with its interval about zero, in numbers and in words."""
    ends = (end for diff in differences for end in (diff.mean, diff.low, diff.high) if end is not None)
    scale = scale_of([0.0, *ends])
    rows = []
    for diff in differences:
        tone = _tone(diff)
        against = f'<span class="soft">against {escape(run.label(diff.against))}</span>'
        name = f"{escape(capital(run.label(diff.arm)))} {against}"
        rows.append(
            f'<tr class="is-{tone}"><th scope="row">{name}</th>'
            f'<td class="viz">{interval(scale, diff.mean, diff.low, diff.high, tone, 0.0)}</td>'
            f'<td class="num strong">{signed(diff.mean)}</td>'
            f'<td class="num soft">{_range(diff.low, diff.high, sign=True)}</td>'
            f'<td class="num soft" data-head="p">{escape(p_value(diff.p))}</td>'
            f'<td class="num soft" data-head="shows from">{number(diff.smallest_effect)}</td></tr>'
            f'<tr class="words"><td colspan="6">{escape(diff.words)}</td></tr>'
        )
    heads = (
        "Difference",
        "NLL saved per token <span class='soft'>(better →)</span>",
        "Mean",
        "Interval",
        "p",
        "Shows from",
    )
    return _plot_table(heads, rows, scale, sign=True, kind="differences")


def _tone(diff: Difference) -> str:
    if diff.low is not None and diff.low > 0:
        return "better"
    return "worse" if diff.high is not None and diff.high < 0 else "unclear"


def _range(low: float | None, high: float | None, *, sign: bool = False) -> str:
    if low is None or high is None:
        return "–"
    write = signed if sign else number
    return f"{write(low)} to {write(high)}"


def _plot_table(
    heads: Sequence[str], rows: Sequence[str], scale: Scale, *, sign: bool = False, kind: str = "scores"
) -> str:
    cells = "".join(f'<th scope="col" class="{"num" if n > 1 else ""}">{head}</th>' for n, head in enumerate(heads))
    ticks = f'<td></td><td class="viz">{axis(scale, sign=sign)}</td><td colspan="{len(heads) - 2}"></td>'
    foot = f'<tr class="axisrow" aria-hidden="true">{ticks}</tr>'
    return f'<table class="plot {kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}{foot}</tbody></table>'


def _tag(words: str, tone: str) -> str:
    return f' <span class="tag {tone}">{escape(words)}</span>'


def funnel_table(facts: RoundFacts) -> str:
    """Return how many candidates each rule left and dropped, in the order in which the rules ran."""
    drafted = facts.drafted or (facts.funnel[0].left + facts.funnel[0].dropped if facts.funnel else 0)
    rows = [_funnel_row("drafted", [(drafted, "left")], drafted, drafted, None)]
    for step in facts.funnel:
        words = f' <span class="soft">{rule_words(step.rule)}</span>' if rule_words(step.rule) else ""
        parts: list[tuple[float, str]] = [(step.left, "left"), (step.dropped, "gone")]
        rows.append(_funnel_row(f"<code>{escape(step.rule)}</code>{words}", parts, drafted, step.left, step.dropped))
    if facts.accepted is not None:
        rows.append(_funnel_row("accepted", [(facts.accepted, "accepted")], drafted, facts.accepted, None))
    numbers = "".join(f'<th scope="col" class="num">{head}</th>' for head in ("Left", "Dropped"))
    head = f'<thead><tr><th scope="col">Rule</th><th scope="col"></th>{numbers}</tr></thead>'
    return f'<table class="plot funnel">{head}<tbody>{"".join(rows)}</tbody></table>'


def _funnel_row(head: str, parts: Sequence[tuple[float, str]], drafted: int, left: int, dropped: int | None) -> str:
    gone = "" if dropped is None else f"\u2212{dropped:,}" if dropped else "0"
    return (
        f'<tr><th scope="row">{head}</th><td class="viz">{bar(parts, drafted)}</td>'
        f'<td class="num strong">{left:,}</td><td class="num {"worse" if dropped else "soft"}">{gone}</td></tr>'
    )


def diversity_table(columns: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return each measure of variety for the seeds and for every round, side by side."""
    heads = "".join(f'<th scope="col" class="num">{escape(label)}</th>' for label, _ in columns)
    rows = []
    for key, name, meaning in MEASURES:
        values = [measure_of(measures, key) for _, measures in columns]
        if all(value is None for value in values):
            continue
        most = max(value for value in values if value is not None)
        cells = "".join(_measure(value, most, digits=1 if key.endswith("_words") else 3) for value in values)
        rows.append(f'<tr><th scope="row">{name} <span class="soft">{meaning}</span></th>{cells}</tr>')
    head = f'<thead><tr><th scope="col">Measure</th>{heads}</tr></thead>'
    return f'<div class="wide"><table class="grid variety">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def measure_of(measures: Mapping[str, Any], key: str) -> float | None:
    """Return one measure of variety; None where it is missing or no number."""
    value = measures.get(key)
    return float(value) if isinstance(value, int | float) else None


def _measure(value: float | None, most: float, *, digits: int) -> str:
    drawing = bar([(max(0.0, value or 0.0), "left")], most, height=4) if most > 0 else ""
    return f'<td class="num measure">{number(value, digits)}{drawing}</td>'


def settings_table(chosen: Iterable[Chosen]) -> str:
    """Return every setting with its value and its sentence; those that differ from the default are marked."""
    rows = []
    for setting in chosen:
        tone = ' class="differs"' if setting.differs else ""
        was = f' <span class="soft">default {escape(setting.default)}</span>' if setting.differs else ""
        rows.append(
            f'<tr{tone}><th scope="row"><code>{escape(setting.name)}</code></th>'
            f'<td><code>{escape(setting.value)}</code>{was}</td><td class="soft">{_with_code(setting.words)}</td></tr>'
        )
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Setting", "Value", "What it does"))
    return f'<table class="grid settings"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _with_code(words: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(words))


def facts_table(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and values; a fact without a value is left out."""
    rows = (f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts if value)
    return f'<table class="grid facts"><tbody>{"".join(rows)}</tbody></table>'


def timings_table(seconds: Mapping[str, float]) -> str:
    """Return how long each stage took, the longest first."""
    longest = max(seconds.values(), default=0.0)
    rows = (
        f'<tr><th scope="row">{escape(stage)}</th><td class="viz">{bar([(taken, "left")], longest)}</td>'
        f'<td class="num strong">{duration(taken)}</td></tr>'
        for stage, taken in sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0]))
    )
    return f'<table class="plot timings"><tbody>{"".join(rows)}</tbody></table>'


def sizes(facts: RoundFacts) -> str:
    """Return what a round made, as one line of plain words."""
    parts = [count(facts.accepted, "accepted sample")] if facts.accepted is not None else []
    if facts.target is not None:
        parts.append(f"target {facts.target:,}")
    if facts.drafted is not None:
        budget = f" (of at most {facts.budget:,})" if facts.budget is not None else ""
        parts.append(f"{count(facts.drafted, 'candidate')} drafted{budget}")
    for stage, rate in facts.parse_rate.items():
        if rate is not None:
            parts.append(f"{short(round(100 * rate, 1))} % of {stage}s could be read")
    return " · ".join(parts)
