from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.context import embedded
from isara.errors import BackendError, InputError
from isara.heldout import Judge, as_examples, bare_prompt, mean_nll, split, write_scores
from isara.protocols import Chat, Likelihood, Turn
from isara.readers import read_seeds
from isara.retrieve import Pool
from isara.rundir import write_jsonl
from isara.samples import Sample, read_jsonl
from isara.settings import AnswerSettings, SplitSettings
from isara.testing import HashEmbedder, ScriptedModel

# -- setting samples aside ---------------------------------------------------------------------------------------------


def numbered(count):
    return [Sample(f"seed-{i}", f"question {i}?", f"answer {i}") for i in range(1, count + 1)]


@given(st.integers(4, 150), st.floats(0.01, 0.5), st.integers(2, 12), st.integers(0, 2**31 - 1))
@settings(max_examples=80, deadline=None)
def test_a_split_is_disjoint_complete_and_in_order(count, share, least, seed):
    samples = numbered(count)
    wanted = SplitSettings(heldout=share, least=least)
    held = max(least, round(count * share))
    if count - held < 2:
        with pytest.raises(InputError):
            split(samples, wanted, seed)
        return
    seeds, heldout = split(samples, wanted, seed)
    assert len(heldout) == held
    assert sorted([*seeds, *heldout], key=samples.index) == samples
    assert seeds == [sample for sample in samples if sample in set(seeds)]
    assert heldout == [sample for sample in samples if sample in set(heldout)]
    assert not set(seeds) & set(heldout)
    assert split(samples, wanted, seed) == (seeds, heldout)


def test_which_samples_are_held_out_depends_on_the_seed_and_not_on_the_text():
    places = [int(sample.id[5:]) for sample in split(numbered(60), SplitSettings(), 17)[1]]
    others = [Sample(f"seed-{i}", "another", "text") for i in range(1, 61)]
    assert [int(sample.id[5:]) for sample in split(others, SplitSettings(), 17)[1]] == places
    assert [int(sample.id[5:]) for sample in split(numbered(60), SplitSettings(), 18)[1]] != places


def test_every_sample_is_held_out_by_some_seed():
    held = {sample.id for seed in range(60) for sample in split(numbered(40), SplitSettings(), seed)[1]}
    assert len(held) == 40


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (9, "9 samples are too few: 8 are to be held out, and 1 would be left to learn from."),
        (5, "5 samples are too few: 8 are to be held out, and 0 would be left to learn from."),
        (0, "0 samples are too few: 8 are to be held out, and 0 would be left to learn from."),
    ],
)
def test_too_few_samples_are_refused_with_what_to_do(count, words):
    with pytest.raises(InputError) as refused:
        split(numbered(count), SplitSettings(), 17)
    assert str(refused.value) == f"{words} Bring at least 30 samples, or give --heldout FILE."
    assert refused.value.exit_code == 2


def test_two_samples_to_learn_from_are_enough():
    seeds, heldout = split(numbered(10), SplitSettings(), 17)
    assert (len(seeds), len(heldout)) == (2, 8)


# -- judging -----------------------------------------------------------------------------------------------------------

SAMPLES = read_seeds("misconceptions")[:20]
SEEDS, HELDOUT = SAMPLES[:14], SAMPLES[14:]
VECTORS = embedded(HashEmbedder(), SAMPLES)
POOL, HELDOUT_VECTORS = Pool(SEEDS, VECTORS[:14]), VECTORS[14:]


