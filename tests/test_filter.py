from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isara import rouge
from isara.filter import (
    ANSWER_RULES,
    FUNNEL,
    QUESTION_RULES,
    Candidate,
    Neighbours,
    Sieve,
    alike,
    answer_rules,
    at_most,
    copied,
    echoed,
    first,
    helped,
    likely,
    no_answer,
    no_question,
    on_topic,
    question_rules,
    repeated,
    truncated,
    word_count,
)
from isara.samples import Sample
from isara.settings import FilterSettings
from isara.testing import HashEmbedder

EMBEDDER = HashEmbedder()
TEN = "one two three four five six seven eight nine ten"


def vector(text):
    """Return a text's embedding, rounded as a run rounds it."""
    return EMBEDDER.embed([text])[0].astype("<f2").astype(np.float32)


def neighbours(*questions, prefix="seed"):
    samples = [Sample(f"{prefix}-{i}", question, "an answer") for i, question in enumerate(questions, 1)]
    return Neighbours(samples, np.array([vector(question) for question in questions]).reshape(-1, 256))


def asked(question, name="r1-00001"):
    return Candidate(name, 1, question, vector=None if question is None else vector(question))


def answered(answer, question="Why does bread rise in the oven?", **more):
    return Candidate("r1-00001", 1, question, answer, **more)


def sieve(known=None, heldout=None, *, topic=-1.0, seeds=(), wanted=100, **thresholds):
    settings = FilterSettings(topic=topic, **thresholds)
    return Sieve(settings, known or neighbours(), heldout or neighbours(), seeds, wanted)


# -- thresholds: kept on one side, dropped on the other, and exactly at it ---------------------------------------------


@pytest.mark.parametrize("part", ["question", "answer"])
@pytest.mark.parametrize(
    ("words", "reason", "threshold"),
    [
        (0, "has 0 words, fewer than 3", 3),
        (2, "has 2 words, fewer than 3", 3),
        (3, None, None),
        (5, None, None),
        (6, "has 6 words, more than 5", 5),
    ],
)
def test_words_are_counted_and_both_limits_are_allowed(part, words, reason, threshold):
    candidate = Candidate("r1-00001", 1, **{part: " ".join(TEN.split()[:words])})
    drop = word_count(part, 3, 5)(candidate)
    assert candidate.scores == {f"{part}_words": words}
    if reason is None:
        assert drop is None
    else:
        assert (drop.rule, drop.score, drop.threshold) == (f"{part}_words", words, threshold)
        assert drop.reason == f"the {part} {reason}"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("don't stop", 2),
        ("3.5 litres of E-numbers", 4),
        ("Почему хлеб кислый?", 3),
        ("面包为什么会发酸", 8),
        ("パンはなぜ膨らむの？", 9),
        ("iPhone の電池は？", 5),
        ("왜 빵이 부풀까요?", 3),
        (" \u3000 ", 0),
    ],
)
def test_scripts_without_spaces_are_counted_by_characters(text, count):
    candidate = asked(text)
    word_count("question", 1, 60)(candidate)
    assert candidate.scores["question_words"] == count


# Ten words against ten that share seven: ROUGE-L is exactly 0.7.
SHARES_SEVEN = "one two three four five six seven a b c"


@pytest.mark.parametrize(("threshold", "dropped"), [(0.69, True), (0.7, True), (0.7000001, False), (1.0, False)])
def test_a_question_as_close_by_words_as_the_threshold_is_dropped_and_a_little_less_is_kept(threshold, dropped):
    candidate = asked(SHARES_SEVEN)
    known = neighbours("nothing in common here", TEN)
    drop = alike("rouge", threshold, known, "a question already there")(candidate)
    assert candidate.scores == {"rouge": 0.7}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold, drop.nearest) == ("rouge", 0.7, threshold, "seed-2")
        assert drop.reason == f"ROUGE-L 0.70 with a question already there (seed-2), limit {threshold:g}"


