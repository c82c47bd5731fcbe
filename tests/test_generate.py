from __future__ import annotations

import functools
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from isara.context import embedded
from isara.filter import FUNNEL, Neighbours, Sieve
from isara.generate import Draft
from isara.loop import funnel
from isara.protocols import Chat, Likelihood
from isara.readers import read_seeds
from isara.retrieve import Pool
from isara.rundir import Journal
from isara.samples import read_jsonl
from isara.scripted import dice
from isara.settings import Settings
from isara.testing import HashEmbedder, ScriptedModel

pytestmark = pytest.mark.usefixtures("unsynced")


@functools.cache
def world():
    """Seeds and held-out samples with their vectors."""
    samples = read_seeds("misconceptions")[:20]
    vectors = embedded(HashEmbedder(), samples)
    return samples[:14], vectors[:14], samples[14:], vectors[14:]


def wanted(**sections):
    return Settings.model_validate({"target": {"accepted": 8, "batch": 6}, "filter": {"topic": -1}, **sections})


def draft(folder, model, settings=None, *, chat=True, said=None, write=None):
    """Draft round 1 into a folder; `model` may be a function that raises, where none is to be needed."""
    seeds, vectors, heldout, heldout_vectors = world()
    settings = settings or wanted()
    return Draft(
        1,
        journal=Journal(folder),
        load=model if callable(model) else lambda: model,
        chat=chat,
        embedder=HashEmbedder(),
        pool=Pool(seeds, vectors),
        sieve=Sieve(
            settings.filter,
            Neighbours(seeds, vectors),
            Neighbours(heldout, heldout_vectors),
            [seed.answer for seed in seeds],
            settings.target.accepted,
        ),
        settings=settings,
        watch=lambda event: None if said is None else said.append(event),
        write=write,
    ).run()


def nobody():
    raise AssertionError("the model was asked for")


def records(folder, name):
    return read_jsonl(folder / f"{name}.jsonl")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WORDS = ("yeast", "rye", "oven", "flour", "water", "salt", "steam", "crust", "crumb", "dough", "loaf", "stone", "malt")
WORDS += ("basket", "blade", "bran", "oats", "seeds", "butter", "scale", "winter", "summer", "hand", "machine", "time")


def invent(seed):
    """Return six words in any order: a question unlike all others."""
    return " ".join(dice(seed).sample(WORDS, 6)) + "?"


def asks(prompt):
    """Whether a prompt is for a new question, and not for an answer."""
    return prompt.opens == "user" if isinstance(prompt, Chat) else prompt.endswith(("Question:", "Q:", "Ask:"))


OPEN = {"topic": -1, "confidence": 99, "gain": -99, "copied": 1, "common": 1}
"""Lets through whatever is neither a repeat nor broken."""


# -- how a round ends --------------------------------------------------------------------------------------------------


def junk(prompt, sampling, seed):
    return "... !"


def junk_answers(prompt, sampling, seed):
    return invent(seed) if asks(prompt) else "?!"


def mixed(prompt, sampling, seed):
    """Invent, with some of everything that is dropped for want of words, and some repeats."""
    made = [invent(seed), invent(seed), invent(seed % 5), "Why?", "--"] if asks(prompt) else ["Because.", "no " * 9, ""]
    return dice(seed, "kind").choice(made)


MODELS = {
    "recombining": ScriptedModel,
    "junk": lambda: ScriptedModel(junk),
    "junk answers": lambda: ScriptedModel(junk_answers),
    "mixed": lambda: ScriptedModel(mixed),
    "one question": lambda: ScriptedModel(lambda prompt, sampling, seed: "How do I feed a rye starter in winter?"),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    ("accepted", "batch", "budget"), [(8, 64, 2.0), (8, 6, 4.0), (7, 4, 1.5), (5, 1, 3.0), (1, 3, 1)]
)
def test_every_candidate_is_kept_or_dropped_once_and_the_funnel_adds_up(tmp_path, kind, accepted, batch, budget):
    settings = wanted(target={"accepted": accepted, "batch": batch, "budget": budget})
    drafted = draft(tmp_path, MODELS[kind](), settings)
    kept, dropped = records(tmp_path, "kept"), records(tmp_path, "dropped")
    every = [f"r1-{i:05d}" for i in range(1, drafted.drafted + 1)]
    assert sorted([record["id"] for record in (*kept, *dropped)]) == every
    assert drafted.drafted <= int(accepted * budget)
    assert [(s.id, s.question, s.answer) for s in drafted.kept] == [(r["id"], r["question"], r["answer"]) for r in kept]
    assert len(drafted.vectors) == len(kept)
    assert drafted.funnel == Counter(record["rule"] for record in dropped)
    assert sum(drafted.funnel.values()) + len(kept) == drafted.drafted
    rows = funnel(drafted)
    assert [row["rule"] for row in rows] == list(FUNNEL)
    assert rows[-1]["left"] == len(kept)
    assert all(row["left"] >= 0 for row in rows)
    if drafted.ended == "target":
        assert len(kept) == accepted
    else:
        assert drafted.ended == "budget"
        assert drafted.drafted == int(accepted * budget)
        assert len(kept) < accepted
    for record in dropped:
        assert record["reason"]
        assert (record["question"] is None) == (record["rule"] == "parse")
        if record["rule"] == "no_answer":
            assert record["question"]
            assert record["answer"] is None
    assert all(record["question"] and record["answer"] for record in kept)


