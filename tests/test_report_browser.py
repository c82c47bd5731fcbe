"""The page in a real browser: what a reader does with it, and what it must never do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from fake_run import build_run, read_rows
from isara.report import write_report
from isara.report.comparison import comparison_at, comparison_html

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("ISARA_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
EVIDENCE = Path(__file__).parent.parent / "docs" / "evidence"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIOLATIONS = (
    "window.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.blockedURI));"
)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium found: install one, or name it in ISARA_CHROMIUM")
    playwright = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = build_run(tmp_path_factory.mktemp("runs") / "bread", test=10)
    write_report(folder)
    return folder


class Watched:
    """A page, with everything it asked for and complained about."""

    def __init__(self, browser, url, **options):
        self.requests, self.complaints = [], []
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(10_000)
        self.page.add_init_script(VIOLATIONS)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)


@pytest.fixture
def watched(browser, run):
    watched = Watched(browser, (run / "report.html").as_uri(), viewport={"width": 1200, "height": 900})
    yield watched
    watched.page.close()


@pytest.fixture
def page(watched):
    return watched.page


def found(page):
    return page.locator("#found").inner_text()


def search(page, words, shows):
    page.fill("#search", words)
    page.wait_for_function("(shows) => document.getElementById('found').textContent.endsWith(shows)", arg=shows)


def test_the_page_asks_for_nothing_and_complains_of_nothing(watched, run):
    page = watched.page
    page.click("#item-open")
    page.locator("#rows button").first.click()
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#samples').scrollIntoView()")
    page.wait_for_timeout(200)
    assert [url for url in watched.requests if not url.startswith("data:")] == [(run / "report.html").as_uri()]
    assert watched.complaints == []
    assert page.evaluate("violations") == []


def test_hostile_samples_never_run_and_add_no_elements(page):
    page.click("#item-open")
    page.select_option("#size", "100")
    shown = page.locator("#rows tr").count()
    for n in range(min(shown, 12)):
        page.locator("#rows button").nth(n).click()
        page.keyboard.press("Escape")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img, iframe, script[src], a[href^='javascript'], #rows b, .text b, .text svg").count() == 0
    assert page.locator("script").count() == 2
    assert page.locator("#rows").inner_text().count("<U+202E>") > 0


def test_the_policy_stops_a_script_that_is_not_ours(page):
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        document.body.append(script);
        const image = document.createElement('img');
        image.src = 'http://example.invalid/x.png';
        document.body.append(image);
    }""")
    page.wait_for_function("violations.length === 2")
    assert sorted(page.evaluate("violations")) == ["http://example.invalid/x.png", "inline"]
    assert page.evaluate("window.hacked") is None


def test_search_finds_words_in_any_order_and_marks_them(page, run):
    rows = [
        row for n in (1, 2) for kind in ("kept", "dropped") for row in read_rows(run / f"round-{n}" / f"{kind}.jsonl")
    ]
    texts = [f"{row['question']} {row['answer']}".lower() for row in rows]
    expected = sum("gummy" in text and "bagels" in text for text in texts)
    assert 0 < expected < 25
    search(page, "Gummy bagels", f"1–{expected} of {expected}")
    assert page.locator("#rows tr").count() == expected
    assert page.locator("#rows mark").first.inner_text().lower() in ("gummy", "bagels")
    search(page, "no such words anywhere", "0 samples")
    assert page.locator("#rows-empty").is_visible()


def test_filters_by_kind_round_and_rule_work_together(page, run):
    dropped = read_rows(run / "round-2" / "dropped.jsonl")
    by_rule = [row["id"] for row in dropped if row["rule"] == "rouge"]
    page.select_option("#round", "2")
    page.select_option("#rule", "rouge")
    assert page.locator("#kind").input_value() == "dropped"
    assert page.locator("#rows button").all_inner_texts() == by_rule
    page.select_option("#kind", "kept")
    assert page.locator("#rule").input_value() == ""
    assert found(page).endswith(f"of {len(read_rows(run / 'round-2' / 'kept.jsonl'))}")
    page.select_option("#kind", "seed")
    assert found(page).endswith("of 40")


def test_order_by_a_score_sorts_both_ways(page, run):
    rows = [
        row for n in (1, 2) for kind in ("kept", "dropped") for row in read_rows(run / f"round-{n}" / f"{kind}.jsonl")
    ]
    scored = sorted((row["scores"]["confidence"], row["id"]) for row in rows if "confidence" in row["scores"])
    page.select_option("#order", "confidence")
    assert page.locator("#rows button").first.inner_text() == scored[-1][1]
    page.click("#direction")
    assert page.locator("#rows button").first.inner_text() == scored[0][1]


def test_paging_walks_through_all_candidates_in_the_order_drafted(page):
    seen = []
    while True:
        seen += page.locator("#rows button").all_inner_texts()
        if page.locator("#next").is_disabled():
            break
        page.click("#next")
    assert seen == [f"r{n}-{place:05d}" for n in (1, 2) for place in range(1, 121)]
    assert found(page) == "226–240 of 240"
    page.select_option("#size", "100")
    assert found(page) == "201–240 of 240"