@pytest.mark.parametrize(("threshold", "dropped"), [(0.5, True), (0.625, True), (0.63, False)])
def test_a_question_as_close_by_meaning_as_the_threshold_is_dropped_and_a_little_less_is_kept(threshold, dropped):
    samples = [Sample("seed-1", "a", "b"), Sample("seed-2", "c", "d")]
    known = Neighbours(samples, np.array([[0, 1, 0], [0.625, 0, 0.75]], np.float32))
    candidate = Candidate("r1-00001", 1, "e", vector=np.array([1, 0, 0], np.float32))
    drop = alike("cosine", threshold, known, "a question already there")(candidate)
    assert candidate.scores == {"cosine": 0.625}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold, drop.nearest) == ("cosine", 0.625, threshold, "seed-2")
        assert drop.reason == f"cosine 0.62 with a question already there (seed-2), limit {threshold:g}"


@pytest.mark.parametrize(("threshold", "dropped"), [(0.5, False), (0.625, False), (0.63, True)])
def test_a_question_must_be_as_like_what_there_is_as_the_threshold(threshold, dropped):
    samples = [Sample("seed-1", "a", "b"), Sample("seed-2", "c", "d")]
    known = Neighbours(samples, np.array([[0, 1, 0], [0.625, 0, 0.75]], np.float32))
    candidate = Candidate("r1-00001", 1, "e", vector=np.array([1, 0, 0], np.float32))
    drop = on_topic(threshold, known)(candidate)
    assert candidate.scores == {"topic": 0.625}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold, drop.nearest) == ("topic", 0.625, threshold, "seed-2")
        assert drop.reason == "cosine 0.62 with the nearest question there is (seed-2), asked 0.63"


def test_what_was_accepted_in_the_same_round_does_not_make_a_topic():
    judge = sieve(neighbours("rye bread is dense"), topic=0.3)
    assert judge.question(asked("rye bread is an oven thing", "r1-00001")) is None
    drop = judge.question(asked("an oven thing for meat", "r1-00002"))
    assert (drop.rule, drop.nearest) == ("topic", "seed-1")
    assert (
        sieve(neighbours("rye bread is dense", "rye bread is an oven thing"), topic=0.3).question(
            asked("an oven thing for meat")
        )
        is None
    )


# Eight words whose six 3-grams are three, each twice: half are repeats.
LOOPED = "so it goes so it goes so it"


@pytest.mark.parametrize(("threshold", "dropped"), [(0.49, True), (0.5, False), (0.51, False)])
def test_an_answer_may_repeat_as_much_as_the_threshold_and_no_more(threshold, dropped):
    candidate = answered(LOOPED)
    drop = answer_rules(FilterSettings(repetition=threshold))["repetition"](candidate)
    assert candidate.scores == {"repetition": 0.5}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold, drop.nearest) == ("repetition", 0.5, threshold, None)
        assert drop.reason == "0.50 of its word 3-grams repeat earlier ones, limit 0.49"


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("yes", 0.0),
        ("", 0.0),
        ("…", 0.0),
        ("no no no no", 0.75),
        ("No no", 0.5),
        ("the cat and the dog", 0.2),
        (TEN, 0.0),
        ("so it goes " * 10, 25 / 28),
        ("我不知道我不知道我不知道", 6 / 10),
        ("水が沸く", 0.0),
    ],
)
def test_repetition_is_the_share_of_repeated_3_grams_and_of_words_where_there_are_few(answer, share):
    assert repeated(answered(answer)) == pytest.approx(share)


@pytest.mark.parametrize(("threshold", "dropped"), [(0.69, True), (0.7, False), (0.71, False)])
def test_an_answer_may_be_as_like_its_question_as_the_threshold_and_no_more(threshold, dropped):
    candidate = answered(SHARES_SEVEN, TEN)
    drop = answer_rules(FilterSettings(echo=threshold))["echo"](candidate)
    assert candidate.scores == {"echo": 0.7}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold) == ("echo", 0.7, threshold)
        assert drop.reason == "0.70 ROUGE-L with its own question, limit 0.69"


@pytest.mark.parametrize(("threshold", "dropped"), [(0.69, True), (0.7, False), (0.71, False)])
def test_an_answer_may_be_as_like_one_it_was_shown_as_the_threshold_and_no_more(threshold, dropped):
    candidate = answered(SHARES_SEVEN, shown=("something else", TEN, "and more"))
    drop = answer_rules(FilterSettings(copied=threshold))["copied"](candidate)
    assert candidate.scores == {"copied": 0.7}
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold) == ("copied", 0.7, threshold)
        assert drop.reason == "0.70 ROUGE-L with the answer of a demonstration, limit 0.69"


