"""The sections of the page, each a pure function of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from isara.diversity import warnings
from isara.report import tables
from isara.report.charts import loss_curve
from isara.report.embed import Embedded
from isara.report.items import Comparison, before_and_after, means_so_far, shown_items, slopes
from isara.report.load import Round, Run
from isara.report.records import Evidence
from isara.report.settings_view import chosen_settings
from isara.report.text import capital, count, duration, escape, number, short

OPTIMISTIC = (
    "These samples also chose the result: which round to keep and at which step to stop. The score of whatever "
    "they chose is therefore a little optimistic. Samples by which nothing was chosen (a test file) are free of that."
)
STILL_LEARNING = (
    "The held-out samples still grew likelier at the last step of its training: with a higher train.rank, train.alpha "
    "raised with it, or with more train.epochs it may learn more."
)
ITEM_CONTROLS = (
    '<div class="controls needs-js"><label>Order <select id="item-order">'
    '<option value="place">as in the file</option><option value="gain">most improved first</option>'
    '<option value="loss">most worsened first</option></select></label>'
    '<button type="button" id="item-open">Open all</button></div>'
)
LONG_VERDICT = 110
BAR_KEY = '<span class="key left">left</span> <span class="key gone">dropped by this rule</span>'


def verdict(run: Run) -> str:
    """Return the top of the page: the verdict in the run's own words, or that there is none yet."""
    first, *rest = verdict_of(run)
    more = "".join(f"<p>{escape(sentence)}</p>" for sentence in rest)
    summary = run.summary
    if summary and run.finished and summary.stopped:
        more += f'<p class="soft">{escape(summary.stopped)}</p>'
    status = "complete" if run.finished else "not complete"
    return (
        f'<header class="hero" id="verdict"><p class="eyebrow">{escape(run.name)} · {status}</p>'
        f'<h1 class="{"long" if len(first) > LONG_VERDICT else ""}">{escape(first)}</h1>{more}{_tiles(run)}</header>'
        f"{_gaps(run)}"
    )


def verdict_of(run: Run) -> tuple[str, ...]:
    """Return the sentences on top: the run's own, unchanged, or that it has no result yet."""
    summary = run.summary
    if summary is None or not run.finished:
        return ("This run has no result yet.", "What it has done so far is below.")
    return summary.verdict or (f"The result is {run.label(summary.best)}.",)


def _tiles(run: Run) -> str:
    tiles = []
    summary = run.summary
    if summary and run.finished:
        means = {arm.arm: arm.mean for arm in summary.heldout.arms}
        tiles.append(("Result", capital(run.label(summary.best)), summary.adapter or "no new weights"))
        if summary.best == "base" in means:
            tiles.append(("Held-out NLL per token", number(means["base"]), "no tuned model was kept"))
        elif summary.best in means and "base" in means:
            change = f"{number(means['base'])} → {number(means[summary.best])}"
            tiles.append(("Held-out NLL per token", change, "untouched → result"))
    if run.rounds:
        accepted, drafted = _generated(run)
        tiles.append(("Generated", f"{accepted:,} kept", f"of {count(drafted, 'candidate')}"))
    tiles.append(("Seeds", f"{len(run.seeds):,}", f"and {len(run.heldout):,} held out"))
    if summary and summary.seconds and summary.seconds.total is not None:
        tiles.append(("Time", duration(summary.seconds.total), count(len(run.rounds), "round")))
    cells = (
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(more)}</span></dd></div>"
        for name, value, more in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _generated(run: Run) -> tuple[int, int]:
    """Return how many candidates were accepted and how many were drafted."""
    if run.summary and run.finished and run.summary.generated:
        return run.summary.generated.accepted, run.summary.generated.candidates
    accepted = sum(entry.kept.count() for entry in run.rounds)
    return accepted, accepted + sum(entry.dropped.count() for entry in run.rounds)


def _gaps(run: Run) -> str:
    return notice("Not everything is here", run.missing) if run.missing else ""


