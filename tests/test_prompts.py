from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import isara
from isara.api import Backend
from isara.prompts import (
    SEPARATORS,
    answer_stops,
    as_messages,
    exchanges,
    for_answer,
    for_question,
    one_line,
    parse_answer,
    parse_question,
    question_stops,
)
from isara.protocols import Chat, Turn
from isara.samples import Sample, read_jsonl
from isara.settings import Settings
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

# -- what a prompt is made of ------------------------------------------------------------------------------------------

words = st.text(st.sampled_from("abzÄßλшتあ水9?!.,-'\"“”()&🙂 \t\u00a0"), max_size=30)
questions = st.lists(words, min_size=1, max_size=3).map(" \n ".join).map(str.strip).filter(bool)
# A blank line inside an answer, but no line that begins like a label: in plain text that would be a demonstration.
answers = st.lists(words, min_size=1, max_size=4).map("\n".join).map(str.strip).filter(bool)
samples = st.builds(lambda q, a: Sample("s", q, a), questions, answers)
shown = st.lists(samples, max_size=5)
separators = st.sampled_from(SEPARATORS)


@settings(max_examples=40, deadline=None)
@given(shown, separators)
def test_a_text_prompt_for_a_question_splits_back_into_the_questions_shown(demonstrations, labels):
    prompt = for_question(demonstrations, "text", labels)
    *lines, last = prompt.split("\n")
    assert [line.split(" ", 1) for line in lines] == [[labels.question, one_line(s.question)] for s in demonstrations]
    assert last == labels.question


@settings(max_examples=40, deadline=None)
@given(questions, shown, separators)
def test_a_text_prompt_for_an_answer_splits_back_into_its_demonstrations_and_the_question(
    question, demonstrations, labels
):
    prompt = for_answer(question, demonstrations, "text", labels)
    *blocks, last = prompt.split(f"\n\n{labels.question} ")
    blocks = [*blocks, last]
    assert blocks[0].startswith(f"{labels.question} ")
    blocks[0] = blocks[0].removeprefix(f"{labels.question} ")
    pairs = [tuple(block.split(f"\n{labels.answer} ", 1)) for block in blocks[:-1]]
    assert pairs == [(one_line(s.question), s.answer) for s in demonstrations]
    assert blocks[-1] == f"{one_line(question)}\n{labels.answer}"


@settings(max_examples=40, deadline=None)
@given(questions, shown)
def test_a_conversation_is_the_demonstrations_and_the_question_word_for_word(question, demonstrations):
    texts = [text for s in demonstrations for text in (s.question, s.answer)]
    asks = for_question(demonstrations, "chat", SEPARATORS[0])
    assert ([turn.text for turn in asks.turns], asks.opens) == (texts, "user")
    answers = for_answer(question, demonstrations, "chat", SEPARATORS[0])
    assert ([turn.text for turn in answers.turns], answers.opens) == ([*texts, question], "assistant")
    assert [turn.role for turn in answers.turns] == ["user", "assistant"] * len(demonstrations) + ["user"]


def test_a_bare_question_is_the_question_alone():
    assert for_answer("Why?", [], "chat", SEPARATORS[0]) == Chat((Turn("user", "Why?"),))
    assert for_answer("Why?", [], "text", SEPARATORS[0]) == "Question: Why?\nAnswer:"