class Noting(ScriptedModel):
    """A model that notes what it scores."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scored = []

    def score(self, pairs, *, top_tokens=0):
        self.scored.append(pairs)
        return super().score(pairs, top_tokens=top_tokens)


def judge(*, chat=True, **answers):
    return Judge(POOL, AnswerSettings(**answers), chat=chat)


def test_a_bare_prompt_is_the_question_in_the_models_own_form():
    assert bare_prompt("Why?", chat=True) == Chat((Turn("user", "Why?"),))
    assert bare_prompt("Why?", chat=False) == "Question: Why?\nAnswer:"
    (example,) = as_examples([Sample("s", "Why?", "So.")], chat=False, weight=0.5)
    assert (example.prompt, example.completion, example.weight) == ("Question: Why?\nAnswer:", "So.", 0.5)


def test_demonstrations_in_view_are_the_nearest_seeds_the_most_similar_last():
    prompt = judge(demonstrations=3).shown(HELDOUT[0].question, HELDOUT_VECTORS[0])
    near = [SEEDS[i] for i in reversed(POOL.nearest(HELDOUT_VECTORS[0], 3))]
    told = [text for sample in near for text in (sample.question, sample.answer)]
    assert [turn.text for turn in prompt.turns] == [*told, HELDOUT[0].question]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(("retrieved", "both", "calls"), [(False, True, 2), (False, False, 1), (True, True, 1)])
def test_every_arm_is_scored_on_the_reference_answers_in_the_same_order(chat, retrieved, both, calls):
    model, by = Noting(chat=chat), judge(chat=chat)
    records = by.score(model, HELDOUT, HELDOUT_VECTORS, retrieved=retrieved, both=both)
    assert len(model.scored) == calls
    bare = by.prompts(HELDOUT, HELDOUT_VECTORS, shown=False)
    shown = by.prompts(HELDOUT, HELDOUT_VECTORS, shown=True)
    assert bare == [bare_prompt(sample.question, chat=chat) for sample in HELDOUT]
    first = shown if retrieved else bare
    assert model.scored[0] == [(prompt, s.answer) for prompt, s in zip(first, HELDOUT, strict=True)]
    own = ScriptedModel(chat=chat).score(model.scored[0])
    assert [record["id"] for record in records] == [sample.id for sample in HELDOUT]
    assert [record["nll"] for record in records] == [round(each.nll, 6) for each in own]
    assert [record["tokens"] for record in records] == [each.tokens for each in own]
    if calls == 2:
        assert model.scored[1] == [(prompt, s.answer) for prompt, s in zip(shown, HELDOUT, strict=True)]
        assert all(record["shown_nll"] != record["nll"] for record in records)
    else:
        assert {record["shown_nll"] for record in records} == {None}


@pytest.mark.parametrize(("bad", "words"), [(math.nan, "nan"), (-math.inf, "inf")])
def test_a_likelihood_that_is_no_number_is_refused_by_name(bad, words):
    class Broken(ScriptedModel):
        def score(self, pairs):
            return [Likelihood(bad if i == 2 else -1.0, 3) for i in range(len(pairs))]

    with pytest.raises(BackendError, match=rf"the NLL of {HELDOUT[2].id} is {words}"):
        judge().score(Broken(), HELDOUT, HELDOUT_VECTORS, retrieved=False, both=True)


def test_answers_stand_beside_their_references_and_are_greedy():
    sent = []

    def respond(prompt, sampling, seed):
        sent.append((sampling.temperature, seed))
        return "Answer: Steam.\nQuestion: Why?"

    model = ScriptedModel(respond, chat=False)
    records = judge(chat=False, max_tokens=31).answer(model, HELDOUT, HELDOUT_VECTORS, retrieved=True)
    assert [(r["id"], r["question"], r["reference"]) for r in records] == [
        (s.id, s.question, s.answer) for s in HELDOUT
    ]
    assert {(record["answer"], record["finished"]) for record in records} == {("Steam.", True)}
    assert set(sent) == {(0.0, 0)}


def test_an_answer_that_cannot_be_read_is_shown_as_it_is():
    records = judge().answer(ScriptedModel(lambda *_: " ?! "), HELDOUT, HELDOUT_VECTORS, retrieved=False)
    assert {record["answer"] for record in records} == {"?!"}


def test_an_arms_folder_holds_its_scores_and_its_answers(tmp_path):
    write_scores(tmp_path, judge(), ScriptedModel(), (HELDOUT, HELDOUT_VECTORS), retrieved=False, tuned=True)
    scores = read_jsonl(tmp_path / "heldout.jsonl")
    assert [record["id"] for record in scores] == [s.id for s in HELDOUT]
    assert [record["id"] for record in read_jsonl(tmp_path / "answers.jsonl")] == [s.id for s in HELDOUT]
    assert mean_nll(tmp_path) == pytest.approx(np.mean([record["nll"] for record in scores]))
    assert mean_nll(tmp_path, "shown_nll") == pytest.approx(np.mean([record["shown_nll"] for record in scores]))


def test_each_sample_counts_once_in_a_mean_however_long_it_is(tmp_path):
    rows = [{"id": "a", "nll": 1.0, "tokens": 100}, {"id": "b", "nll": 3.0, "tokens": 1}]
    write_jsonl(tmp_path / "heldout.jsonl", rows)
    assert mean_nll(tmp_path) == 2.0