def notice(title: str, sentences: Iterable[str]) -> str:
    """Return a box with a warning for each sentence."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<aside class="notice" aria-label="{escape(title)}"><b>{escape(title)}</b><ul>{items}</ul></aside>'


def scores(run: Run) -> str:
    """Return the score of each arm and the paired differences, on the held-out and on the test samples."""
    summary = run.summary
    if summary is None or not run.finished:
        so_far = means_so_far(run)
        if not so_far:
            return ""
        note = '<p class="soft">Intervals and differences are worked out when the run ends.</p>'
        return section("scores", "Scores so far", tables.scores_table(run, so_far, None) + note)
    confidence = run.manifest.settings.get("gate", {}).get("confidence", 0.95)
    level = f"{short(100 * confidence)} %" if isinstance(confidence, int | float) else "95 %"
    body = _evidence(run, summary.heldout, summary.best, f"Held-out samples ({_source(summary.heldout)})", level)
    body += f'<p class="caution">{OPTIMISTIC}</p>'
    if summary.test:
        body += _evidence(run, summary.test, summary.best, f"Test samples ({_source(summary.test)})", level)
        body += '<p class="soft">Nothing was chosen by the test samples: this is the score to report.</p>'
    return section("scores", "Did it get better?", body)


def _source(evidence: Evidence) -> str:
    source = "set aside from the seed file" if evidence.source == "split" else evidence.source
    return f"{evidence.n:,}, {source}" if source else f"{evidence.n:,}"


def _evidence(run: Run, evidence: Evidence, best: str | None, title: str, level: str) -> str:
    if not evidence.arms:
        return ""
    body = (
        f"<h3>{escape(title)}</h3><p class='soft'>Negative log-likelihood of the reference answers, in nats per token. "
        f"Lower is better. Whiskers are {level} bootstrap intervals; the dashed line is the untouched model.</p>"
        f"{tables.scores_table(run, evidence.arms, best)}"
    )
    if evidence.differences:
        body += (
            "<h4>Paired differences</h4><p class='soft'>How much NLL the first model saves against the second on the "
            "same samples. Right of zero is better; an interval that crosses the line could be chance (hollow dot).</p>"
            f"{tables.differences_table(run, evidence.differences)}"
        )
    return body


def samples_one_by_one(run: Run, compared: Comparison | None) -> str:
    """Return every held-out sample before and after: the chart, the worst, and the answers side by side."""
    if compared is None:
        return ""
    label, shown, total = escape(capital(compared.arm.label)), len(shown_items(compared)), len(compared.items)
    note, some = "", ""
    if not compared.is_result:
        why = "is not the result, but" if run.finished else "is not a result yet, but so far"
        note = f'<p class="caution">{label} {why} the tuned model that finds the reference answers likeliest.</p>'
    if shown < total:
        some = f" Shown: {shown:,} of {total:,}, those that gained and lost most; the rest is in answers.jsonl."
    answers = (
        "<h3>Before and after</h3><p class='soft'>What each model answered to the held-out questions, none of which it "
        f"was shown or trained on. Open a question to compare.{some}</p>{ITEM_CONTROLS}"
        f'<div id="items">{before_and_after(run, compared)}</div>'
    )
    return section("before-after", "Sample by sample", note + slopes(run, compared) + answers)


def rounds(run: Run) -> str:
    """Return what each round drafted, dropped and kept, and whether it was better."""
    if not run.rounds:
        return ""
    body = f'<p class="soft">Each rule sees what the one above it left. {BAR_KEY}</p>'
    return section("rounds", "What each round made", body + "".join(_round(run, entry) for entry in run.rounds))


def _round(run: Run, entry: Round) -> str:
    facts = entry.facts
    if facts is None:
        so_far = f"{entry.kept.count():,} accepted and {entry.dropped.count():,} dropped so far."
        return f'<article class="card"><h3>Round {entry.number}</h3><p>In progress: {so_far}</p></article>'
    tag = ""
    if facts.kept is not None:
        tag = f'<span class="tag {"result" if facts.kept else "plain"}">{"kept" if facts.kept else "not kept"}</span>'
    said = [facts.why or "", f"Ended at its {facts.ended}: {facts.reason}" if facts.ended else facts.reason]
    said += facts.adapted
    writer = f"Written by {run.label(facts.generator)}. " if facts.generator else ""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in said if sentence)
    return (
        f'<article class="card"><h3>Round {entry.number} {tag}</h3>'
        f'<p class="soft">{escape(writer + tables.sizes(facts))}</p>{sentences}{tables.funnel_table(facts)}</article>'
    )


def diversity(run: Run) -> str:
    """Return the measures of variety of every round beside those of the seeds."""
    measured = [(entry.number, entry.facts.diversity) for entry in run.rounds if entry.facts and entry.facts.diversity]
    if not measured:
        return ""
    of_seeds = measured[0][1].get("seeds")
    columns: list[tuple[str, Mapping[str, Any]]] = [("seeds", of_seeds)] if isinstance(of_seeds, dict) else []
    columns += [(f"round {number}", measures) for number, measures in measured]
    signs = collapse_signs(run)
    told = notice("Signs of collapse", signs) if signs else ""
    words = "<p class='soft'>A model that trains on its own words can narrow. Compare each round with the seeds.</p>"
    return section("diversity", "Variety", words + told + tables.diversity_table(columns))


def collapse_signs(run: Run) -> list[str]:
    """Return a sentence for each measure that moved suspiciously, in the rounds that have been measured so far."""
    measured = []
    for entry in run.rounds:
        if entry.facts is None or not entry.facts.diversity:
            break
        of_seeds = entry.facts.diversity.get("seeds")
        seeds = _known_measures(of_seeds if isinstance(of_seeds, dict) else {})
        measured.append({**_known_measures(entry.facts.diversity), "seeds": seeds})
    return warnings(measured)


def _known_measures(measures: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tables.measure_of(measures, key) for key, *_ in tables.MEASURES}


def trainings(run: Run) -> str:
    """Return the loss curve of every tuned arm."""
    tuned = [(arm.label, arm.training) for arm in run.arms if arm.training]
    if not tuned:
        return ""
    cards = []
    for label, training in tuned:
        said = [f"{training.steps:,} steps from {training.start or 'the untouched model'}"]
        if training.planned is not None and training.planned > training.steps:
            said.append(f"ended before step {training.planned:,}, as the held-out samples grew less likely")
        if training.tried:
            others = ", ".join(f"{other.learning_rate:g}" for other in training.tried)
            said.append(f"learning rate {training.learning_rate:g}, which did better than {others}")
        if training.examples is not None:
            said.append(count(training.examples, "example"))
        if training.seeds is not None and training.generated is not None:
            said.append(f"{training.seeds:,} seeds, {training.generated:,} generated")
        if training.averaged:
            said.append(f"then averaged with {', '.join(training.averaged)}")
        if training.dropped_overlong:
            said.append(f"{len(training.dropped_overlong):,} left out as too long")
        more = f"<p>{escape(STILL_LEARNING)}</p>" if training.still_learning else ""
        cards.append(
            f'<figure class="card"><h3>{escape(capital(label))}</h3><p class="soft">{escape(" · ".join(said))}</p>'
            f'{more}<div class="curve-place">{loss_curve(training, label)}</div>'
            '<p class="soft middle">optimiser step</p></figure>'
        )
    key = '<span class="key loss">training loss</span> <span class="key heldout">held-out NLL (mean)</span>'
    words = "Nats per token. The two are of different texts: compare their shapes, not their heights."
    return section(
        "training", "Training", f'<p class="soft">{key} {words}</p><div class="cards">{"".join(cards)}</div>'
    )


def browser(embedded: Embedded) -> str:
    """Return the place where report.js lets a reader search every sample."""
    words = "Everything the rounds wrote, kept or not. Open a sample to see what it was shown and why it was dropped."
    some = (
        f'<p class="caution">This page holds {embedded.shown:,} of {embedded.total:,} samples, an even share of each '
        "rule in each round, to stay below 30 MB. The rest is in kept.jsonl and dropped.jsonl of the rounds.</p>"
    )
    without = "Browsing needs scripts. The samples are in kept.jsonl and dropped.jsonl of the rounds."
    body = f'<p class="soft">{words}</p>{some if embedded.shown < embedded.total else ""}'
    return section("samples", "Samples", f'{body}<noscript><p>{without}</p></noscript><div id="browser"></div>')


def facts(run: Run) -> str:
    """Return settings, timings, versions and the other facts of the manifest."""
    chosen = chosen_settings(run.manifest.settings)
    differing = [setting for setting in chosen if setting.differs]
    body = f"<h3>Settings that differ from the defaults ({len(differing)} of {len(chosen)})</h3>"
    body += tables.settings_table(differing) if differing else "<p class='soft'>None.</p>"
    body += (
        f"<details class='fold'><summary>All {len(chosen)} settings</summary>{tables.settings_table(chosen)}</details>"
    )
    seconds = run.summary.seconds.by_stage if run.summary and run.summary.seconds else {}
    seconds = seconds or {f"{arm.label}: {stage}": taken for arm in run.arms for stage, taken in arm.seconds.items()}
    if seconds:
        body += f"<h3>Time by stage</h3>{tables.timings_table(seconds)}"
    body += f"<h3>What it was made of</h3>{tables.facts_table(_manifest_facts(run))}"
    return section("run", "The run", body)


def _manifest_facts(run: Run) -> list[tuple[str, str]]:
    told = run.manifest
    facts = [("Command", " ".join(told.command)), ("Created", told.created or "")]
    facts += [(f"Model {key}", _fact(value)) for key, value in told.model.items()]
    facts += [(f"Embedder {key}", _fact(value)) for key, value in told.embedder.items()]
    for name, given in told.inputs.items():
        if given:
            size = count(given.samples, "sample") if given.samples is not None else ""
            facts.append((f"Input {name}", " · ".join(filter(None, (given.path, size, f"sha256 {given.sha256}")))))
    facts += [("Random seed", _fact(told.seed)), ("isara", told.isara)]
    facts += [("Python", told.python), ("Platform", _fact(told.platform))]
    facts += [(package, _fact(version)) for package, version in told.packages.items()]
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def section(name: str, title: str, body: str) -> str:
    """Return a section of the page, with a heading that the navigation leads to."""
    head = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{head}{body}</section>'