def test_the_target_is_reached_exactly_and_what_passes_after_it_is_surplus(tmp_path):
    drafted = draft(tmp_path, ScriptedModel(), wanted(target={"accepted": 40, "batch": 32}))
    surplus = [record for record in records(tmp_path, "dropped") if record["rule"] == "surplus"]
    assert (drafted.ended, len(drafted.kept)) == ("target", 40)
    assert surplus
    assert {record["reason"] for record in surplus} == {"the round had its 40 samples already"}
    assert all(record["question"] and record["answer"] and "gain" in record["scores"] for record in surplus)
    # Those that came first are kept, in their order.
    assert max(s.id for s in drafted.kept) < min(record["id"] for record in surplus)
    assert sorted(drafted.kept, key=lambda s: s.id) == drafted.kept


def test_the_last_batch_is_cut_to_the_budget(tmp_path):
    drafted = draft(tmp_path, ScriptedModel(junk), wanted(target={"accepted": 7, "batch": 4, "budget": 1.5}))
    assert (drafted.ended, drafted.drafted, drafted.kept) == ("budget", 10, [])
    assert Counter(record["batch"] for record in records(tmp_path, "prompts")) == {0: 4, 1: 4, 2: 2}


def test_a_dropped_question_is_never_answered(tmp_path):
    model = ScriptedModel(mixed)
    draft(tmp_path, model)
    answered = {record["id"] for record in records(tmp_path, "completions") if record["stage"] == "answer"}
    before_answering = {"parse", "question_words", "topic", "heldout_rouge", "heldout_cosine", "rouge", "cosine"}
    stopped = {record["id"] for record in records(tmp_path, "dropped") if record["rule"] in before_answering}
    assert stopped
    assert not stopped & answered
    assert len(model.prompts) == len(records(tmp_path, "prompts"))


def test_a_model_that_knows_the_held_out_questions_cannot_bring_them_in(tmp_path):
    _, _, heldout, _ = world()
    questions = {sample.question for sample in heldout}

    def remembers(prompt, sampling, seed):
        if not asks(prompt):
            return f"That has to do with {invent(seed)}"
        return dice(seed).choice(sorted(questions)) if seed % 2 else invent(seed)

    drafted = draft(tmp_path, ScriptedModel(remembers), wanted(filter=OPEN))
    assert len(drafted.kept) == 8
    assert not questions & {sample.question for sample in drafted.kept}
    caught = [record for record in records(tmp_path, "dropped") if record["question"] in questions]
    assert caught
    names = {sample.question: sample.id for sample in heldout}
    for record in caught:
        assert (record["rule"], record["score"]) == ("heldout_rouge", 1.0)
        assert record["nearest"] == names[record["question"]]


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_demonstrations_on_record_are_those_in_the_prompt_and_the_parents_of_what_is_kept(tmp_path):
    seeds, vectors, _, _ = world()
    texts = {sample.id: sample for sample in seeds}
    settings = wanted(questions={"demonstrations": 3}, answers={"demonstrations": 4, "shared": 0})
    model = ScriptedModel()
    drafted = draft(tmp_path, model, settings)
    asked = {(record["id"], record["stage"]): record for record in records(tmp_path, "prompts")}
    for (_, stage), record in asked.items():
        shown = [texts[name] for name in record["demonstrations"]]
        assert len(shown) == {"question": 3, "answer": 4}[stage]
        if stage == "question":
            assert record["prompt"].split("\n")[:-1] == [f"Question: {sample.question}" for sample in shown]
        else:
            turns = [(turn["role"], turn["content"]) for turn in record["prompt"]]
            told = [(role, text) for s in shown for role, text in (("user", s.question), ("assistant", s.answer))]
            assert turns[:-1] == told
    pool = Pool(seeds, vectors)
    for sample, vector in zip(drafted.kept, drafted.vectors, strict=True):
        question, answer = asked[sample.id, "question"], asked[sample.id, "answer"]
        assert answer["prompt"][-1] == {"role": "user", "content": sample.question}
        assert answer["demonstrations"] == [seeds[i].id for i in reversed(pool.nearest(vector, 4))]
        assert sample.parents == tuple(dict.fromkeys([*question["demonstrations"], *answer["demonstrations"]]))


