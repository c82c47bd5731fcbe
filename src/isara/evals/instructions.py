"""
The 25 kinds of instruction in IFEval, each as a function that says whether a response follows it.

Written from the description of the benchmark (Zhou et al. 2023, "Instruction-Following Evaluation for Large Language
Models", arXiv 2311.07911) and from the names and arguments in its data, and held against its recorded verdicts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isara.evals.language import may_be
from isara.evals.sentences import count_sentences, count_words

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of instruction: how it is checked, and which arguments that needs."""

    check: Check
    needs: tuple[str, ...] = ()


def compared(count: int, relation: str, wanted: int) -> bool:
    """Whether a count is `less than` a number, or `at least` that number."""
    return bool(count < wanted if relation == "less than" else count >= wanted)


def places(pattern: str, text: str) -> int:
    """Return how often a pattern of the data is in a text, in any case; literally, where it is no pattern."""
    try:
        found = re.findall(pattern, text, re.IGNORECASE)
    except re.error:
        found = re.findall(re.escape(pattern), text, re.IGNORECASE)
    return len(found)


def keywords_exist(text: str, given: Arguments) -> bool:
    """Whether every keyword is in the text, in any case, also inside a longer word."""
    return all(places(word, text) for word in given["keywords"])


def forbidden_words(text: str, given: Arguments) -> bool:
    """Whether none of the words is in the text as a word of its own."""
    return not any(places(rf"\b{word}\b", text) for word in given["forbidden_words"])


def keyword_frequency(text: str, given: Arguments) -> bool:
    """Whether a keyword is in the text often, or seldom, enough."""
    return compared(places(given["keyword"].strip(), text), given["relation"], given["frequency"])


def letter_frequency(text: str, given: Arguments) -> bool:
    """Whether a letter is in the text often, or seldom, enough, in any case."""
    count = text.lower().count(given["letter"].strip().lower())
    return compared(count, given["let_relation"], given["let_frequency"])


def response_language(text: str, given: Arguments) -> bool:
    """Whether the text is in a language."""
    return may_be(text, given["language"])


def number_sentences(text: str, given: Arguments) -> bool:
    """Whether the text has as many sentences."""
    return compared(count_sentences(text), given["relation"], given["num_sentences"])


def number_words(text: str, given: Arguments) -> bool:
    """Whether the text has as many words."""
    return compared(count_words(text), given["relation"], given["num_words"])


def number_paragraphs(text: str, given: Arguments) -> bool:
    """Whether `***` separates so many paragraphs, none of which is empty but perhaps the first and the last."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == int(given["num_paragraphs"])


def nth_paragraph(text: str, given: Arguments) -> bool:
    """Whether an empty line separates so many paragraphs, and one of them begins with a word."""
    parts = text.split("\n\n")
    filled = sum(bool(part.strip()) for part in parts)
    number = given["nth_paragraph"]
    if number > filled or not parts[number - 1].strip():
        return False
    first = parts[number - 1].split()[0].lstrip("'").lstrip('"')
    bare = re.split(r"[.,?!'\"]", first, maxsplit=1)[0].lower()
    return filled == int(given["num_paragraphs"]) and bare == str(given["first_word"]).lower()


def placeholders(text: str, given: Arguments) -> bool:
    """Whether so many placeholders in square brackets are in the text."""
    return len(re.findall(r"\[.*?\]", text)) >= int(given["num_placeholders"])


def postscript(text: str, given: Arguments) -> bool:
    """Whether the text has a postscript after that marker; its letters may be set apart by a space."""
    marker = given["postscript_marker"].strip()
    spaced = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, re.escape(marker.lower()))
    return re.search(spaced, text.lower()) is not None


def bullet_lists(text: str, given: Arguments) -> bool:
    """Whether exactly so many lines begin with a single `*` or with `-`."""
    stars = re.findall(r"^[^\S\n]*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^[^\S\n]*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == int(given["num_bullets"])


def constrained_response(text: str, given: Arguments) -> bool:
    """Whether the text has one of the three answers that were allowed."""
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def highlighted(text: str, given: Arguments) -> bool:
    """Whether so many parts stand between asterisks, single or double; a double pair counts in both."""
    single = [part.strip("*").strip() for part in re.findall(r"\*[^\n*]*\*", text)]
    double = [part.removeprefix("**").removesuffix("**").strip() for part in re.findall(r"\*\*[^\n*]*\*\*", text)]
    return sum(map(bool, [*single, *double])) >= int(given["num_highlights"])


def multiple_sections(text: str, given: Arguments) -> bool:
    """Whether so many sections begin with a word and a number."""
    mark = re.escape(given["section_spliter"].strip())
    return len(re.findall(rf"{mark}\s?\d+", text)) >= int(given["num_sections"])


def json_format(text: str, given: Arguments) -> bool:
    """Whether the whole text is JSON, perhaps in a fenced block."""
    body = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        body = body.removeprefix(fence)
    try:
        json.loads(body.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str, given: Arguments) -> bool:
    """Whether a title that is not empty stands in double angular brackets."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str, given: Arguments) -> bool:
    """Whether six asterisks separate two different responses."""
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, given: Arguments) -> bool:
    """Whether the text begins with the request, in any case."""
    return text.strip().lower().startswith(str(given["prompt_to_repeat"]).strip().lower())