def test_prompts_for_a_file_are_text_or_messages():
    assert as_messages("Question: a") == "Question: a"
    turns = Chat(exchanges([Sample("s", "a?", "b")]))
    assert as_messages(turns) == [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize("labels", SEPARATORS)
def test_a_completion_of_plain_text_ends_where_the_prompt_would_go_on_with_another_sample(labels):
    goes_on = for_answer("next?", [Sample("s", "first?", "one")], "text", labels)
    written = goes_on.split(f"{labels.answer} ", 1)[1]
    ends = [at for stop in answer_stops("text", labels) if (at := written.find(stop)) >= 0]
    assert written[: min(ends)] == "one"
    assert question_stops("text") == ("\n",)
    assert question_stops("chat") == answer_stops("chat", labels) == ()


# -- every prompt of a whole run ---------------------------------------------------------------------------------------

LABELS = {label for each in SEPARATORS for label in (each.question, each.answer)}
AT_LABEL = re.compile(rf"^({'|'.join(map(re.escape, sorted(LABELS)))})(?: |$)", re.MULTILINE)


class Overheard:
    """A model that notes every prompt, those that are only scored too, and has nothing to say to the first of many."""

    def __init__(self, model, heard):
        self.model, self.heard, self.name, self.chat = model, heard, model.name, model.chat

    def complete(self, prompts, sampling, *, seeds):
        self.heard += prompts
        first, *others = self.model.complete(prompts, sampling, seeds=seeds)
        return [replace(first, text="…"), *others]

    def score(self, pairs, *, top_tokens=0):
        self.heard += [prompt for prompt, _ in pairs]
        return self.model.score(pairs, top_tokens=top_tokens)

    def distributions(self, pairs, k):
        self.heard += [prompt for prompt, _ in pairs]
        return self.model.distributions(pairs, k)

    def count(self, texts):
        return self.model.count(texts)

    def with_adapter(self, adapter):
        return Overheard(self.model.with_adapter(adapter), self.heard)


class Watched(ScriptedTrainer):
    """A trainer that notes every prompt it is to train on or to judge by."""

    def __init__(self, heard):
        super().__init__()
        self.heard = heard

    def train(self, examples, heldout, **options):
        self.heard += [each.prompt for each in (*examples, *heldout)]
        return super().train(examples, heldout, **options)


@pytest.fixture(scope="module", params=["text", "chat"])
def run(request, tmp_path_factory):
    """A whole run, with every prompt that the model or the trainer was given."""
    folder, heard = tmp_path_factory.mktemp("runs") / "run", []
    wanted = Settings.model_validate(
        {
            "rounds": 2,
            "questions": {"style": request.param},
            "answers": {"style": request.param},
            # No batch reads that well, so that all three pairs of labels come in.
            "target": {"accepted": 16, "batch": 6, "parse_floor": 1.0},
            "gate": {"patience": 2},
        }
    )
    backend = Backend(Overheard(ScriptedModel(), heard), HashEmbedder(), Watched(heard), {"name": "s"}, {"name": "h"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        isara.align("misconceptions", out=folder, settings=wanted, backend=lambda settings: backend)
    return request.param, folder, heard


def parts(prompt):
    """Return a prompt's labels, and everything in it that is not a label."""
    if isinstance(prompt, Chat):
        return [], [turn.text for turn in prompt.turns]
    pieces = AT_LABEL.split(prompt)
    assert pieces[0] == "", f"text before the first label: {prompt!r}"
    return pieces[1::2], [text for piece in pieces[2::2] if (text := piece.strip())]


def written(recorded):
    """Return the text of a prompt on record, on one line."""
    return one_line(recorded if isinstance(recorded, str) else "\n".join(turn["content"] for turn in recorded))


def known_texts(run):
    """Return every question and answer that a sample or a candidate of a run has."""
    known = set()
    for path in [*run.glob("*.jsonl"), *run.glob("round-*/kept.jsonl"), *run.glob("round-*/dropped.jsonl")]:
        if path.name != "events.jsonl":
            known |= {text for r in read_jsonl(path) for text in (r["question"], r["answer"]) if text}
    return known | {one_line(text) for text in known}


def test_no_prompt_of_a_whole_run_holds_anything_but_sample_text_and_labels(run):
    style, folder, heard = run
    known = known_texts(folder)
    labels_seen = set()
    for prompt in heard:
        labels, texts = parts(prompt)
        labels_seen |= set(labels)
        assert [text for text in texts if text not in known] == []
    # With `text` too, a bare question comes in the model's own form, a turn of a conversation.
    assert {type(prompt) for prompt in heard} == ({str, Chat} if style == "text" else {Chat})
    assert labels_seen == (LABELS if style == "text" else set())


def test_the_prompts_on_record_are_those_that_the_model_was_sent(run):
    _, folder, heard = run
    recorded = [record["prompt"] for path in folder.glob("round-*/prompts.jsonl") for record in read_jsonl(path)]
    assert len(recorded) > 60
    sent = [as_messages(prompt) for prompt in heard]
    assert [prompt for prompt in recorded if prompt not in sent] == []


def test_no_prompt_for_drafting_shows_a_held_out_sample(run):
    _, folder, _ = run
    judges = {text for s in read_jsonl(folder / "heldout.jsonl") for text in (s["question"], s["answer"])}
    learned = {text for s in read_jsonl(folder / "seeds.jsonl") for text in (s["question"], s["answer"])}
    recorded = [record["prompt"] for path in folder.glob("round-*/prompts.jsonl") for record in read_jsonl(path)]
    shown = "\n".join(map(written, recorded))
    assert any(one_line(text) in shown for text in learned)
    # Two samples of a set can have the same answer, and be on the two sides of the split.
    assert [text for text in judges - learned if one_line(text) in shown] == []


# -- reading completions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("What is rye?", "What is rye?"),
        ("  What   is\trye?  ", "What is rye?"),
        ("\n\n\nWhat is rye?\nWhat is oat?", "What is rye?"),
        ("1. What is rye?", "What is rye?"),
        ("12) What is rye?", "What is rye?"),
        ("(3) What is rye?", "What is rye?"),
        ("7: What is rye?", "What is rye?"),
        ("- What is rye?", "What is rye?"),
        ("• What is rye?", "What is rye?"),
        ("* What is rye?", "What is rye?"),
        ("## What is rye?", "What is rye?"),
        ("Question: What is rye?", "What is rye?"),
        ("question 4: What is rye?", "What is rye?"),
        ("Q: Q: What is rye?", "What is rye?"),
        ("Q2. What is rye?", "What is rye?"),
        ("Ask: What is rye?", "What is rye?"),
        ("- 2. Question: What is rye?", "What is rye?"),
        ('"What is rye?"', "What is rye?"),
        ("“What is rye?”", "What is rye?"),
        ("« What is rye? »", "What is rye?"),
        ("1. 'What is rye?'", "What is rye?"),
        ('"1. What is rye?"', "What is rye?"),
        ('Question: "What is «rye»?"', "What is «rye»?"),
        ('What is "rye"?', 'What is "rye"?'),
        ('"Rye" or "oat"', '"Rye" or "oat"'),
        ("What is rye? Answer: A grain.", "What is rye?"),
        ("What is rye? A: A grain.", "What is rye?"),
        ("What is rye? Reply : A grain.", "What is rye?"),
        ("Answer: A grain.\nQ: What is oat?", "What is oat?"),
        ("...\n---\n1.\nWhat is rye?", "What is rye?"),
        ("3.5 litres are how many pints?", "3.5 litres are how many pints?"),
        ("10:30 is how late in Rome?", "10:30 is how late in Rome?"),
        ("1. 3.5 litres are how many pints?", "3.5 litres are how many pints?"),
        ("747 or 380, which is larger?", "747 or 380, which is larger?"),
        ("Почему хлеб кислый?", "Почему хлеб кислый?"),
        ("1. パンはなぜ膨らむのですか？", "パンはなぜ膨らむのですか？"),
        ("لماذا ينتفخ الخبز؟", "لماذا ينتفخ الخبز؟"),
        ("What is rye?\u2028What is oat?", "What is rye?"),
        ("", None),
        (" \n\t\n ", None),
        ("?!... --- ***", None),
        ("1. 2. 3.", None),
        ("Question:", None),
        ("Answer: yes", None),
        ('""', None),
        ("🙂 🙂", None),
    ],
)
def test_a_question_is_read_out_of_what_models_write(text, question):
    assert parse_question(text) == question


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A grain.", "A grain."),
        ("  A grain.\n\n", "A grain."),
        (" Answer: A grain.", "A grain."),
        ("A: A grain.", "A grain."),
        ("Reply: A grain.", "A grain."),
        ("Answer: A: A grain.", "A grain."),
        ("\nassistant:\nA grain.", "A grain."),
        ("A grain.\nQuestion: What is oat?\nAnswer: Another.", "A grain."),
        ("A grain.\n\n Q: What is oat?", "A grain."),
        ("A grain.\nAsk: What is oat?", "A grain."),
        ("A grain.\nIt is hardy.\n\nIt is old.", "A grain.\nIt is hardy.\n\nIt is old."),
        ("- one\n- two", "- one\n- two"),
        ("42", "42"),
        ("A question of taste.", "A question of taste."),
        ("Зерно.", "Зерно."),
        ("穀物です。", "穀物です。"),
        ("", None),
        (" \n ", None),
        ("…", None),
        ("- ?!", None),
        ("Answer:", None),
        ("\nQuestion: What is oat?", None),
    ],
)
def test_an_answer_is_read_out_of_what_models_write(text, answer):
    assert parse_answer(text) == answer


