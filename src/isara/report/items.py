"""The held-out samples one by one: what the untouched model made of each, and what the result makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isara.report.charts import slope
from isara.report.load import Arm, Run
from isara.report.records import ArmMean, Pair
from isara.report.text import capital, clip, count, escape, marked, number, one_line, signed

MOST_ITEMS = 300
"""Held-out samples shown one by one; of more, those that gained and lost most."""
WORST = 5


@dataclass(frozen=True, slots=True)
class Item:
    """One held-out sample with its NLL before and after, where both were measured."""

    place: int
    """Position in heldout.jsonl."""
    sample: Pair
    before: float | None
    after: float | None

    @property
    def gain(self) -> float | None:
        """How far the NLL fell; above zero is better."""
        return None if self.before is None or self.after is None else self.before - self.after


@dataclass(frozen=True, slots=True)
class Comparison:
    """The untouched model against the arm that answers best for the run, sample by sample."""

    arm: Arm
    is_result: bool
    items: tuple[Item, ...]

    @property
    def scored(self) -> list[tuple[float, Item]]:
        """Gain and item for every sample that both arms were scored on, the worst first."""
        known = [(item.gain, item) for item in self.items if item.gain is not None]
        return sorted(known, key=lambda pair: (pair[0], pair[1].place))


def compare(run: Run) -> Comparison | None:
    """Return base against the result, or where base is the result against the likeliest tuned arm; None before any."""
    tuned = [arm for arm in run.arms if arm.name not in ("base", "retrieved") and (arm.heldout or arm.answers)]
    if not tuned:
        return None
    best = run.summary.best if run.summary and run.finished else None
    arm = next((arm for arm in tuned if arm.name == best), min(tuned, key=_mean))
    base = run.arm("base")
    before = base.heldout if base else {}
    items = tuple(
        Item(place, sample, before.get(sample.id), arm.heldout.get(sample.id))
        for place, sample in enumerate(run.heldout)
    )
    return Comparison(arm, arm.name == best, items)


def _mean(arm: Arm) -> float:
    values = arm.heldout.values()
    return math.fsum(values) / len(values) if values else math.inf


def means_so_far(run: Run) -> list[ArmMean]:
    """Return the mean of every arm scored so far, for a run that has no summary yet; without intervals."""
    return [
        ArmMean(arm=arm.name, label=arm.label, n=len(arm.heldout), mean=_mean(arm)) for arm in run.arms if arm.heldout
    ]


def slopes(run: Run, compared: Comparison) -> str:
    """Return the line of each held-out sample from base to the compared arm, and a list of the worst."""
    scored = compared.scored
    if not scored:
        return "<p class='soft'>No sample was scored on both sides.</p>"
    fell = sum(gain > 0 for gain, _ in scored)
    drawn = scored if len(scored) <= MOST_ITEMS else scored[:: math.ceil(len(scored) / MOST_ITEMS)]
    some = "" if len(drawn) == len(scored) else f" {len(drawn)} of {len(scored):,} are drawn, evenly over all gains."
    lines = [(item.sample.question, item.before or 0.0, item.after or 0.0) for _, item in drawn]
    label = compared.arm.label
    return (
        f"<p>{escape(capital(label))} finds the reference answer likelier than the untouched model does in <b>{fell} "
        f"of {count(len(scored), 'held-out sample')}</b>. A falling line is a better one.{some}</p>"
        f'<div class="split"><figure>{slope(lines, run.label("base"), one_line(label, 30))}'
        '<figcaption><span class="key better">better</span> <span class="key worse">worse</span> '
        "NLL per token of each reference answer</figcaption></figure>"
        f"<div><h3>Where {escape(label)} does worst</h3>{_worst(scored)}</div></div>"
    )


def _worst(scored: Sequence[tuple[float, Item]]) -> str:
    rows = (
        f'<li><a href="#item-{item.place}">{escape(one_line(item.sample.question, 140))}</a> {_change(item)}</li>'
        for _, item in scored[:WORST]
    )
    return f'<ol class="worst">{"".join(rows)}</ol>'


def _change(item: Item) -> str:
    if item.gain is None:
        return '<span class="change soft">not scored on both sides</span>'
    tone = "better" if item.gain > 0 else "worse" if item.gain < 0 else "soft"
    return (
        f'<span class="change">{number(item.before, 2)} → {number(item.after, 2)} '
        f'<b class="{tone}">{signed(-item.gain, 2)}</b></span>'
    )


def shown_items(compared: Comparison) -> list[Item]:
    """Return the samples to show one by one, in their own order."""
    if len(compared.items) <= MOST_ITEMS:
        return list(compared.items)
    ranked = [item for _, item in compared.scored]
    ends = {item.place for item in ranked[: MOST_ITEMS // 2] + ranked[-(MOST_ITEMS // 2) :]}
    return [item for item in compared.items if item.place in ends]


def before_and_after(run: Run, compared: Comparison) -> str:
    """Return each held-out question with the reference answer and every arm's own, folded up."""
    arms = [arm for name in ("base", "retrieved", "seeds-only") if (arm := run.arm(name))]
    if compared.arm not in arms:
        arms.append(compared.arm)
    return "".join(_item(item, arms, compared) for item in shown_items(compared))


def _item(item: Item, arms: Sequence[Arm], compared: Comparison) -> str:
    reference = f'<section class="reference"><h4>Reference</h4>{_quoted(item.sample.answer)}</section>'
    answers = "".join(_answer(item, arm, arm is compared.arm and compared.is_result) for arm in arms)
    gain = "" if item.gain is None else f"{item.gain:.6f}"
    return (
        f'<details class="item" id="item-{item.place}" data-place="{item.place}" data-gain="{gain}">'
        f'<summary><span class="q" dir="auto">{marked(one_line(item.sample.question, 400))}</span>{_change(item)}'
        f'</summary><div class="answers">{reference}{answers}</div></details>'
    )


def _answer(item: Item, arm: Arm, is_result: bool) -> str:
    answer = arm.answers.get(item.sample.id)
    text = _quoted(answer.answer) if answer else '<p class="soft">no answer in the run</p>'
    tags = ' <span class="tag result">the result</span>' if is_result else ""
    tags += ' <span class="tag plain">cut off</span>' if answer and not answer.finished else ""
    nll = arm.heldout.get(item.sample.id)
    score = f'<span class="soft">NLL {number(nll)}</span>' if nll is not None else ""
    tone = " is-result" if is_result else ""
    return f'<section class="arm{tone}"><h4>{escape(capital(arm.label))}{tags} {score}</h4>{text}</section>'


def _quoted(text: str) -> str:
    words = marked(clip(text)) or '<span class="soft">(empty)</span>'
    return f'<div class="text" dir="auto">{words}</div>'