def test_each_stage_samples_as_its_settings_say_and_every_request_has_a_seed_of_its_own(tmp_path):
    settings = wanted(
        questions={"temperature": 1.3, "top_p": 0.5, "max_tokens": 33},
        answers={"temperature": 0.4, "top_p": 0.6, "max_tokens": 44, "style": "text"},
        target={"accepted": 8, "batch": 6, "parse_floor": 0},
    )
    sent = []

    def note(prompt, sampling, seed):
        sent.append((sampling, seed))
        return mixed(prompt, sampling, seed)

    draft(tmp_path, ScriptedModel(note), settings)
    samplings = {(each.max_tokens, each.temperature, each.top_p, each.stop) for each, _ in sent}
    assert samplings == {
        (33, 1.3, 0.5, ("\n",)),
        (44, 0.4, 0.6, ("\nQuestion:", "\n\nQuestion:", "\n\n")),
    }
    seeds = [seed for _, seed in sent]
    assert len(set(seeds)) == len(seeds)
    assert [record["seed"] for record in records(tmp_path, "prompts")] == seeds


def test_several_questions_can_be_drawn_after_the_same_demonstrations(tmp_path):
    settings = wanted(questions={"draws": 3}, answers={"demonstrations": 4, "shared": 3}, target={"batch": 8})
    draft(tmp_path, ScriptedModel(), settings)
    prompts = records(tmp_path, "prompts")
    asked = [record for record in prompts if record["stage"] == "question"]
    shown = [tuple(record["demonstrations"]) for record in asked]
    runs = [shown[i : i + 3] for i in range(0, len(shown), 3)]
    assert len(runs) > 2
    assert all(len(set(run)) == 1 for run in runs)
    assert len({run[0] for run in runs}) == len(runs)
    assert len({record["seed"] for record in asked}) == len(asked)
    seeds, vectors, *_ = world()
    pool = Pool(seeds, vectors)
    texts = {c["id"]: c["question"] for c in records(tmp_path, "kept") + records(tmp_path, "dropped")}
    answered = [record for record in prompts if record["stage"] == "answer"]
    for batch in {record["batch"] for record in answered}:
        together = [record for record in answered if record["batch"] == batch]
        vectors = HashEmbedder().embed([texts[record["id"]] for record in together]).astype("<f2").astype(np.float32)
        few = pool.for_answers(list(vectors), 4, 3)
        assert [record["demonstrations"] for record in together] == [[s.id for s in each] for each in few]


def test_a_model_without_a_chat_template_is_shown_plain_text_whatever_the_styles(tmp_path):
    model = ScriptedModel(chat=False)
    draft(tmp_path, model, wanted(questions={"style": "chat"}, answers={"style": "chat"}), chat=False)
    assert model.prompts
    assert all(isinstance(prompt, str) for prompt in model.prompts)
    assert {record["style"] for record in records(tmp_path, "prompts")} == {"text"}


def test_questions_can_be_written_by_another_model_than_answers(tmp_path):
    writer, answerer = ScriptedModel(), ScriptedModel()
    draft(tmp_path, answerer, write=lambda: writer)
    assert writer.prompts
    assert answerer.prompts
    assert all(map(asks, writer.prompts))
    assert not any(map(asks, answerer.prompts))


# -- prompts that change when too little can be read -------------------------------------------------------------------


def stubborn(prompt, sampling, seed):
    """Write junk after the first pair of labels."""
    if prompt.endswith(("Question:", "Answer:")):
        return "..."
    return invent(seed) if asks(prompt) else f"That has to do with {invent(seed)}"


STUBBORN = {"target": {"accepted": 6, "batch": 4}, "answers": {"style": "text"}, "filter": OPEN}