# Pieces that mean something to the readers, between any text at all.
MARKS = ("Question:", "Q1.", "q:", "Ask:", "User:", "Answer:", "A :", "Reply:", "Assistant:", "1.", "(2)", "3:", "- ")
MARKS += ("* ", "• ", "# ", '"', "'", "“", "”", "«", "»", "\n", "\r\n", "\u2028", "\t", "3.5", "rye", "水", "é", "?")
pieces = st.one_of(st.text(max_size=8), st.sampled_from(MARKS))
completions = st.lists(pieces, max_size=12).flatmap(lambda few: st.sampled_from([" ".join(few), "".join(few)]))


@settings(max_examples=40, deadline=None)
@given(completions)
@example('"1. "rye""')
@example("Answer: Answer: Q: rye")
def test_reading_a_question_never_fails_and_reading_it_again_changes_nothing(text):
    found = parse_question(text)
    if found is not None:
        assert parse_question(found) == found
        assert any(map(str.isalpha, found))
        assert found == one_line(found)
        assert found.splitlines() == [found]


@settings(max_examples=40, deadline=None)
@given(completions)
@example("A: A: rye")
@example("\u2028Answer: a\n Q: b")
def test_reading_an_answer_never_fails_and_reading_it_again_changes_nothing(text):
    found = parse_answer(text)
    if found is not None:
        assert parse_answer(found) == found
        assert any(map(str.isalnum, found))
        assert found == found.strip()
        assert found in text


@settings(max_examples=40, deadline=None)
@given(completions)
def test_what_is_read_was_written(text):
    found = parse_question(text)
    assert found is None or found in one_line(text)


@settings(max_examples=40, deadline=None)
@given(questions, separators)
def test_a_question_comes_back_from_the_prompt_form_it_was_shown_in(question, labels):
    assert parse_question(f"{labels.question} {one_line(question)}") == parse_question(one_line(question))
