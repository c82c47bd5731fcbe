import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from isara.rouge import Index, Nearest, f1, tokens

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
# Few words, so that texts share many, repeat some, and tie often.
WORDS = st.sampled_from(["the", "the", "a", "bee", "honey", "hive", "queen", "drone", "swarm"])
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)
PILES = st.lists(TEXTS, max_size=25)
SCORER = RougeScorer(["rougeL"])


def peer(a: str, b: str) -> float:
    return SCORER.score(a, b)["rougeL"].fmeasure


def index_of(pile: list[str]) -> Index:
    return Index((f"t{i}", text) for i, text in enumerate(pile))


@given(st.text(alphabet=st.characters(codec="ascii")) | st.text("aB9_ -²°…½€“\u0338"))
def test_tokens_are_those_of_rouge_score_where_letters_are_a_to_z(text):
    assert tokens(text) == tokenize(text, None)


@given(st.text())
def test_tokens_differ_from_rouge_score_only_for_other_letters(text):
    composed = unicodedata.normalize("NFC", text.lower())
    if tokens(text) != tokenize(text, None):
        assert any(not char.isascii() and (char.isalpha() or char.isdecimal()) for char in composed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Was kostet ein Bienenstöckchen?", ["was", "kostet", "ein", "bienenstöckchen"]),
        ("Cafe\u0301 au lait", ["café", "au", "lait"]),
        ("Πόσο κάνει;", ["πόσο", "κάνει"]),
        ("Сколько стоит улей_2?", ["сколько", "стоит", "улей", "2"]),
        ("蜂蜜はGPU2台で", ["蜂", "蜜", "は", "gpu2", "台", "で"]),
        ("꿀벌은 어디에", ["꿀벌은", "어디에"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ผึ้ง", ["ผึ้", "ง"]),
        ("می\u200cخواهم", ["می" + "خواهم"]),
        ("ＡＢＣ 蜂", ["abc", "蜂"]),
        ("٣ ٤", ["٣", "٤"]),
        ("\u0301 \u200d", []),
        ("", []),
    ],
)
def test_tokens_of_other_scripts(text, expected):
    assert tokens(text) == expected


def test_two_spellings_of_one_accent_are_one_word():
    assert f1("Où est la reine?", unicodedata.normalize("NFD", "où est la reine")) == 1.0


def test_texts_without_latin_letters_are_compared():
    assert peer("Где мёд?", "Где мёд?") == 0.0
    assert f1("Где мёд?", "Где мёд?") == 1.0
    assert f1("蜂蜜はどこですか", "蜂蜜はここですか") == pytest.approx(7 / 8)


@given(TEXTS, TEXTS)
@example("", "")
@example("the", "")
@example("...", "the")
def test_f1_is_that_of_rouge_score_and_symmetric(a, b):
    assert f1(a, b) == pytest.approx(peer(a, b), abs=1e-12)
    assert f1(a, b) == f1(b, a)


def test_f1_meets_a_threshold_exactly():
    assert f1("a b c d e f g h i j", "a b c d e f g x y z") == 0.7


@given(PILES, TEXTS, st.sampled_from(THRESHOLDS))
def test_nearest_is_what_scoring_every_pair_finds(pile, query, threshold):
    scores = [peer(query, text) for text in pile]
    best = max(scores, default=0.0)
    found = index_of(pile).nearest(query, threshold)
    # rouge_score divides three times, so its 0.7 may lie a rounding below the one that a threshold means.
    if best >= threshold - 1e-12:
        assert found.score == pytest.approx(best, abs=1e-12)
        first = next(i for i, score in enumerate(scores) if score >= best - 1e-12)
        assert found.id == f"t{first}"
    else:
        assert found == (None, 0.0)


@given(PILES, TEXTS)
def test_nearest_without_threshold_is_the_best_of_all(pile, query):
    scores = [f1(query, text) for text in pile]
    best = max(scores, default=0.0)
    expected = Nearest(f"t{scores.index(best)}", best) if best else Nearest(None, 0.0)
    assert index_of(pile).nearest(query) == expected


@given(PILES, TEXTS, st.randoms(use_true_random=False), st.sampled_from((0.0, *THRESHOLDS)))
def test_order_of_adding_does_not_change_the_score(pile, query, random, threshold):
    shuffled = random.sample(pile, len(pile))
    assert index_of(shuffled).nearest(query, threshold).score == index_of(pile).nearest(query, threshold).score


@given(PILES, TEXTS)
def test_an_index_can_grow_between_searches(pile, query):
    index, scores = Index(), []
    for number, text in enumerate(pile):
        index.add(f"t{number}", text)
        scores.append(f1(query, text))
        assert index.nearest(query, 0.7).score == (max(scores) if max(scores) >= 0.7 else 0.0)
    assert len(index) == len(pile)


def test_of_equals_the_first_added_is_named():
    index = Index([("far", "why do bees dance"), ("one", "how much honey"), ("two", "how much honey")])
    assert index.nearest("How much honey?", 0.7) == Nearest("one", 1.0)
    # The same score at two lengths: 2 * 2 / (2 + 6) and 2 * 1 / (2 + 2).
    index = Index([("long", "a b c d e f"), ("short", "a x")])
    assert index.nearest("a b") == Nearest("long", 0.5)
    index = Index([("short", "a x"), ("long", "a b c d e f")])
    assert index.nearest("a b") == Nearest("short", 0.5)


def test_words_that_no_text_has_match_nothing():
    index = Index([("one", "queen bee")])
    assert index.nearest("wasp hornet") == Nearest(None, 0.0)
    assert index.nearest("") == Nearest(None, 0.0)
    assert Index().nearest("queen bee", 0.7) == Nearest(None, 0.0)
    assert Index([("empty", "")]).nearest("") == Nearest(None, 0.0)


def test_word_order_counts():
    index = Index([("one", "the drone loves the queen")])
    assert index.nearest("the queen loves the drone").score == pytest.approx(3 / 5)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_that_rouge_cannot_reach_is_refused(threshold):
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        Index().nearest("bee", threshold)


@pytest.mark.parametrize("count", [255, 256, 10_000])
def test_a_text_of_more_tokens_than_a_byte_counts_is_compared(count):
    text = " ".join(f"w{n}" for n in range(count))
    assert index_of([text, "w0 w1 x"]).nearest(text) == Nearest("t0", 1.0)