def test_prompts_change_when_too_little_can_be_read(tmp_path):
    said = []
    drafted = draft(tmp_path, ScriptedModel(stubborn), wanted(**STUBBORN), said=said)
    sentences = [
        "Only 0 of 4 questions could be read; from now on 4 demonstrations and 'Q:' labels.",
        "Only 0 of 4 answers could be read; from now on 3 demonstrations and 'Q:' labels.",
    ]
    assert drafted.adapted == sentences
    warned = [event.data for event in said if event.kind == "say"]
    assert warned == [{"text": sentence, "level": "warning"} for sentence in sentences]
    looks = {
        (record["batch"], record["stage"], record["prompt"].split()[-1], len(record["demonstrations"]))
        for record in records(tmp_path, "prompts")
    }
    assert {look for look in looks if look[0] < 3} == {
        (0, "question", "Question:", 6),
        (1, "question", "Q:", 4),
        (1, "answer", "Answer:", 5),
        (2, "question", "Q:", 4),
        (2, "answer", "A:", 3),
    }
    answered = [record for record in records(tmp_path, "prompts") if record["stage"] == "answer"]
    assert drafted.parse_rate["question"] == (drafted.drafted - 4) / drafted.drafted
    unread = sum(record["batch"] == 1 for record in answered)
    assert drafted.parse_rate["answer"] == (len(answered) - unread) / len(answered)
    assert (drafted.ended, len(drafted.kept)) == ("target", 6)


@pytest.mark.parametrize(("floor", "adapts"), [(0.0, False), (0.5, False), (0.51, True)])
def test_prompts_stay_as_they_are_while_enough_can_be_read(tmp_path, floor, adapts):
    turn = iter(range(999))

    def every_other(prompt, sampling, seed):
        return "..." if asks(prompt) and next(turn) % 2 else junk_answers(prompt, sampling, seed)

    settings = wanted(target={"accepted": 4, "batch": 4, "budget": 1, "parse_floor": floor})
    drafted = draft(tmp_path, ScriptedModel(every_other), settings)
    assert drafted.parse_rate["question"] == 0.5
    assert any("questions" in sentence for sentence in drafted.adapted) == adapts


@pytest.mark.parametrize(("style", "labels"), [("text", {"Question:", "Q:", "Ask:"}), ("chat", None)])
def test_prompts_become_as_simple_as_they_can_and_then_stay(tmp_path, style, labels):
    model = ScriptedModel(junk)
    settings = wanted(
        target={"accepted": 8, "batch": 4}, questions={"style": style, "demonstrations": 4}, answers={"style": style}
    )
    drafted = draft(tmp_path, model, settings)
    shown = {record["batch"]: len(record["demonstrations"]) for record in records(tmp_path, "prompts")}
    assert list(shown.values()) == [4, 2, 1, 1, 1, 1, 1, 1]
    assert len(drafted.adapted) == 2
    assert drafted.parse_rate == {"question": 0.0, "answer": None}
    if labels:
        assert {prompt.split()[-1] for prompt in model.prompts} == labels
        assert all("labels" in sentence for sentence in drafted.adapted)
    else:
        assert not any("labels" in sentence for sentence in drafted.adapted)


# -- likelihoods -------------------------------------------------------------------------------------------------------


class Likely:
    """Says with a completion how likely it was; some texts begin with a space, some go on after their answer."""

    name = "likely"
    chat = True

    def __init__(self):
        self.model = ScriptedModel()
        self.scored = []

    def complete(self, prompts, sampling, *, seeds):
        completions = self.model.complete(prompts, sampling, seeds=seeds)
        return [
            replace(
                done,
                text=" " * (seed % 3) + done.text + "\n\nQuestion: And then?" * (seed % 2),
                likelihood=Likelihood(-0.25 * (done.tokens + 1), done.tokens + 1),
            )
            for done, seed in zip(completions, seeds, strict=True)
        ]

    def score(self, pairs, *, top_tokens=0):
        self.scored += pairs
        return self.model.score(pairs, top_tokens=top_tokens)

    def count(self, texts):
        return self.model.count(texts)

    def with_adapter(self, adapter):
        return self


def test_a_likelihood_that_came_with_the_answer_is_used_and_not_asked_for_again(tmp_path):
    model = Likely()
    draft(tmp_path, model)
    read = {record["id"]: record["answer"] for name in ("kept", "dropped") for record in records(tmp_path, name)}
    written = {r["id"]: r["text"] for r in records(tmp_path, "completions") if r["stage"] == "answer"}
    scores = {record["id"]: record for record in records(tmp_path, "scores")}
    whole = {name for name in scores if read[name] == written[name].strip()}
    assert whole < set(scores)
    assert any(written[name].startswith(" ") for name in whole)
    for name, record in scores.items():
        assert (record["nll"] == 0.25) == (name in whole)
    bare = [(prompt, text) for prompt, text in model.scored if len(prompt.turns) == 1]
    shown = [(prompt, text) for prompt, text in model.scored if len(prompt.turns) > 1]
    # The text of the others is not what was likely: something was cut off from it.
    assert sorted(text for _, text in shown) == sorted(read[name] for name in set(scores) - whole)
    assert sorted(text for _, text in bare) == sorted(read[name] for name in scores)


