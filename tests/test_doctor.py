import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from isara.doctor import examine
from isara.likeness import plain, repeats
from isara.samples import Sample
from isara.settings import FilterSettings, Settings
from isara.topics import silhouettes, spherical_k_means, topics

relaxed = hypothesis_settings(deadline=None, max_examples=60)
DEFAULTS = Settings()

# Unlike one another in every word that matters, so that a healthy set really is healthy.
SUBJECTS = (
    "amber", "basalt", "cedar", "delta", "ember", "falcon", "garnet", "harbour", "indigo", "juniper", "kestrel",
    "lantern", "marble", "nickel", "opal", "pewter", "quartz", "raven", "saffron", "tundra", "umber", "velvet",
    "walnut", "xenon", "yarrow", "zephyr", "acorn", "bramble", "cobalt", "drift", "elder", "fennel", "granite",
    "heron", "iris", "jasper",
)  # fmt: skip
OPENINGS = (
    "Where is {} {} found?",
    "Who sells {} {} today, please?",
    "Why do people want {} {}?",
    "How old may {} {} get?",
)
MEANINGS = {"return": 0, "bake": 1, "sail": 2}


class Embedder:
    """Questions that share a word of `MEANINGS` point the same way, all others each their own."""

    name = "stand-in"

    def embed(self, texts):
        vectors = np.zeros((len(texts), len(texts) + 3), dtype=np.float32)
        seen = {}
        for row, text in zip(vectors, texts, strict=True):
            words = plain(text).split()
            for word in words:
                if word in MEANINGS:
                    row[MEANINGS[word]] = 1.2
            row[3 + seen.setdefault(" ".join(words), len(seen))] = 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def count(texts):
    return [len(text.split()) for text in texts]


def healthy(n=36):
    return [
        Sample(
            f"seed-{i + 1}",
            OPENINGS[i % 4].format(SUBJECTS[i], SUBJECTS[35 - i]),
            f"People say that {SUBJECTS[i]} is near the river.",
        )
        for i in range(n)
    ]


def diagnosis(samples, **options):
    options = {"count": count, "embedder": Embedder(), "settings": DEFAULTS, **options}
    return examine(samples, **options)


def found(samples, what, **options):
    return [(f.level, f.where, f.words) for f in diagnosis(samples, **options).findings if f.what == what]


def with_answers(*answers, n=36):
    samples = healthy(n)
    return [Sample(s.id, s.question, a) for s, a in zip(samples, answers, strict=False)] + samples[len(answers) :]


def settings_with(**sections):
    return Settings.model_validate(sections)


def test_a_healthy_set_has_no_findings():
    result = diagnosis(healthy())
    assert result.findings == ()
    assert not result.spoiled
    assert {"spoiled", "findings", "clusters", "suggestions"} == set(json.loads(json.dumps(result.to_json())))


# Repeats


def test_exact_duplicates_are_those_that_differ_in_case_space_and_sentence_marks():
    samples = [
        *healthy(),
        Sample("twin", " where is  AMBER jasper found ", "People say that “amber” is near the river"),
    ]
    assert found(samples, "exact duplicate") == [
        (
            "warning",
            ("seed-1", "twin"),
            "seed-1, twin are the same sample: 'Where is amber jasper found?'. Keep one: the others add nothing, and a "
            "split may hold out one and train on another.",
        )
    ]
    assert not found(samples, "near duplicate")


def test_one_question_with_two_answers_spoils():
    samples = [*healthy(), Sample("twin", "Where is amber jasper found?", "Nobody knows that for sure.")]
    assert found(samples, "conflicting answers") == [
        (
            "spoils",
            ("seed-1", "twin"),
            "seed-1, twin ask the same and are answered differently: 'Where is amber jasper found?'. "
            "Keep the answer that is right.",
        )
    ]
    assert diagnosis(samples).spoiled


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is C++?", "What is C#?"), ("What is -5 squared?", "What is 5 squared?"), ("Is 3.5 odd?", "Is 35 odd?")],
)
def test_marks_that_carry_meaning_tell_questions_apart(one, other):
    samples = [*healthy(), Sample("a", one, "It is this one."), Sample("b", other, "It is that one.")]
    assert not found(samples, "conflicting answers")


