"""The report: complete, harmless, the same every time, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fake_run import HOSTILE, RULES, VERDICT, build_run, read_object, read_rows, write_object, write_rows
from isara.errors import RunError
from isara.report import write_report
from isara.report.charts import loss_curve, scale_of
from isara.report.embed import embed, script_safe
from isara.report.load import load_run
from isara.report.markdown import markdown_page
from isara.report.records import CurvePoint, Training
from isara.report.text import HIDDEN, duration, number, p_value, reveal, signed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("runs") / "bread", test=10)


@pytest.fixture(scope="module")
def page(finished):
    return write_report(finished).html.read_text(encoding="utf-8")


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "bread"))


def html_of(run):
    return write_report(run).html.read_text(encoding="utf-8")


def samples_in(page):
    return json.loads(re.search(r'<script type="application/json" id="samples-data">(.*?)</script>', page, re.S)[1])


def words_in(page):
    """The text that a reader sees, without the embedded data."""
    seen = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", seen))


def rows_of(page, kind):
    table = re.search(rf'<table class="plot {kind}">.*?</table>', page, re.S)[0]
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", row)).strip() for row in table.split("<tr")[2:]]


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_verdict_stands_on_top_unchanged(finished, page):
    assert re.search("<h1[^>]*>([^<]*)</h1>", page)[1] == VERDICT[0]
    short = (finished / "report.md").read_text(encoding="utf-8")
    for sentence in VERDICT:
        assert sentence in words_in(page)
        assert sentence in short


def test_every_arm_has_its_mean_and_interval_and_one_is_the_result(finished, page):
    rows = rows_of(page, "scores")
    arms = read_object(finished / "summary.json")["heldout"]["arms"]
    for arm, row in zip(arms, rows, strict=False):
        assert row.endswith(f"{arm['mean']:.3f} {arm['low']:.3f} to {arm['high']:.3f}")
    assert [("the result" in row) for row in rows[: len(arms)]] == [arm["arm"] == "round-1" for arm in arms]
    assert "lower is better" in words_in(page)


def test_a_lower_mean_than_the_result_is_pointed_out(run):
    summary = read_object(run / "summary.json")
    write_object(run / "summary.json", summary | {"best": "base", "adapter": None})
    page = html_of(run)
    assert "lowest mean" in rows_of(page, "scores")[3]
    assert "no tuned model was kept" in page
    assert "is not the result, but the tuned model" in page


def test_differences_are_told_in_the_words_of_the_run(finished, page):
    for difference in read_object(finished / "summary.json")["heldout"]["differences"]:
        assert difference["words"] in words_in(page).replace("&lt;", "<")


def test_the_gate_is_called_optimistic_and_test_scores_appear_only_when_given(page, tmp_path):
    assert "a little optimistic" in page
    assert "Test samples (10, test.jsonl)" in page
    assert "Test samples" not in html_of(build_run(tmp_path / "untested", drafted=5, rounds=1))


def test_the_funnel_shows_each_rule_in_order_with_its_counts(finished, page):
    rows = rows_of(page, "funnel")
    facts = read_object(finished / "round-1" / "round.json")
    assert rows[0].endswith(f"drafted {facts['drafted']}")
    assert [row.split("> ")[-1].split()[0] for row in rows[1:-1]] == list(RULES)
    for step, row in zip(facts["funnel"], rows[1:], strict=False):
        dropped = f"−{step['dropped']}" if step["dropped"] else "0"
        assert row.endswith(f" {step['left']} {dropped}")
    assert rows[-1].endswith(f"accepted {facts['accepted']}")


def test_signs_of_collapse_are_told(page):
    assert "Round 2 has texts that are more alike" in words_in(page)


def test_the_worst_items_are_listed_worst_first(finished, page):
    base, best = (read_rows(finished / arm / "heldout.jsonl") for arm in ("base", "round-1"))
    gains = [before["nll"] - after["nll"] for before, after in zip(base, best, strict=True)]
    listed = [int(place) for place in re.findall(r'<li><a href="#item-(\d+)"', page)]
    assert listed == sorted(range(len(gains)), key=lambda place: gains[place])[:5]


def test_before_and_after_has_every_arms_answer(finished, page):
    item = re.search(r'<details class="item" id="item-9".*?</details>', page, re.S)[0]
    for arm in ("base", "retrieved", "seeds-only", "round-1"):
        row = read_rows(finished / arm / "answers.jsonl")[9]
        nll = read_rows(finished / arm / "heldout.jsonl")[9]["nll"]
        assert row["answer"] in item
        assert f"NLL {nll:.3f}" in item
    assert item.count("cut off") == 4
    assert row["reference"] in item


def test_only_settings_that_differ_are_marked(page):
    assert len(re.findall(r'<tr class="differs">', page)) == 2 * 3
    assert '<code>0.65</code> <span class="soft">default 0.7</span>' in page
    assert "<code>gate.patience</code>" in page


def test_all_samples_are_embedded_with_parents_reason_and_scores(finished, page):
    rows = {row[0]: row for row in samples_in(page)["rows"]}
    names = samples_in(page)["names"]
    for number_ in (1, 2):
        for kept in read_rows(finished / f"round-{number_}" / "kept.jsonl"):
            row = rows[kept["id"]]
            assert row[1:3] == ["kept", number_]
            assert row[5] == [kept["question_parents"], kept["answer_parents"], []]
            assert row[6][names.index("confidence")] == pytest.approx(kept["scores"]["confidence"], abs=1e-4)
        for dropped in read_rows(finished / f"round-{number_}" / "dropped.jsonl"):
            row = rows[dropped["id"]]
            assert row[5] == [[], [], dropped["parents"]]
            assert row[7:] == [dropped[key] for key in ("rule", "reason", "score", "threshold", "nearest")]
    assert {row[0] for row in rows.values() if row[1] == "seed"} == {f"seed-{n}" for n in range(1, 41)}


def test_nothing_in_the_page_runs_or_loads_but_our_own(page):
    tags = Tags(page).found
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "samples-data"}, {}]
    assert not {"img", "iframe", "object", "embed", "form", "base", "audio", "video"} & {tag for tag, _ in tags}
    for tag, attrs in tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "style")], tag
        if "href" in attrs:
            assert attrs["href"].startswith("#") or attrs["href"] == "data:,"


def test_the_policy_allows_our_blocks_by_their_hash_and_nothing_else(page):
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for block, rule in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{block}>(.*?)</{block}>", page, re.S)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"


def test_hostile_text_is_shown_and_never_raw(finished, page):
    short = (finished / "report.md").read_text(encoding="utf-8")
    for text in (page, short):
        assert not HIDDEN.search(text)
        assert "<script>window" not in text
    assert "&lt;/script&gt;&lt;script&gt;window.hacked=1" in page
    assert "&lt;U+202E&gt;" in page
    assert reveal(HOSTILE[3]) in {row[4] for row in samples_in(page)["rows"]}


def test_embedded_json_cannot_leave_its_element():
    assert script_safe(json.dumps("</script><!--&\u2028\u2029", ensure_ascii=False)) == (
        '"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028\\u2029"'
    )


def test_reveal_spells_out_what_acts_unseen_and_leaves_scripts_alone():
    assert reveal("a\x1bb\u202ec\x7f\ud800\u200b") == "a<U+001B>b<U+202E>c<U+007F><U+D800><U+200B>"
    plain = "tab\tline\n مرحبا e\u0301 👩\u200d🍳"
    assert reveal(plain) == plain


def test_half_surrogates_in_a_file_do_not_break_the_report(run):
    rows = read_rows(run / "round-1" / "kept.jsonl")
    lines = "".join(json.dumps(row | {"answer": "half \ud83d end"}) + "\n" for row in rows)
    (run / "round-1" / "kept.jsonl").write_text(lines, encoding="utf-8")
    assert "half <U+D83D> end" in {row[4] for row in samples_in(html_of(run))["rows"]}


def test_markdown_cannot_be_bent_by_what_it_quotes(run):
    words = "<img src=x> [a](http://x.invalid) ![b](c) | cell\n# head `code` *x*"
    summary = read_object(run / "summary.json")
    summary["heldout"]["differences"][0]["words"] = words
    write_object(run / "summary.json", summary)
    short = write_report(run).markdown.read_text(encoding="utf-8")
    line = next(line for line in short.split("\n") if "img src" in line)
    assert line.endswith(r"&lt;img src=x> [a\](http://x.invalid) ![b\](c) \| cell # head \`code\` \*x\* |")


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(run, finished):
    first = [path.read_bytes() for path in (write_report(run).html, write_report(run).markdown)]
    assert [path.read_bytes() for path in (write_report(run).html, write_report(run).markdown)] == first
    write_report(finished)
    assert [(finished / name).read_bytes() for name in ("report.html", "report.md")] == first
    assert not list(run.glob("*.part"))


def test_a_run_in_progress_shows_what_there_is(run):
    for file in ("summary.json", "round-2/round.json", "round-2/done.json", "round-2/training.json"):
        (run / file).unlink()
    paths = write_report(run)
    page = paths.html.read_text(encoding="utf-8")
    assert "This run has no result yet." in page
    assert "Round 2: not complete." in page
    assert "In progress:" in page
    assert re.search(r"The untouched model \d\.\d{3} –$", rows_of(page, "scores")[0])
    assert "Round 2: in progress" in paths.markdown.read_text(encoding="utf-8")
    assert any(row[2] == 2 for row in samples_in(page)["rows"])


def test_a_summary_of_an_unfinished_run_is_no_result(run):
    summary = read_object(run / "summary.json") | {"status": "running", "best": "base", "verdict": ["Not yet."]}
    write_object(run / "summary.json", summary)
    (run / "round-2" / "done.json").unlink()
    page = html_of(run)
    assert "This run has no result yet." in page
    assert "the result</span>" not in page
    assert "Round 2: not complete." in page
    write_object(run / "summary.json", summary | {"best": None, "heldout": {"n": 0, "arms": []}, "rounds": []})
    assert "This run has no result yet." in html_of(run)


def test_folders_that_a_finished_run_passes_over_are_left_out(run):
    shutil.copytree(run / "round-2", run / "round-3")
    assert "Round 3" not in html_of(run)


def test_a_run_that_only_just_began_has_a_report(run):
    for entry in run.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "manifest.json":
            entry.unlink()
    page = html_of(run)
    assert "The untouched model: not started." in page
    assert "No round has started." in page


def test_of_an_unfinished_round_only_committed_steps_are_shown(run):
    folder = run / "round-2"
    for file in (run / "summary.json", folder / "round.json"):
        file.unlink()
    kept = (folder / "kept.jsonl").read_bytes()
    two = sum(len(line) + 1 for line in kept.split(b"\n")[:2])
    lengths = {"kept.jsonl": two, "dropped.jsonl": 0}
    write_rows(folder / "journal.jsonl", [{"step": 1, "lengths": lengths}])
    (folder / "kept.jsonl").write_bytes(kept[: two + 30])
    rows = samples_in(html_of(run))["rows"]
    assert [row[0] for row in rows if row[2] == 2] == [row["id"] for row in read_rows_of(kept)[:2]]


def read_rows_of(content):
    return [json.loads(line) for line in content.split(b"\n") if line]


def test_what_a_finished_run_has_lost_is_named(run):
    shutil.rmtree(run / "round-2")
    (run / "base" / "answers.jsonl").unlink()
    page = html_of(run)
    assert "round-2/kept.jsonl is missing" in page
    assert "base/answers.jsonl is missing" in page
    assert "Round 2" in page


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("round-1/kept.jsonl", b'{"id": "a"}\n', ":1: the file is damaged (question: Field required)"),
        ("round-1/dropped.jsonl", b"\n{torn", ":2: the file is damaged (not JSON)"),
        ("base/heldout.jsonl", b'{"id": "a", "nll": NaN}\n', ":1: the file is damaged (nll: "),
        ("summary.json", b"[1]", ": the file is damaged (not an object)"),
        ("round-1/training.json", b"\xff\xfe", ": the file is damaged (not UTF-8 text)"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(run, file, content, said):
    (run / file).write_bytes(content)
    with pytest.raises(RunError) as caught:
        write_report(run)
    assert f"{file}{said}" in str(caught.value)
    assert "Put back a copy of it, or move it away to see the report without it." in str(caught.value)


def test_a_file_moved_away_lets_the_report_be_made(run):
    (run / "round-1" / "kept.jsonl").unlink()
    assert "round-1/kept.jsonl is missing" in html_of(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"no manifest\.json here"):
        write_report(tmp_path)


def test_too_many_samples_are_cut_evenly_and_the_page_says_so(run, monkeypatch):
    loaded = load_run(run)
    whole = embed(loaded)
    some = embed(loaded, budget=40_000)
    assert whole.shown == whole.total == some.total
    assert some.shown < some.total
    assert len(some.json.encode()) < 42_000
    rows = json.loads(some.json)["rows"]
    assert sum(row[1] == "seed" for row in rows) == 40
    few = json.loads(embed(loaded, budget=len(whole.json.encode()) - 20_000).json)["rows"]
    dropped = {(row[2], row[7]) for row in few if row[1] == "dropped"}
    assert dropped == {(row[2], row[7]) for row in json.loads(whole.json)["rows"] if row[1] == "dropped"}
    monkeypatch.setattr("isara.report.page.embed", lambda run: some)
    assert f"This page holds {some.shown} of {some.total} samples" in html_of(run)


def test_one_endless_answer_is_cut_and_counted(run):
    rows = read_rows(run / "round-1" / "kept.jsonl")
    write_rows(run / "round-1" / "kept.jsonl", [{**rows[0], "answer": "ä" * 1_000_000}, *rows[1:]])
    page = html_of(run)
    assert "(996,000 more characters in the run's files)" in page
    assert len(page) < 1_000_000


def test_of_many_held_out_samples_those_that_changed_most_are_shown(tmp_path):
    page = html_of(build_run(tmp_path / "many", heldout=320, rounds=1, drafted=5))
    assert page.count('<details class="item"') == 300
    assert "Shown: 300 of 320" in page


def test_a_setting_of_another_version_is_shown_as_unknown(run):
    manifest = read_object(run / "manifest.json")
    manifest["settings"]["filter"]["vanished"] = True
    write_object(run / "manifest.json", manifest)
    assert "This version of isara has no such setting." in html_of(run)


def test_a_scale_holds_its_values_with_round_ticks_inside():
    for values in ([1.0, 2.0], [0.5], [-3.0, 4e5], [1e-9, 2e-9], []):
        scale = scale_of(values)
        assert scale.ticks
        assert all(scale.low <= tick <= scale.high for tick in (*scale.ticks, *values))
    assert scale_of([1.0, 2.0]).ticks == pytest.approx((1.0, 1.25, 1.5, 1.75, 2.0))


def test_a_training_that_ended_early_says_how_far_it_was_to_go(run):
    path = run / "seeds-only" / "training.json"
    assert "ended before step" not in words_in(html_of(run))
    write_object(path, read_object(path) | {"planned": 64})
    assert "48 steps from base · ended before step 64, as the held-out samples grew less likely" in words_in(
        html_of(run)
    )


@pytest.mark.parametrize(
    ("heldout", "planned", "still"),
    [
        ([3.0, 2.5, 2.4], 48, True),
        ([3.0, 2.5, 2.4], None, True),
        ([3.0, 2.4, 2.5], 48, False),
        ([3.0, 2.5, 2.4], 64, False),
        ([3.0, 2.5, None], 48, False),
        ([2.5, 2.4], 48, False),
        ([None, None, None], 48, False),
    ],
)
def test_a_training_that_was_best_at_its_last_step_may_learn_more(run, heldout, planned, still):
    curve = [{"step": 48 - 16 * i, "heldout": nll and [nll - 1, nll + 1]} for i, nll in enumerate(heldout[::-1])]
    path = run / "round-1" / "training.json"
    write_object(path, read_object(path) | {"planned": planned, "curve": curve[::-1]})
    page, short = words_in(html_of(run)), markdown_page(load_run(run))
    assert page.count("a higher train.rank") == short.count("a higher train.rank") == still
    if still:
        first, second = short.index("### Round 1"), short.index("### Round 2")
        assert first < short.index("a higher train.rank") < second


def test_a_curve_marks_the_step_that_was_kept_and_copes_with_gaps():
    curve = tuple(CurvePoint(step=n, loss=None if n == 2 else 1 / n) for n in range(1, 5000))
    drawn = loss_curve(Training(steps=5000, best_step=1250, curve=curve), "<b>")
    assert 'x="25.00%" y="-8">kept: step 1250' in drawn
    assert "&lt;b&gt;" in drawn
    assert len(drawn) < 40_000
    assert "kept: step 0" in loss_curve(Training(steps=0, best_step=0), "none")


def test_numbers_are_written_for_people():
    assert [number(-1.23456), number(None), number(-0.0001), signed(0.5), signed(0.0)] == [
        "−1.235",
        "–",
        "0.000",
        "+0.500",
        "0.000",
    ]
    assert [p_value(0.0001), p_value(0.04), p_value(None)] == ["< 0.001", "0.040", "–"]
    assert [duration(4.25), duration(185), duration(7384)] == ["4.2 s", "3 min 05 s", "2 h 03 min"]


def test_making_a_report_loads_no_model_library():
    code = (
        "import sys, isara.report; print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
