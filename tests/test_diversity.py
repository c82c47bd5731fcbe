import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer

from isara.diversity import measure, warnings
from isara.rouge import tokens
from isara.samples import Sample

WORDS = tokens("bee honey hive queen drone swarm wax comb brood nectar pollen smoke frame sting keeper clover")
LINES = st.lists(st.sampled_from(WORDS[:6]), min_size=1, max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(LINES, LINES), min_size=2, max_size=8)


def pile(pairs):
    return [Sample(id=f"s{i}", question=question, answer=answer) for i, (question, answer) in enumerate(pairs)]


def made_up(count, *, words=16, seed=0, length=8):
    """Samples of random words; the fewer words to choose from, the more alike."""
    rng = random.Random(seed)
    return pile(
        (" ".join(rng.choices(WORDS[:words], k=length)), " ".join(rng.choices(WORDS[:words], k=length)))
        for _ in range(count)
    )


def towards(*rows):
    vectors = np.array(rows, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def alone(samples, vectors=None):
    """The measures of samples against seeds of the same size, so that all of them are used."""
    return measure(samples, vectors, samples, vectors)["seeds"]


# -- words -------------------------------------------------------------------------------------------------------------


def test_distinct_counts_different_ngrams():
    found = alone(pile([("the bee and the bee", "the hive")]))
    assert found["distinct_1"] == 4 / 7
    assert found["distinct_2"] == 5 / 6
    assert found["distinct_3"] == 5 / 5


def test_ngrams_do_not_cross_from_one_sample_into_the_next():
    found = alone(pile([("bee", "honey"), ("hive", "queen")]))
    assert found["distinct_2"] == 1.0
    assert found["distinct_3"] is None


def test_distinct_compares_on_as_many_words_as_the_smaller_has():
    seeds, more = made_up(10), made_up(200, seed=1)
    found = measure(more, None, seeds, None)
    # 200 samples of 16 words repeat nearly every one; on equally many words they are as varied as the seeds.
    everything = [token for s in more for token in tokens(f"{s.question} {s.answer}")]
    assert len(set(everything)) / len(everything) < 0.01
    for key in ("distinct_1", "distinct_2", "distinct_3"):
        assert found[key] == pytest.approx(found["seeds"][key], abs=0.06)
    # And the other way round: a small round next to many seeds.
    turned = measure(seeds, None, more, None)
    assert turned["distinct_2"] == found["seeds"]["distinct_2"]
    assert turned["seeds"]["distinct_2"] == found["distinct_2"]


def test_fewer_words_to_choose_from_show_in_every_measure_of_words():
    found = measure(made_up(60, words=3, seed=2), None, made_up(30), None)
    for key in ("distinct_1", "distinct_2", "distinct_3"):
        assert found[key] < 0.6 * found["seeds"][key]
    assert found["self_bleu"] > found["seeds"]["self_bleu"] + 0.2


@given(PAIRS)
@settings(max_examples=50)
def test_self_bleu_is_the_mean_bleu_against_the_others(pairs):
    samples = pile(pairs)
    texts = [tokens(f"{sample.question} {sample.answer}") for sample in samples]
    smooth = SmoothingFunction().method1
    theirs = [
        sentence_bleu(texts[:i] + texts[i + 1 :], text, smoothing_function=smooth) for i, text in enumerate(texts)
    ]
    assert alone(samples)["self_bleu"] == pytest.approx(sum(theirs) / len(theirs), abs=1e-9)


def test_self_bleu_compares_equally_many_texts():
    # More texts leave each fewer words of its own, so 300 random ones look far more alike than 20.
    found = measure(made_up(300, seed=3), None, made_up(20, seed=4), None)
    assert found["self_bleu"] == pytest.approx(found["seeds"]["self_bleu"], abs=0.06)
    assert alone(made_up(150, seed=3))["self_bleu"] > found["self_bleu"] + 0.15


def test_self_bleu_of_equal_texts_is_one():
    assert alone(pile([("how do bees make honey", "from nectar")] * 3))["self_bleu"] == pytest.approx(1.0)


def test_word_counts_are_means():
    found = alone(pile([("what is a hive", "a home"), ("who rules it", "the queen bee does")]))
    assert (found["question_words"], found["answer_words"]) == (3.5, 3.0)


# -- vectors -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**16))
@settings(max_examples=40)
def test_distances_are_those_of_every_pair(ours, theirs, seed):
    rng = np.random.default_rng(seed)
    vectors, seed_vectors = towards(*rng.normal(size=(ours, 5))), towards(*rng.normal(size=(theirs, 5)))
    found = measure(made_up(ours), vectors, made_up(theirs), seed_vectors)
    spread = [1 - vectors[i] @ vectors[j] for i in range(ours) for j in range(i)]
    nearest = [min(1 - a @ b for b in seed_vectors) for a in vectors]
    other = [min(1 - a @ b for j, b in enumerate(seed_vectors) if j != i) for i, a in enumerate(seed_vectors)]
    assert found["spread"] == pytest.approx(np.mean(spread), abs=1e-6)
    assert found["to_seeds"] == pytest.approx(max(0, np.mean(nearest)), abs=1e-6)
    assert found["seeds"]["to_seeds"] == pytest.approx(np.mean(other), abs=1e-6)


def test_questions_that_are_all_the_same_have_no_spread():
    found = alone(made_up(3), towards([1, 2], [1, 2], [1, 2]))
    assert found["spread"] == pytest.approx(0, abs=1e-9)
    assert found["spread"] >= 0


def test_length_of_the_vectors_does_not_matter():
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert alone(made_up(4), vectors * 7)["spread"] == pytest.approx(alone(made_up(4), vectors)["spread"])
    assert alone(made_up(2), np.zeros((2, 3), dtype=np.float32))["spread"] == 1.0


def test_vectors_have_to_belong_to_the_samples():
    with pytest.raises(ValueError, match="2 vectors for 3 samples"):
        measure(made_up(3), towards([1, 0], [0, 1]), made_up(2), None)


# -- copies ------------------------------------------------------------------------------------------------------------


@given(PAIRS, PAIRS)
@settings(max_examples=50)
def test_copy_rate_is_the_share_of_answers_close_to_a_seeds(pairs, seed_pairs):
    scorer = RougeScorer(["rougeL"])

    def close(a, b):
        return scorer.score(a, b)["rougeL"].fmeasure >= 0.9 - 1e-12

    found = measure(pile(pairs), None, pile(seed_pairs), None)
    answers, sources = [a for _, a in pairs], [a for _, a in seed_pairs]
    assert found["copy_rate"] == pytest.approx(np.mean([any(close(a, s) for s in sources) for a in answers]))
    within = [any(close(a, b) for j, b in enumerate(sources) if j != i) for i, a in enumerate(sources)]
    assert found["seeds"]["copy_rate"] == pytest.approx(np.mean(within))


# -- edges -------------------------------------------------------------------------------------------------------------


def test_nothing_to_measure_is_none():
    found = measure([], None, [], None)
    assert set(found.pop("seeds").values()) == {None}
    assert set(found.values()) == {None}


def test_one_sample_is_measured_as_far_as_it_goes():
    found = alone(pile([("what is wax", "bees make it")]), towards([1, 0]))
    assert found["distinct_1"] == 1.0
    assert [found[key] for key in ("self_bleu", "spread", "to_seeds", "copy_rate")] == [None] * 4


def test_samples_without_a_word():
    found = measure(pile([("?", "!"), ("...", "")]), None, made_up(3), None)
    assert found["distinct_1"] is None
    assert found["self_bleu"] is None
    assert (found["answer_words"], found["copy_rate"]) == (0, 0)


def test_an_empty_round_leaves_the_seeds_measured():
    vectors = np.zeros((0, 2), dtype=np.float32)
    found = measure([], vectors, made_up(3), towards([1, 0], [0, 1], [1, 1]))
    assert found["spread"] is None
    assert found["seeds"]["spread"] > 0
    assert found["seeds"]["distinct_1"] is not None


@given(PAIRS, PAIRS, st.booleans())
@settings(max_examples=30)
def test_measures_can_be_written_as_json_and_do_not_change_from_call_to_call(pairs, seed_pairs, embedded):
    samples, seeds = pile(pairs), pile(seed_pairs)
    rng = np.random.default_rng(0)
    vectors = towards(*rng.normal(size=(len(samples), 4))) if embedded else None
    found = measure(samples, vectors, seeds, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert measure(samples, vectors, seeds, None) == found
    for key in ("distinct_1", "distinct_2", "self_bleu", "copy_rate"):
        assert found[key] is None or 0 <= found[key] <= 1 + 1e-12


def test_keys_are_those_of_the_run_directory():
    keys = ["distinct_1", "distinct_2", "distinct_3", "self_bleu", "spread", "to_seeds", "copy_rate"]
    keys += ["question_words", "answer_words"]
    found = measure(made_up(2), None, made_up(2), None)
    assert sorted(found["seeds"]) == sorted(keys)
    assert sorted(found) == sorted([*keys, "seeds"])


# -- warnings ----------------------------------------------------------------------------------------------------------

HEALTHY = {
    "distinct_1": 0.4,
    "distinct_2": 0.8,
    "distinct_3": 0.95,
    "self_bleu": 0.3,
    "spread": 0.6,
    "to_seeds": 0.4,
    "copy_rate": 0.02,
    "question_words": 10.0,
    "answer_words": 20.0,
}


def a_round(seeds=HEALTHY, **changes):
    return {**HEALTHY, **changes, "seeds": seeds}


def test_no_warning_while_nothing_moves():
    assert warnings([]) == []
    assert warnings([a_round(), a_round(distinct_2=0.7, self_bleu=0.4, spread=0.5, answer_words=15.0)]) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distinct_2": 0.41}, "Round 1 repeats itself: share of different word pairs 0.41, 0.80 in the seeds."),
        ({"self_bleu": 0.52}, "Round 1 has texts that are more alike: self-BLEU 0.52, 0.30 in the seeds."),
        ({"spread": 0.4}, "Round 1 asks about fewer things: mean distance between questions 0.40, 0.60 in the seeds."),
        (
            {"to_seeds": 0.1},
            "Round 1 stays close to the seeds: mean distance to the nearest one 0.10, 0.40 in the seeds.",
        ),
        ({"to_seeds": 0.7}, "Round 1 leaves the seeds: mean distance to the nearest one 0.70, 0.40 in the seeds."),
        (
            {"copy_rate": 0.3},
            "Round 1 copies seed answers: share of answers nearly the same as one 0.30, 0.02 in the seeds.",
        ),
        ({"question_words": 5.0}, "Round 1 asks shorter questions: mean words 5.00, 10.00 in the seeds."),
        ({"question_words": 18.0}, "Round 1 asks longer questions: mean words 18.00, 10.00 in the seeds."),
        ({"answer_words": 5.0}, "Round 1 gives shorter answers: mean words 5.00, 20.00 in the seeds."),
        ({"answer_words": 40.0}, "Round 1 gives longer answers: mean words 40.00, 20.00 in the seeds."),
    ],
)
def test_a_measure_that_moves_is_named_once(changes, sentence):
    assert warnings([a_round(**changes)]) == [sentence]