def test_parents_lead_up_to_the_seeds_and_back_again(page, run):
    kept = read_rows(run / "round-2" / "kept.jsonl")
    known = {row["id"]: row for row in read_rows(run / "round-1" / "kept.jsonl")}
    child = next(row for row in kept if row["parents"][0] in known)
    search(page, child["id"], "1–1 of 1")
    page.locator("#rows button").click()
    title = page.locator("#sample-title")
    walked = [child["id"]]
    while not walked[-1].startswith("seed-"):
        parent = page.locator("#sample .links").first.locator("button").first
        walked.append(parent.locator("code").inner_text())
        parent.click()
        assert title.inner_text() == walked[-1]
    assert walked[1] == child["parents"][0]
    assert len(walked) == 3
    page.click("#sample-back")
    assert title.inner_text() == walked[1]
    page.click("#sample-close")
    assert not page.locator("#sample").is_visible()


def test_a_dropped_sample_says_why_and_shows_its_neighbour(page, run):
    dropped = next(row for row in read_rows(run / "round-1" / "dropped.jsonl") if row["rule"] == "heldout_rouge")
    page.goto(f"{(run / 'report.html').as_uri()}#sample={dropped['id']}")
    page.reload()
    told = page.locator("#sample").inner_text()
    assert "Dropped by heldout_rouge score 0.8312, threshold 0.7" in told
    assert dropped["reason"] in told
    page.locator("#sample .links button", has_text=dropped["nearest"]).first.click()
    assert "held out" in page.locator("#sample .tags").inner_text()


def test_everything_can_be_reached_with_the_keyboard(page):
    first = page.locator("#rows button").first
    first.focus()
    name = first.inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#sample-title").inner_text() == name
    assert page.evaluate("document.getElementById('sample').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == name
    summary = page.locator("details.item summary").first
    summary.focus()
    page.keyboard.press("Enter")
    page.locator("details.item .answers").first.wait_for(state="visible")


def test_before_and_after_can_be_ordered_opened_and_linked_to(page):
    page.select_option("#item-order", "loss")
    worst = page.locator(".worst a").first
    assert page.locator("details.item").first.get_attribute("id") == worst.get_attribute("href")[1:]
    worst.click()
    # The browser tells of a new fragment in a task of its own, after the click is done.
    page.locator("details.item").first.locator(".answers").wait_for(state="visible")
    assert page.locator("details.item[open]").count() == 1
    page.click("#item-open")
    assert page.locator("details.item[open]").count() == 16
    page.select_option("#item-order", "place")
    assert page.locator("details.item").first.get_attribute("id") == "item-0"


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_scrolls_sideways(browser, run, width):
    page = Watched(browser, (run / "report.html").as_uri(), viewport={"width": width, "height": 844}).page
    page.click("#item-open")
    page.locator("details.fold summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#rows button").first.click()
    assert page.evaluate(
        "document.getElementById('sample').scrollWidth <= document.getElementById('sample').clientWidth"
    )
    page.close()


def test_dark_and_light_follow_the_reader_and_both_can_be_read(browser, run):
    grounds = {}
    for scheme in ("light", "dark"):
        page = Watched(browser, (run / "report.html").as_uri(), color_scheme=scheme).page
        for place in ("h1", ".hero .soft", "#scores td.soft", "#scores .is-better .strong", ".caution", ".tag.result"):
            assert page.locator(place).first.evaluate(CONTRAST) >= 4.5, (scheme, place)
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.close()
    assert grounds["light"] != grounds["dark"]


CONTRAST = """(node) => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (color) => {
        const [r, g, b] = numbers(color).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    let behind = node;
    while (numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const pair = [light(getComputedStyle(node).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
OVERLAPS = """() => [...document.querySelectorAll('svg')].flatMap((svg) => {
    const boxes = [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    return boxes.flatMap(([one, a], i) =>
        boxes.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => `${one} on ${other}`));
})"""


def test_chart_labels_do_not_lie_on_each_other(browser, run):
    for width in (390, 1280):
        page = Watched(browser, (run / "report.html").as_uri(), viewport={"width": width, "height": 844}).page
        assert page.evaluate(OVERLAPS) == []
        page.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("study", ["supportdesk", "truthfulqa-rounds"])
def test_the_page_of_a_study_asks_for_nothing_fits_and_can_be_read(browser, tmp_path, study, width):
    written = tmp_path / "comparison.html"
    written.write_text(comparison_html(comparison_at(EVIDENCE / study)), encoding="utf-8")
    watched = Watched(browser, written.as_uri(), viewport={"width": width, "height": 844})
    page = watched.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERLAPS) == []
    numbered = page.locator(".scaling .number").all_text_contents()
    assert numbered == [str(n) for n in range(1, page.locator(".ranked li").count() + 1)] != []
    assert [url for url in watched.requests if not url.startswith("data:")] == [written.as_uri()]
    assert watched.complaints == []
    assert page.evaluate("violations") == []
    page.close()


def test_without_scripts_the_evidence_is_still_there(browser, run):
    page = Watched(browser, (run / "report.html").as_uri(), java_script_enabled=False).page
    assert page.locator("table.scores").first.is_visible()
    assert page.locator("noscript").inner_text().startswith("Browsing needs scripts.")
    assert not page.locator("#item-open").is_visible()
    page.close()


def test_fifty_thousand_samples_stay_usable(browser, tmp_path):
    folder = build_run(tmp_path / "large", drafted=25_000, heldout=8, words=1)
    html = write_report(folder).html
    assert html.stat().st_size < 30_000_000
    watched = Watched(browser, html.as_uri())
    page = watched.page
    assert found(page) == "1–25 of 50,000"
    assert page.locator("#rows tr").count() == 25
    search(page, "r2-24999", "1–1 of 1")
    page.locator("#rows button").click()
    assert page.locator("#sample-title").inner_text() == "r2-24999"
    assert watched.complaints == []
    page.close()
