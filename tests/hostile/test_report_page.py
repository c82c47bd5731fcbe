"""Hostile text in every place of a run that a report shows: nothing runs, nothing is fetched, nothing is hidden."""

from __future__ import annotations

import json

import pytest

from fake_run import build_run
from isara.report import write_report
from test_report_browser import Watched, browser  # noqa: F401  (the fixture)

pytestmark = pytest.mark.browser

ATTACK = (
    "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
    "\"'><svg/onload=window.hacked=3></style></title></textarea><!--\u202e\x1b[2J\u2028"
    "<a href=javascript:window.hacked=4>x</a><iframe src=http://example.invalid></iframe>"
    "<meta http-equiv=refresh content=0;url=http://example.invalid><base href=http://example.invalid>"
    "<link rel=stylesheet href=http://example.invalid/x.css>{{7*7}}${7*7}"
)
KEPT = {"status", "ended", "stage", "arm", "against", "best", "method", "start"}
"""Fields in which isara itself tells one thing from another; another word there is another run."""


def attacked(value, key=""):
    """The same record with the attack at the end of every text in it; equal texts stay equal, so ids still lead on."""
    if isinstance(value, str):
        return value if key in KEPT else value + ATTACK
    if isinstance(value, list):
        return [attacked(part, key) for part in value]
    if isinstance(value, dict):
        return {name: attacked(part, name) for name, part in value.items()}
    return value


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("runs") / "hostile", test=10, drafted=40)
    count = 0
    for path in sorted(run.rglob("*.json*")):
        lines = path.read_text(encoding="utf-8").split("\n") if path.suffix == ".jsonl" else [path.read_text("utf-8")]
        records = [json.dumps(attacked(json.loads(line))) if line else "" for line in lines]
        path.write_text("\n".join(records), encoding="utf-8")
        count += sum(map(len, records))
    assert count > 100_000
    return write_report(run).html


def test_hostile_text_in_every_place_does_nothing(browser, page_file):  # noqa: F811
    watched = Watched(browser, page_file.as_uri(), viewport={"width": 1200, "height": 900})
    page = watched.page
    page.click("#item-open")
    page.select_option("#size", "100")
    for button in range(min(12, page.locator("#rows tr").count())):
        page.locator("#rows button").nth(button).click()
        page.keyboard.press("Escape")
    for fold in page.locator("details").all()[:40]:
        fold.evaluate("(node) => { node.open = true; }")
    page.fill("#search", "hacked")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert [url for url in watched.requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert watched.complaints == []
    assert page.evaluate("violations") == []
    made = "img, iframe, base, meta[http-equiv=refresh], link[rel=stylesheet], object, embed, a[href^='javascript']"
    assert page.locator(made).count() == 0
    assert page.locator("script").count() == 2
    text = page.evaluate("document.body.innerText")
    assert text.count("<U+202E>") > 20
    assert not [char for char in text if char in "\u202e\x1b\u2028"]
    page.close()


def test_the_short_report_shows_it_as_text(page_file):
    text = page_file.with_suffix(".md").read_text(encoding="utf-8")
    assert "hacked" in text
    assert "<script" not in text
    assert "<img" not in text
    assert not [char for char in text if char in "\u202e\x1b\u2028"]