def test_an_answer_word_for_word_as_one_it_was_shown_is_copied_and_one_shown_nothing_is_not():
    assert copied(answered("It rises.", shown=("Oats.", "it  rises"))) == 1
    assert copied(answered("It rises.")) == 0


@pytest.mark.parametrize(("nll", "dropped"), [(None, False), (0.1, False), (4.0, False), (4.01, True)])
def test_an_answer_may_be_as_unlikely_as_the_threshold_and_no_more(nll, dropped):
    candidate = answered("Steam.", scores={} if nll is None else {"confidence": nll})
    drop = likely(4.0)(candidate)
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold) == ("confidence", 4.01, 4.0)
        assert drop.reason == "NLL per token 4.01, limit 4"


@pytest.mark.parametrize(("gain", "dropped"), [(None, False), (2.0, False), (-1.0, False), (-1.01, True)])
def test_demonstrations_must_gain_as_much_as_the_threshold(gain, dropped):
    candidate = answered("Steam.", scores={} if gain is None else {"gain": gain})
    drop = helped(-1.0)(candidate)
    assert (drop is not None) == dropped
    if drop:
        assert (drop.rule, drop.score, drop.threshold) == ("gain", -1.01, -1.0)
        assert drop.reason == "demonstrations gain -1.01 nats per token, asked -1"


@pytest.mark.parametrize(
    ("rule", "good", "bad", "name", "reason"),
    [
        (no_question, answered(None), answered(None, None), "parse", "no question could be read from the completion"),
        (no_answer, answered("Steam."), answered(None), "no_answer", "no answer could be read from the completion"),
        (
            truncated,
            answered("Steam."),
            answered("Steam and", finished=False),
            "truncated",
            "the answer had not ended at answers.max_tokens",
        ),
    ],
)
def test_what_is_missing_or_cut_off_is_dropped(rule, good, bad, name, reason):
    assert rule(good) is None
    drop = rule(bad)
    assert (drop.rule, drop.reason, drop.score, drop.threshold, drop.nearest) == (name, reason, None, None, None)


# -- answers that are all the same -------------------------------------------------------------------------------------

REFUSAL = "Sorry, I cannot help with that."


def passing(judge, *answers):
    """The answers that pass, one after the other."""
    return [text for text in answers if judge.answer(answered(text)) is None]


def test_an_answer_is_kept_until_its_share_of_the_round_is_reached():
    judge = sieve(wanted=20, common=0.1)
    assert passing(judge, REFUSAL, "sorry; I CANNOT help with that!", REFUSAL, "An oven dries the crust.") == [
        REFUSAL, "sorry; I CANNOT help with that!", "An oven dries the crust.",
    ]  # fmt: skip
    drop = judge.answer(again := answered(REFUSAL))
    assert (drop.rule, drop.score, drop.threshold) == ("common", 0.15, 0.1)
    assert drop.reason == "0.15 of the round would have this answer, limit 0.1"
    assert again.scores["common"] == 0.15


@pytest.mark.parametrize(("seeds", "kept"), [(0, 1), (1, 2), (3, 6), (9, 18)])
def test_an_answer_may_be_as_frequent_as_among_the_seeds(seeds, kept):
    others = [f"An answer of its own, number {i}." for i in range(10 - seeds)]
    judge = sieve(wanted=20, common=0.05, seeds=[REFUSAL] * seeds + others)
    assert len(passing(judge, *[REFUSAL] * 30)) == kept


def test_one_of_each_answer_is_kept_however_small_the_round():
    judge = sieve(wanted=2, common=0.01)
    assert passing(judge, REFUSAL, REFUSAL, "An oven dries the crust.") == [REFUSAL, "An oven dries the crust."]


def test_an_answer_that_another_rule_drops_is_not_counted():
    judge = sieve(wanted=20, common=0.05, answer_words_min=3)
    assert passing(judge, "No", "No") == []
    judge = sieve(wanted=20, common=0.05, gain=0.0)
    lost = answered(REFUSAL)
    lost.scores["gain"] = -1.0
    assert judge.answer(lost).rule == "gain"
    assert passing(judge, REFUSAL) == [REFUSAL]