def test_near_duplicates_by_words_and_by_meaning():
    by_words = [*healthy(), Sample("near", "Where exactly is amber jasper found?", "People say it is near the river.")]
    ((level, where, words),) = found(by_words, "near duplicate")
    assert (level, where) == ("warning", ("seed-1", "near"))
    assert words == (
        "seed-1 and near ask nearly the same (ROUGE-L 0.91, cosine 0.00): 'Where is amber jasper found?'. "
        "Keep one of them."
    )
    alike = [
        Sample("a", "May I return it?", "Yes, within a week."),
        Sample("b", "Do they accept a return?", "They do."),
    ]
    loose = settings_with(filter={"cosine": 0.55})
    assert not found([*healthy(), *alike], "near duplicate")
    assert [where for _, where, _ in found([*healthy(), *alike], "near duplicate", settings=loose)] == [("a", "b")]


def test_many_near_duplicates_are_one_finding():
    samples = [Sample(f"s{i}", f"What is the capital city of {subject}?", "It is this one.")
               for i, subject in enumerate(SUBJECTS)]  # fmt: skip
    ((_, where, words),) = found(samples, "near duplicate")
    assert where == tuple(sample.id for sample in samples)
    assert words.startswith("36 samples ask nearly the same (s0, s1, s2, s3 and 32 more; the closest are s0 and s1, ")


WORDS = st.lists(st.sampled_from(["who", "sees", "the", "red", "bee", "fly", "now"]), min_size=1, max_size=7)


@relaxed
@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=9, unique=True), st.sampled_from([0.5, 0.7, 0.9]))
def test_near_duplicate_groups_are_those_of_all_pairs(questions, threshold):
    samples = [Sample(f"s{i}", question, "x") for i, question in enumerate(questions)]
    vectors = np.eye(len(samples), dtype=np.float32)
    groups = repeats(samples, vectors, FilterSettings(rouge=threshold, cosine=1.0))
    together = {frozenset(finding.where) for finding in groups}
    scorer = RougeScorer(["rougeL"])
    expected = [{sample.id} for sample in samples]
    for a in samples:
        for b in samples:
            if scorer.score(a.question, b.question)["rougeL"].fmeasure >= threshold:
                joined = [group for group in expected if {a.id, b.id} & group]
                expected = [group for group in expected if group not in joined] + [set().union(*joined)]
    assert together == {frozenset(group) for group in expected if len(group) > 1}


def test_overlap_with_held_out_samples_spoils():
    heldout = [
        Sample("h-1", "where is Amber jasper found", "x"),
        Sample("h-2", "Who then sells basalt iris today, please?", "x"),
        Sample("h-3", "Something quite new?", "x"),
        *(Sample(f"h-{i}", f"Held out number {i}?", "x") for i in range(4, 10)),
    ]
    assert found(healthy(), "held-out overlap", heldout=heldout) == [
        (
            "spoils",
            ("seed-1", "h-1"),
            "The question of seed-1 is also that of the held-out h-1: 'Where is amber jasper found?'. "
            "What is held out must be new to the model: remove one of the two.",
        ),
        (
            "spoils",
            ("seed-2", "h-2"),
            "The question of seed-2 is nearly (ROUGE-L 0.92, cosine 0.00) that of the held-out h-2: "
            "'Who sells basalt iris today, please?'. What is held out must be new to the model: remove one of the two.",
        ),
    ]
    by_meaning = [*healthy(), Sample("a", "May I return it?", "Yes, within a week.")]
    meant = [Sample("h", "Do they accept a return?", "x"), *heldout[2:]]
    loose = settings_with(filter={"heldout_cosine": 0.55})
    assert not found(by_meaning, "held-out overlap", heldout=meant)
    assert [where for _, where, _ in found(by_meaning, "held-out overlap", heldout=meant, settings=loose)] == [
        ("a", "h")
    ]


# Single samples