def test_a_fall_from_round_to_round_is_named_where_the_seeds_do_not_tell():
    rounds = [a_round(spread=0.75), a_round(spread=0.5)]
    assert warnings(rounds) == [
        "Round 2 asks about fewer things: mean distance between questions 0.50, 0.75 in round 1."
    ]
    assert warnings(rounds[::-1]) == []


def test_a_fall_below_the_seeds_and_the_round_before_is_named_once():
    assert warnings([a_round(), a_round(spread=0.3)]) == [
        "Round 2 asks about fewer things: mean distance between questions 0.30, 0.60 in the seeds."
    ]


def test_rounds_measured_on_different_amounts_of_text_are_not_compared():
    # A small round leaves fewer words to count, so more of them are different.
    small = a_round(seeds={**HEALTHY, "distinct_2": 0.95}, distinct_2=0.95)
    assert warnings([small, a_round(distinct_2=0.65)]) == []
    assert len(warnings([a_round(distinct_2=0.95), a_round(distinct_2=0.65)])) == 1


def test_what_was_not_measured_warns_of_nothing():
    nothing = dict.fromkeys(HEALTHY)
    assert warnings([{**nothing, "seeds": nothing}, a_round(), {**nothing, "seeds": HEALTHY}]) == []


def test_a_collapsed_round_is_caught():
    seeds = made_up(30)
    stuck = pile([("bee bee honey bee", "bee")] * 40)
    found = " ".join(warnings([measure(stuck, towards(*[[1.0, 0.1]] * 40), seeds, towards(*np.eye(30)[:, :2] + 0.1))]))
    assert "repeats itself" in found
    assert "more alike" in found
    assert "shorter answers" in found