def test_what_was_accepted_before_counts_when_a_round_goes_on():
    judge = sieve(wanted=20, common=0.1)
    judge.accepted(REFUSAL)
    assert len(passing(judge, REFUSAL, REFUSAL)) == 1


# -- the rules together ------------------------------------------------------------------------------------------------


def test_the_rules_run_in_the_order_of_the_funnel():
    wanted = FilterSettings()
    assert tuple(question_rules(wanted, neighbours(), neighbours())) == QUESTION_RULES
    # The last one counts what the others let through.
    assert (*answer_rules(wanted), "common") == ANSWER_RULES
    assert (*QUESTION_RULES, *ANSWER_RULES, "surplus") == FUNNEL


def test_the_first_rule_that_fails_gives_the_reason_and_later_ones_leave_no_score():
    candidate = answered("no no no no", "no no no no")
    drop = first(answer_rules(FilterSettings()), candidate)
    assert drop.rule == "repetition"
    assert set(candidate.scores) == {"answer_words", "repetition"}


def test_a_good_candidate_passes_every_rule_and_has_a_score_of_each():
    judge = sieve(neighbours("Why is rye bread dense?"), neighbours("How hot is an oven?", prefix="heldout"))
    candidate = asked("What makes sourdough taste of vinegar?")
    assert judge.question(candidate) is None
    candidate.answer, candidate.shown = "A starter that is seldom fed turns sour.", ("Rye has little gluten.",)
    candidate.scores |= {"confidence": 1.0, "gain": 0.2}
    assert judge.answer(candidate) is None
    assert set(candidate.scores) == {
        "question_words", "topic", "heldout_rouge", "heldout_cosine", "rouge", "cosine",
        "answer_words", "repetition", "echo", "copied", "confidence", "gain", "common",
    }  # fmt: skip


def test_a_near_duplicate_of_a_seed_of_the_pool_is_dropped_and_the_seed_is_named():
    judge = sieve(neighbours("Why is rye bread so dense?", "How do I feed a starter?"))
    drop = judge.question(asked("how do I feed a STARTER"))
    assert (drop.rule, drop.nearest, drop.score) == ("rouge", "seed-2", 1.0)


def test_a_near_duplicate_of_one_accepted_just_before_is_dropped_and_that_one_is_named():
    judge = sieve(neighbours("Why is rye bread so dense?"))
    assert judge.question(asked("How do I feed a starter?", "r1-00001")) is None
    drop = judge.question(asked("How do I feed my starter?", "r1-00002"))
    assert (drop.rule, drop.nearest) == ("rouge", "r1-00001")


def test_words_turned_around_are_a_near_duplicate_by_meaning():
    judge = sieve(cosine=0.6)
    assert judge.question(asked("rye bread is dense and sour today", "r1-00001")) is None
    drop = judge.question(asked("sour and dense is rye bread today", "r1-00002"))
    assert (drop.rule, drop.nearest) == ("cosine", "r1-00001")


def test_a_dropped_question_does_not_stand_in_the_way_of_later_ones():
    judge = sieve(question_words_max=4)
    assert judge.question(asked("What makes a sourdough starter rise?", "r1-00001")).rule == "question_words"
    assert judge.question(asked("What makes starter rise?", "r1-00002")) is None


def test_neighbours_grow_beyond_what_they_began_with():
    known = neighbours("How do I feed a starter?")
    others = [f"w{i} x{i} y{i} z{i}" for i in range(600)]
    for i, question in enumerate(others):
        known.add(f"r1-{i}", question, vector(question))
    assert known.by_words(others[599]) == ("r1-599", 1.0)
    name, cosine = known.by_meaning(vector(others[577]))
    assert (name, cosine) == ("r1-577", pytest.approx(1, abs=1e-3))
    assert known.by_words("How do I feed a starter?")[0] == "seed-1"


def test_of_equally_near_questions_the_one_there_first_is_named():
    # Sums of products in another order can differ in the last digit; which of equals is named must not.
    rng = np.random.default_rng(3)
    for count in (2, 3, 5, 7, 11, 18):
        rows = rng.normal(size=(2, 384))
        row, query = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f2").astype(np.float32)
        known = Neighbours([Sample(f"s{i}", "q", "a") for i in range(count)], np.tile(row, (count, 1)))
        assert known.by_meaning(query)[0] == "s0"