@pytest.mark.parametrize(
    ("answer", "sign"),
    [
        ("First take the lid off,", "ends with a comma, a colon or a dash"),
        ("These are the steps:", "ends with a comma, a colon or a dash"),
        ("It is found in the hills and", "ends with a word that joins it to the next"),
        ("It is found in...", "ends with dots"),
        ("It is found in the…", "ends with dots"),
        ("It is called (", "ends with an open bracket or quote"),
        ("The stone (which is yellow", "has a bracket or quote that is never closed"),
        ("It is mostly found near the river", "ends without a full stop, where 35 of 36 have one"),
    ],
)
def test_answers_that_look_cut_off(answer, sign):
    assert found(with_answers(answer), "cut off") == [
        ("warning", ("seed-1",), f"The answer of seed-1 {sign}. Finish it, or remove the sample.")
    ]
    ((_, where, words),) = found(with_answers(answer, answer), "cut off")
    assert where == ("seed-1", "seed-2")
    each = sign.replace("35", "34")
    assert words == f"2 answers look cut off: each {each} (seed-1, seed-2). Finish them, or remove the samples."


@pytest.mark.parametrize(
    "answer",
    ["42", "Yes", "About 40 km", 'He said: "I know."', "It is so (or nearly so.)", "これは石です。", "Is it not? Yes!",
     "Use this: `print(1).`", "It is A.", "Not that I know of."],
)  # fmt: skip
def test_answers_that_are_finished(answer):
    assert not found(with_answers(answer), "cut off")


def test_full_stops_are_asked_for_only_where_most_answers_have_one():
    assert not found(with_answers(*["It is found near the river"] * 12), "cut off")


@pytest.mark.parametrize("answer", ["-", "...?", "N/A", "TODO", "(none)", "Where is amber jasper found"])
def test_answers_that_say_nothing(answer):
    ((level, where, words),) = found(with_answers(answer), "no answer")
    assert (level, where) == ("warning", ("seed-1",))
    assert words.endswith("Write the answer, or remove the sample.")


def test_an_empty_line_inside_an_answer_matters_in_plain_text():
    samples = with_answers("First this.\n \nThen that.", "First this.\nThen that.")
    levels = {
        style: [
            finding[:2] for finding in found(samples, "empty line", settings=settings_with(answers={"style": style}))
        ]
        for style in ("text", "auto", "chat")
    }
    assert levels == {"text": [("warning", ("seed-1",))], "auto": [("note", ("seed-1",))], "chat": []}


def test_lengths_far_from_the_usual_are_noted():
    samples = with_answers("Very " * 60 + "far.", "People say.", "Three is fine here.")
    assert found(samples, "long answer") == [
        ("note", ("seed-1",), "1 answer is far longer than most (seed-1): 61 tokens, where 8 are usual. "
                              "Check for text that does not belong there.")
    ]  # fmt: skip
    assert found(samples, "short answer") == [
        ("note", ("seed-2",), "1 answer is far shorter than most (seed-2): 2 tokens, where 8 are usual. "
                              "Check that nothing is missing.")
    ]  # fmt: skip
    assert not found(samples, "long question")
    assert not found(samples[:7], "long answer")


def test_samples_too_long_to_train_on():
    lengths = [20] * 35 + [600]
    ((level, where, words),) = found(healthy(), "too long", lengths=lengths)
    assert (level, where) == ("spoils", ("seed-36",))
    assert words == (
        "1 sample is longer than train.max_tokens=512 (seed-36; the longest has 600). Nothing will train like this: "
        "raise train.max_tokens, shorten them, or set train.overlong to drop."
    )
    dropping = settings_with(train={"overlong": "drop"})
    assert [level for level, _, _ in found(healthy(), "too long", lengths=lengths, settings=dropping)] == ["warning"]
    assert not found(healthy(), "too long", lengths=[512] * 36)
    assert found(with_answers("so " * 520 + "on."), "too long")[0][1] == ("seed-1",)
    with pytest.raises(ValueError, match="35 training lengths for 36 samples"):
        diagnosis(healthy(), lengths=[1] * 35)


# The set


@pytest.mark.parametrize(
    ("n", "held", "level"),
    [(0, 0, "spoils"), (15, 0, "spoils"), (16, 0, "warning"), (29, 0, "warning"), (30, 0, None), (7, 9, "spoils"),
     (8, 9, "warning")],
)  # fmt: skip
def test_too_few_samples(n, held, level):
    heldout = [Sample(f"h{i}", f"Held out {SUBJECTS[i]}?", "x") for i in range(held)]
    levels = [finding[0] for finding in found(healthy(n), "too few", heldout=heldout)]
    assert levels == ([level] if level else [])