def test_confidence_and_gain_are_the_likelihood_shown_and_how_much_more_that_is_than_bare(tmp_path):
    drafted = draft(tmp_path, ScriptedModel())
    scores = {record["id"]: record for record in records(tmp_path, "scores")}
    assert drafted.kept
    for record in records(tmp_path, "kept"):
        noted = scores[record["id"]]
        assert record["scores"]["confidence"] == noted["nll"]
        assert record["scores"]["gain"] == pytest.approx(noted["bare_nll"] - noted["nll"], abs=1e-6)


# -- going on after a kill ---------------------------------------------------------------------------------------------

ROUNDS = {
    "recombining": (ScriptedModel, wanted()),
    "text": (ScriptedModel, wanted(answers={"style": "text"}, target={"accepted": 7, "batch": 4, "parse_floor": 1.0})),
    "adapting": (lambda: ScriptedModel(stubborn), wanted(**STUBBORN)),
    "likely": (Likely, wanted()),
    "junk": (lambda: ScriptedModel(junk), wanted(target={"accepted": 4, "batch": 3})),
    "refusing": (
        lambda: ScriptedModel(refusing),
        wanted(target={"accepted": 10, "batch": 4}, filter=OPEN | {"common": 0.2}),
    ),
}


def refusing(prompt, sampling, seed):
    """Give the same answer to half of what is asked."""
    return invent(seed) if asks(prompt) or seed % 2 else "Sorry, I cannot help with that."


def test_of_one_answer_a_round_keeps_as_many_as_it_may(tmp_path):
    make, settings = ROUNDS["refusing"]
    drafted = draft(tmp_path, make(), settings)
    assert (len(drafted.kept), drafted.ended) == (10, "target")
    assert sum(sample.answer.startswith("Sorry") for sample in drafted.kept) == 2
    dropped = [record for record in records(tmp_path, "dropped") if record["rule"] == "common"]
    assert drafted.funnel["common"] == len(dropped) > 2
    assert {record["answer"] for record in dropped} == {"Sorry, I cannot help with that."}


@pytest.mark.parametrize("kind", ROUNDS)
def test_a_round_killed_after_any_step_ends_with_the_same_bytes(tmp_path, kind):
    make, settings = ROUNDS[kind]
    whole = tmp_path / "whole"
    first = draft(whole, make(), settings)
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) >= 10
    assert len(lines) % 5 == 0
    for steps in range(len(lines) + 1):
        part = tmp_path / f"after-{steps}"
        shutil.copytree(whole, part)
        # All of the later steps' records are there, and half of the next line, as if the disk had been ahead.
        torn = b"".join(lines[:steps]) + (lines[steps][:9] if steps < len(lines) else b"")
        (part / "journal.jsonl").write_bytes(torn)
        again = draft(part, nobody if steps == len(lines) else make(), settings)
        assert files(part) == files(whole)
        assert np.array_equal(again.vectors, first.vectors)
        assert replace(again, vectors=first.vectors) == first


def test_a_finished_step_is_not_asked_again(tmp_path):
    model = ScriptedModel()
    whole = tmp_path / "whole"
    draft(whole, model)
    lines = (whole / "journal.jsonl").read_bytes().splitlines(keepends=True)
    left = []
    for steps in range(len(lines) + 1):
        part = tmp_path / f"after-{steps}"
        shutil.copytree(whole, part)
        (part / "journal.jsonl").write_bytes(b"".join(lines[:steps]))
        again = ScriptedModel()
        draft(part, again)
        left.append(again.prompts)
    assert left[0] == model.prompts
    assert left[-1] == []
    for prompts in left:
        assert prompts == model.prompts[len(model.prompts) - len(prompts) :]
    assert [len(prompts) for prompts in left] == sorted((len(prompts) for prompts in left), reverse=True)


def test_another_seed_or_round_number_drafts_something_else(tmp_path):
    def questions(name, settings):
        return [sample.question for sample in draft(tmp_path / name, ScriptedModel(), settings).kept]

    same = questions("a", wanted())
    assert questions("b", wanted()) == same
    assert questions("c", wanted(seed=18)) != same
