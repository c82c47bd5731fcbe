"""The page itself: one file that asks the network for nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from isara.report import sections
from isara.report.embed import embed
from isara.report.items import compare
from isara.report.load import Run
from isara.report.text import escape

HOW_TO_READ = (
    ("NLL per token", "How surprised a model is by a reference answer, in nats for each token. Lower is better."),
    (
        "Held-out samples",
        "Samples of yours that no model was shown or trained on. They decide which round is kept and when to stop.",
    ),
    (
        "Interval",
        "Where the true mean plausibly lies, by drawing the samples again and again. Few samples give a wide one.",
    ),
    (
        "Paired difference",
        "Both models answer for the same samples, so hard samples do not hide a small change. Above zero, the first "
        "model is better.",
    ),
    ("p", "How often chance alone would show a difference at least this large, by flipping its sign sample by sample."),
    (
        "Shows from",
        "The smallest true difference that this many samples would show four times in five. Smaller ones need more "
        "held-out samples.",
    ),
)


def html_page(run: Run) -> str:
    """Return the whole report as one HTML document."""
    embedded = embed(run)
    compared = compare(run)
    body = (
        sections.verdict(run),
        sections.scores(run),
        sections.samples_one_by_one(run, compared),
        sections.rounds(run),
        sections.diversity(run),
        sections.trainings(run),
        sections.browser(embedded),
        sections.facts(run),
        _how_to_read(),
    )
    main = "\n".join(part for part in body if part)
    style, script = _asset("report.css"), _asset("report.js")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style, script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(run.name)} · isara report</title>\n<style>{style}</style>\n'
        f"</head>\n<body>\n{_navigation(run, main)}\n<main>\n{main}\n</main>\n{_footer(run)}\n"
        f'<script type="application/json" id="samples-data">{embedded.json}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return (files("isara.report") / "assets" / name).read_text(encoding="utf-8")


def policy(style: str, script: str = "") -> str:
    """Return the content security policy of a page with this style and this script, or with no script at all."""
    scripts = f"'{_hash(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src {scripts}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _navigation(run: Run, main: str) -> str:
    titles = re.findall(r'<section id="([a-z-]+)" aria-labelledby="[a-z-]+"><h2 id="[a-z-]+">([^<]*)</h2>', main)
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in titles)
    name = f'<a class="brand" href="#verdict" dir="auto"><b>isara</b> {escape(run.name)}</a>'
    return f'<a class="skip" href="#scores">Skip to the scores</a><nav aria-label="Sections">{name}{links}</nav>'


def _how_to_read() -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in HOW_TO_READ)
    return sections.section("how-to-read", "How to read this", f'<dl class="terms">{terms}</dl>')


def _footer(run: Run) -> str:
    version = f" {escape(run.manifest.isara)}" if run.manifest.isara else ""
    return f"<footer>Made by isara{version} from the run directory alone. This file needs no network.</footer>"