def test_too_few_names_what_is_left():
    assert found(healthy(12), "too few")[0][2] == (
        "There are 12 samples, and 4 after 8 are held out: too few to learn a domain from. "
        "Bring at least 30, or held-out samples of their own."
    )
    few = [Sample("h", "Held out?", "x")]
    assert [finding[0] for finding in found(healthy(), "few held out", heldout=few)] == ["warning"]


def about(word, n, start=0):
    return [Sample(f"{word}-{i}", f"{SUBJECTS[i]} {word} {SUBJECTS[-i]}?", f"Yes, {SUBJECTS[i]}.")
            for i in range(start, start + n)]  # fmt: skip


def test_topics_are_named_by_their_most_central_question():
    result = diagnosis([*about("return", 14), *about("bake", 12), *about("sail", 10)])
    assert [topic.size for topic in result.clusters] == [14, 12, 10]
    for topic, word in zip(result.clusters, MEANINGS, strict=True):
        assert all(name.startswith(word) for name in topic.ids)
        assert f" {word} " in topic.name
    assert not [finding for finding in result.findings if finding.what == "imbalance"]


def test_a_set_that_is_mostly_about_one_thing_is_lopsided():
    samples = [*about("return", 30), *about("bake", 10)]
    ((level, where, words),) = found(samples, "imbalance")
    assert level == "warning"
    assert set(where) == {f"return-{i}" for i in range(30)}
    assert words.startswith("30 of 40 are about the same thing, such as '")


def test_unrelated_questions_are_one_topic():
    (topic,) = diagnosis(healthy()).clusters
    assert (topic.size, topic.silhouette) == (36, 0)


def unit(rows):
    data = np.array(rows, dtype=np.float64)
    return data / np.linalg.norm(data, axis=1, keepdims=True)


VECTORS = st.integers(4, 14).flatmap(
    lambda n: st.lists(
        st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda row: np.linalg.norm(row) > 0.1),
        min_size=n,
        max_size=n,
    )
).map(unit)  # fmt: skip


@relaxed
@given(VECTORS, st.integers(1, 4))
def test_clustering_labels_every_vector_and_repeats_itself(vectors, k):
    labels = spherical_k_means(vectors, k)
    assert labels.shape == (len(vectors),)
    assert set(labels.tolist()) <= set(range(k))
    assert np.array_equal(labels, spherical_k_means(vectors, k))
    samples = [Sample(f"s{i}", f"q{i}", "a") for i in range(len(vectors))]
    groups = topics(samples, vectors.astype(np.float32))
    assert sorted(name for group in groups for name in group.ids) == sorted(sample.id for sample in samples)


@relaxed
@given(VECTORS, st.data())
def test_silhouettes_are_those_of_all_pairs(vectors, data):
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(vectors), max_size=len(vectors))))
    distances = 1 - vectors @ vectors.T
    np.fill_diagonal(distances, 0)
    expected = []
    for i, label in enumerate(labels):
        own = (labels == label) & (np.arange(len(labels)) != i)
        others = [distances[i, labels == other].mean() for other in set(labels.tolist()) - {label}]
        if not own.any() or not others:
            expected.append(0.0)
            continue
        a, b = distances[i, own].mean(), min(others)
        expected.append((b - a) / max(a, b) if max(a, b) > 1e-6 else 0.0)
    assert silhouettes(vectors, labels) == pytest.approx(expected, abs=1e-5)


# Suggestions


def suggestions(samples, **options):
    return {s.setting: (s.value, s.reason) for s in diagnosis(samples, **options).suggestions}


def test_suggestions_follow_from_the_samples():
    samples = with_answers(" ".join(["word"] * 150) + ".")
    found = suggestions(samples, lengths=[30] * 36)
    assert found["answers.max_tokens"] == (
        192, "The longest answer has 150 tokens; a generated one must not be cut short of that."
    )  # fmt: skip
    assert found["filter.question_words_max"] == (
        12, "The longest seed question has 6 words; one of more than twice that is unlike them."
    )  # fmt: skip
    assert "train.max_tokens" not in found
    assert suggestions(samples, settings=settings_with(train={"max_tokens": 128}))["train.max_tokens"][0] >= 192
    tight = settings_with(filter={"answer_words_max": 5, "answer_words_min": 9})
    assert suggestions(healthy(), settings=tight)["filter.answer_words_max"] == (
        10, "The longest seed answer has 8 words; the filter would drop one like it."
    )  # fmt: skip
    assert suggestions(healthy(), settings=tight)["filter.answer_words_min"] == (
        8, "The shortest seed answer has 8 words; the filter would drop it."
    )  # fmt: skip