def test_with_nothing_to_compare_to_nothing_is_near():
    assert neighbours().by_words("Why?") == (None, 0.0)
    assert neighbours().by_meaning(vector("Why?")) == (None, 0.0)
    assert sieve().question(asked("Why does bread rise?")) is None


# -- properties --------------------------------------------------------------------------------------------------------

texts = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(["why", "does", "Bread", "水", "が", "é", "—", "no", "🙂", "\u0301"]), max_size=9).map(
        " ".join
    ),
)
shares = st.floats(0.01, 1)
thresholds = st.builds(
    FilterSettings,
    question_words_min=st.integers(1, 9),
    question_words_max=st.integers(1, 60),
    answer_words_min=st.integers(1, 9),
    answer_words_max=st.integers(1, 60),
    repetition=st.floats(0, 1),
    echo=shares,
    copied=shares,
    rouge=shares,
    cosine=shares,
    topic=st.floats(-1, 1),
    heldout_rouge=shares,
    heldout_cosine=shares,
    confidence=st.floats(0.01, 9),
    gain=st.floats(-5, 5),
)


@given(texts, st.one_of(st.none(), texts), st.lists(texts, max_size=3), thresholds, st.floats(0, 9), st.floats(-3, 3))
@settings(max_examples=100, deadline=None)
def test_no_text_breaks_a_rule_and_every_drop_says_what_it_measured(question, answer, others, wanted, nll, gain):
    known = neighbours(*others)
    judge = Sieve(wanted, known, neighbours("Why does bread rise?", prefix="heldout"), others, 1)
    candidate = asked(question)
    candidate.answer, candidate.shown = answer, tuple(others)
    candidate.scores |= {"confidence": nll, "gain": gain}
    for drop in (judge.question(candidate), judge.answer(candidate)):
        if drop is None:
            continue
        assert drop.rule in FUNNEL
        assert "\n" not in drop.reason
        if drop.rule not in ("parse", "no_answer", "truncated"):
            assert drop.score == candidate.scores[drop.rule]
            assert drop.threshold in wanted.model_dump().values()
            assert f"{drop.threshold:g}" in drop.reason
        if drop.nearest is not None:
            assert drop.nearest in {"heldout-1", *(f"seed-{i}" for i in range(1, len(others) + 1))}
            assert f"({drop.nearest})" in drop.reason
        assert json.loads(json.dumps(drop.to_json(), allow_nan=False))["rule"] == drop.rule
    assert json.loads(json.dumps(candidate.to_json(), allow_nan=False))["question"] == question
    for name in ("rouge", "heldout_rouge", "echo", "copied", "repetition"):
        assert 0 <= candidate.scores.get(name, 0) <= 1


@given(texts, thresholds)
@settings(max_examples=50, deadline=None)
def test_a_held_out_question_is_dropped_whatever_the_settings(question, wanted):
    assume(rouge.tokens(question))
    judge = Sieve(wanted, neighbours(), neighbours("How hot is an oven?", question, prefix="heldout"), [], 1)
    drop = judge.question(asked(question))
    assert drop.rule in ("question_words", "topic", "heldout_rouge")
    if drop.rule == "heldout_rouge":
        assert drop.score == 1
        assert drop.nearest == "heldout-2" or rouge.f1(question, "How hot is an oven?") == 1


@given(st.sampled_from(["rouge", "cosine"]), texts, st.lists(texts, min_size=1, max_size=4), shares)
@settings(max_examples=50, deadline=None)
def test_a_question_is_dropped_exactly_when_its_score_reaches_the_threshold(name, question, others, threshold):
    candidate = asked(question)
    drop = alike(name, threshold, neighbours(*others), "another")(candidate)
    assert (drop is not None) == (candidate.scores[name] >= threshold)
    at_the_score = candidate.scores[name]
    if at_the_score > 0:
        assert alike(name, at_the_score, neighbours(*others), "another")(candidate).score == at_the_score
        assert alike(name, np.nextafter(at_the_score, 9), neighbours(*others), "another")(candidate) is None


