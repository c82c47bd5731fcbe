"""IFEval's instructions: each kind followed and not followed, the loose variants, and the recorded verdicts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from isara.evals import ifeval
from isara.evals.instructions import KINDS
from isara.evals.sentences import count_sentences

pytest.importorskip("langdetect")

ENGLISH = "this is a perfectly plain sentence about the weather in the mountains"
CASES = [
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2}, "I AM here", "so"),
    ("change_case:capital_word_frequency", {"capital_relation": "less than", "capital_frequency": 1}, "so", "SO"),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.capitalize()),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hello."}, "say HELLO. Hello", "Hello. Say hello."),
    ("combination:two_responses", {}, "one\n******\ntwo", "same ****** same"),
    ("combination:two_responses", {}, "****** one ****** two", "one ****** ****** two"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP. S. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\np.p.s more", "Bye.\nP.S. more"),
    ("detectable_format:constrained_response", {}, "Well. My answer is no. Yes.", "My answer is never."),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{'a': 1}"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1 a\nPart 2 b",
        "Part 1",
    ),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "**bold**\n* one", "**bold**"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and *b*", "*a* and * *"),
    ("detectable_format:title", {}, "<<A title>>\nText", "<< >>\nText"),
    ("keywords:existence", {"keywords": ["sun", "moon"]}, "Sunny moonlight", "sunny"),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "sunny", "The SUN."),
    ("keywords:frequency", {"keyword": "sun", "relation": "at least", "frequency": 2}, "sun, Sunday", "sun"),
    ("keywords:frequency", {"keyword": "c++", "relation": "less than", "frequency": 2}, "c++", "C++ and c++"),
    ("keywords:letter_frequency", {"letter": "A", "let_relation": "at least", "let_frequency": 3}, "Aaa", "ab"),
    ("language:response_language", {"language": "de"}, "Das Wetter ist heute schön und die Sonne scheint.", ENGLISH),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'One.\n\n"Then, two.',
        "Then.\n\nOne.",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "don"},
        "Don't.",
        "Don't.\n\nDo.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***\n", "one\n***\n***\ntwo"),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 2}, "One. Two.", "One two."),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 2}, "One two.", "One. Two."),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 4}, "it's so-so", "it is"),
    ("punctuation:no_comma", {}, "none; here", "one, here"),
    ("startend:end_checker", {"end_phrase": "That is ALL."}, 'So it is. That is all."', "That is all. Bye."),
    ("startend:quotation", {}, ' "All of it" ', '"All" of it'),
]


@pytest.mark.parametrize(("name", "given", "follows", "fails"), CASES, ids=lambda value: str(value)[:30])
def test_an_instruction_is_followed_or_not(name, given, follows, fails):
    assert KINDS[name].check(follows, given)
    assert not KINDS[name].check(fails, given)


def test_every_kind_has_a_case():
    assert {name for name, *_ in CASES} == set(KINDS)
    assert len(KINDS) == 25


def test_the_arguments_that_a_kind_needs_are_those_that_its_check_reads():
    for name, given, *_ in CASES:
        assert set(KINDS[name].needs) == set(given), name


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One line\nand another", 1),
        ("Dr. Smith met Mr. J. Jones at 3.5 p.m. in the U.S. embassy.", 1),
        ("It was late, e.g. midnight. Really?! Yes!", 4),  # the reference ends a sentence after "e.g."
        ('Wait... what? He said "no." Then he left.', 3),
        ("Plan:\n1. Sleep\n2. Eat well", 3),
        ("I saw it (twice). It was good.", 2),
        ("He works at Acme Inc. The pay is good.", 2),
    ],
)
def test_sentences_are_counted_as_the_reference_counts_them(text, count):
    assert count_sentences(text) == count


def item(*names, **given):
    arguments = [{key: given[key] for key in KINDS[name].needs} for name in names]
    found = ifeval.item_from({"prompt": "p", "instruction_id_list": list(names), "kwargs": arguments})
    assert isinstance(found, ifeval.Item)
    return found


@pytest.mark.parametrize(
    "response",
    [
        "Sure, here it is:\nno capitals",
        "plain words\nI hope that helps, friend",
        "A,\nplain words\nB,",
        "plain *words*",
    ],
)
def test_the_loose_check_forgives_asterisks_and_a_line_at_either_end(response):
    verdict = ifeval.judge(item("punctuation:no_comma", "keywords:existence", keywords=["(plain w|o c).*s$"]), response)
    assert all(verdict.loose)


def test_the_strict_check_forgives_nothing():
    verdict = ifeval.judge(item("startend:quotation", "punctuation:no_comma"), 'Sure:\n"it is"')
    assert (verdict.strict, verdict.loose) == ((False, True), (True, True))


def test_an_empty_response_follows_nothing():
    verdict = ifeval.judge(item("punctuation:no_comma"), " \n")
    assert (verdict.strict, verdict.loose) == ((False,), (False,))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"instruction_id_list": [], "kwargs": []}, "no 'prompt' here"),
        ({"prompt": "p", "instruction_id_list": ["a"], "kwargs": []}, "not two lists of one length"),
        ({"prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{}]}, "no check for the instruction 'a:b'"),
        (
            {"prompt": "p", "instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": None}]},
            "'keywords:existence' has no keywords",
        ),
    ],
)
def test_a_row_that_is_no_item_says_why(record, words):
    assert words in ifeval.item_from(record)


def test_the_recorded_verdicts_of_the_reference_are_reproduced():
    """On the data of the benchmark, which does not ship: ISARA_BENCHMARKS names the folder with the two files."""
    folder = Path(os.environ.get("ISARA_BENCHMARKS", "nowhere"))
    if not (folder / "ifeval_reference_gpt4.jsonl").exists():
        pytest.skip("ISARA_BENCHMARKS names no folder with ifeval.jsonl and ifeval_reference_gpt4.jsonl")
    items = ifeval.read_items(str(folder / "ifeval.jsonl"))
    lines = (folder / "ifeval_reference_gpt4.jsonl").read_text(encoding="utf-8").splitlines()
    same = []
    for record in map(json.loads, lines):
        verdict = ifeval.judge(items[ifeval.plain(record["prompt"])], record["response"])
        same.append((all(verdict.strict), all(verdict.loose)) == (record["strict"], record["loose"]))
    assert len(same) > 300
    assert sum(same) >= 0.99 * len(same)