def test_suggestions_follow_from_the_number_of_samples():
    present = {
        "target": {"accepted": 128},
        "questions": {"demonstrations": 6, "neighbourhood": 16},
        "train": {"epochs": 6, "batch": 16},
    }
    few = suggestions(healthy(20), settings=settings_with(**present))
    assert few["questions.demonstrations"] == (
        3, "With 12 seeds to choose from, 6 at a time make most prompts alike."
    )  # fmt: skip
    assert few["questions.neighbourhood"][0] == 6
    assert few["target.accepted"] == (
        32, "2 rounds of 128 make 21.3 samples for each of 12 seeds; 4 to 11 is the range reported for ISARA."
    )  # fmt: skip
    assert few["train.epochs"] == (10, "12 seeds in batches of 16 make 5 steps, too few to learn from.")
    many = [Sample(f"s{i}", f"q{i} {SUBJECTS[i % 36]}", f"The answer is {i}.") for i in range(700)]
    found = suggestions(many, settings=settings_with(**present))
    assert found["split.heldout"][0] == 0.14
    assert found["train.epochs"][0] == 3
    assert "target.accepted" not in found


def test_the_share_held_out_is_left_alone_when_others_are_held_out():
    small = settings_with(split={"heldout": 0.1})
    heldout = [Sample(f"h{i}", f"Held out {SUBJECTS[i]}?", "x") for i in range(9)]
    assert suggestions(healthy(), settings=small)["split.heldout"] == (
        0.34, "8 held-out samples show only large differences; 12 show more, and 24 stay."
    )  # fmt: skip
    assert "split.heldout" not in suggestions(healthy(), settings=small, heldout=heldout)


RANDOM_SETTINGS = st.fixed_dictionaries(
    {
        "rounds": st.integers(1, 5),
        "split": st.fixed_dictionaries({"heldout": st.floats(0.05, 0.6)}),
        "questions": st.fixed_dictionaries(
            {
                "max_tokens": st.integers(4, 200),
                "demonstrations": st.integers(1, 12),
                "neighbourhood": st.integers(1, 40),
            }
        ),
        "answers": st.fixed_dictionaries({"max_tokens": st.integers(4, 900)}),
        "target": st.fixed_dictionaries({"accepted": st.integers(1, 900)}),
        "filter": st.fixed_dictionaries(
            {"answer_words_min": st.integers(1, 30), "answer_words_max": st.integers(30, 300)}
        ),
        "train": st.fixed_dictionaries(
            {"epochs": st.integers(1, 20), "batch": st.integers(1, 64), "max_tokens": st.integers(16, 900)}
        ),
    }
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(RANDOM_SETTINGS, st.integers(1, 36), st.lists(st.integers(1, 120), max_size=36), st.booleans())
def test_a_suggestion_that_is_followed_is_valid_and_not_made_again(asked, n, words, others):
    samples = with_answers(*(" ".join(["word"] * number) + "." for number in words[:n]), n=n)
    options = {"heldout": [Sample("h", "Held out?", "x")] if others else [], "lengths": [40] * n}
    for suggestion in diagnosis(samples, settings=settings_with(**asked), **options).suggestions:
        section, name = suggestion.setting.split(".")
        assert suggestion.value != suggestion.current
        followed = settings_with(**{**asked, section: {**asked.get(section, {}), name: suggestion.value}})
        assert suggestion.setting not in suggestions(samples, settings=followed, **options)


@hypothesis_settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=14), st.integers(0, 6))
def test_any_samples_are_examined_in_the_same_way_twice(pairs, held):
    samples = [Sample(f"s{i}", q, a) for i, (q, a) in enumerate(pairs)]
    first, second = (diagnosis(samples[held:], heldout=samples[:held]) for _ in range(2))
    assert first == second
    levels = [("spoils", "warning", "note").index(finding.level) for finding in first.findings]
    assert levels == sorted(levels)
    assert {name for finding in first.findings for name in finding.where} <= {sample.id for sample in samples}
    json.dumps(first.to_json())