@given(texts, texts, st.lists(texts, max_size=3), st.sampled_from([repeated, echoed, copied]), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_an_answer_is_dropped_exactly_when_its_score_is_over_the_threshold(question, answer, shown, measure, threshold):
    candidate = answered(answer, question, shown=tuple(shown))
    drop = at_most("a rule", threshold, measure, "of it")(candidate)
    assert (drop is not None) == (candidate.scores["a rule"] > threshold)
    assert at_most("a rule", candidate.scores["a rule"], measure, "of it")(candidate) is None


@given(st.lists(texts, min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_two_questions_that_pass_are_near_duplicates(questions):
    judge = sieve(question_words_min=1)
    passed = [question for i, question in enumerate(questions) if judge.question(asked(question, f"r1-{i}")) is None]
    for i, later in enumerate(passed):
        assert all(rouge.f1(later, earlier) < 0.7 for earlier in passed[:i])
        assert all(float(vector(later) @ vector(earlier)) < 0.9501 for earlier in passed[:i])


# -- records -----------------------------------------------------------------------------------------------------------


def test_parents_are_every_demonstration_once_those_of_the_question_first():
    candidate = Candidate("r1-1", 1, question_parents=("a", "b"), answer_parents=("c", "a"))
    assert candidate.parents == ("a", "b", "c")
    assert candidate.to_json()["parents"] == ["a", "b", "c"]


def test_records_round_their_scores_and_keep_what_decided():
    candidate = answered("Steam.", scores={"rouge": 2 / 3, "question_words": 7})
    assert candidate.to_json()["scores"] == {"rouge": 0.666667, "question_words": 7}
    drop = alike("rouge", 0.5, neighbours("a b d"), "a question already there")(asked("a b c"))
    assert drop.to_json() == {
        "rule": "rouge",
        "reason": "ROUGE-L 0.67 with a question already there (seed-1), limit 0.5",
        "score": 0.666667,
        "threshold": 0.5,
        "nearest": "seed-1",
    }


def test_a_question_with_a_word_ruled_out_is_dropped():
    from isara.filter import without

    rule = without("image, Draw a map,")
    said = {
        question: rule(Candidate("x", 1, question)) is not None
        for question in ("What is in this image?", "IMAGES of what?", "Can you draw a map?", "A map to draw?", "Why?")
    }
    assert list(said.values()) == [True, False, True, False, False]
    assert rule(Candidate("x", 1, "An image?")).reason == "the question has 'image', one of filter.keywords"
    assert without("")(Candidate("x", 1, "Why, and what, and who?")) is None


# -- many questions ----------------------------------------------------------------------------------------------------


def test_with_many_questions_only_what_reaches_the_threshold_by_words_is_looked_for():
    samples = [Sample(f"seed-{i}", f"what is the price of {i} loaves", "a") for i in range(5)]
    vectors = np.eye(5, 8, dtype=np.float32)
    few, many = Neighbours(samples, vectors, scored=6), Neighbours(samples, vectors, scored=5)
    assert few.by_words("what is rye", 0.7) == ("seed-0", pytest.approx(0.4))
    assert many.by_words("what is rye", 0.7) == (None, None)
    assert many.by_words("what is the price of 3 loaves", 0.7) == few.by_words("what is the price of 3 loaves", 0.7)
    candidate = asked("what is rye")
    assert alike("rouge", 0.7, many, "a question")(candidate) is None
    assert "rouge" not in candidate.scores


@given(st.lists(texts, min_size=1, max_size=8), st.lists(texts, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_a_batch_judged_at_once_is_judged_as_one_by_one(others, questions):
    candidates = [asked(question, f"r1-{i:05d}") for i, question in enumerate(questions)]
    again = [asked(question, f"r1-{i:05d}") for i, question in enumerate(questions)]
    together = sieve(neighbours(*others), cosine=0.8).questions(candidates)
    apart, judge = {}, sieve(neighbours(*others), cosine=0.8)
    for candidate in again:
        drop = judge.question(candidate)
        apart |= {candidate.id: drop} if drop else {}
    assert together == apart
    assert [c.scores for c in candidates] == [c.scores for c in again]