def end_checker(text: str, given: Arguments) -> bool:
    """Whether the text ends with a phrase, in any case, quotes around the whole left aside."""
    return text.strip().strip('"').lower().endswith(str(given["end_phrase"]).strip().lower())


def quotation(text: str, given: Arguments) -> bool:
    """Whether the whole text stands in double quotes."""
    body = text.strip()
    return len(body) > 1 and body[0] == body[-1] == '"'


def english_capital(text: str, given: Arguments) -> bool:
    """Whether the text is English and all in capital letters."""
    return text.isupper() and may_be(text, "en")


def english_lowercase(text: str, given: Arguments) -> bool:
    """Whether the text is English and all in small letters."""
    return text.islower() and may_be(text, "en")


def capital_words(text: str, given: Arguments) -> bool:
    """Whether so many words are all in capital letters; a one-letter word counts."""
    return compared(count_capitals(text), given["capital_relation"], given["capital_frequency"])


def count_capitals(text: str) -> int:
    """Return how many words are all in capital letters; words with points, hyphens or slashes inside are one."""
    return sum(word.isupper() for word in re.findall(r"\w(?:[\w.&/-]*\w)?", text))


def no_comma(text: str, given: Arguments) -> bool:
    """Whether the text has no comma."""
    return "," not in text


KINDS: Mapping[str, Kind] = {
    "change_case:capital_word_frequency": Kind(capital_words, ("capital_relation", "capital_frequency")),
    "change_case:english_capital": Kind(english_capital),
    "change_case:english_lowercase": Kind(english_lowercase),
    "combination:repeat_prompt": Kind(repeat_prompt, ("prompt_to_repeat",)),
    "combination:two_responses": Kind(two_responses),
    "detectable_content:number_placeholders": Kind(placeholders, ("num_placeholders",)),
    "detectable_content:postscript": Kind(postscript, ("postscript_marker",)),
    "detectable_format:constrained_response": Kind(constrained_response),
    "detectable_format:json_format": Kind(json_format),
    "detectable_format:multiple_sections": Kind(multiple_sections, ("section_spliter", "num_sections")),
    "detectable_format:number_bullet_lists": Kind(bullet_lists, ("num_bullets",)),
    "detectable_format:number_highlighted_sections": Kind(highlighted, ("num_highlights",)),
    "detectable_format:title": Kind(title),
    "keywords:existence": Kind(keywords_exist, ("keywords",)),
    "keywords:forbidden_words": Kind(forbidden_words, ("forbidden_words",)),
    "keywords:frequency": Kind(keyword_frequency, ("keyword", "relation", "frequency")),
    "keywords:letter_frequency": Kind(letter_frequency, ("letter", "let_relation", "let_frequency")),
    "language:response_language": Kind(response_language, ("language",)),
    "length_constraints:nth_paragraph_first_word": Kind(
        nth_paragraph, ("num_paragraphs", "nth_paragraph", "first_word")
    ),
    "length_constraints:number_paragraphs": Kind(number_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_sentences": Kind(number_sentences, ("relation", "num_sentences")),
    "length_constraints:number_words": Kind(number_words, ("relation", "num_words")),
    "punctuation:no_comma": Kind(no_comma),
    "startend:end_checker": Kind(end_checker, ("end_phrase",)),
    "startend:quotation": Kind(quotation),
}
"""Every kind of instruction by its id in the data."""
