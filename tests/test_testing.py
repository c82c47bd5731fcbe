from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isara import rouge, scripted
from isara.errors import BackendError
from isara.protocols import Chat, Embedder, Example, Model, Sampling, Trainer, Turn
from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

ASKED = (
    ("How long should bread dough rest before baking?", "Let the dough rest until it has doubled in size."),
    ("Why does my sourdough starter smell like vinegar?", "A hungry starter turns sour, so feed it more often."),
    ("What flour gives pizza a crisp thin crust?", "Strong white flour stretches thin and bakes crisp."),
    ("Can butter be replaced with olive oil in cakes?", "Use three quarters as much oil as the recipe has butter."),
    ("Where do professional bakers keep fresh yeast overnight?", "In a cold room, wrapped so that it cannot dry out."),
    ("Which spices go well with roasted pumpkin soup?", "Nutmeg and a little smoked paprika suit pumpkin."),
)
LABELS = (("Question:", "Answer:"), ("Q:", "A:"), ("Ask:", "Reply:"), ("### Question\n", "### Answer\n"))


def question_prompt(labels=LABELS[0]):
    return "\n".join([*(f"{labels[0]} {question}" for question, _ in ASKED), labels[0].strip()])


def answer_prompt(question, labels=LABELS[0]):
    shown = "".join(f"{labels[0]} {asked}\n{labels[1]} {answer}\n\n" for asked, answer in ASKED)
    return f"{shown}{labels[0]} {question}\n{labels[1].strip()}"


def chat(*last):
    turns = [turn for asked, answer in ASKED for turn in (Turn("user", asked), Turn("assistant", answer))]
    return Chat((*turns, *(Turn("user", text) for text in last)), opens="assistant" if last else "user")


def ask(prompt, seeds, *, model=None, max_tokens=48, temperature=0.9, stop=("\n",)):
    sampling = Sampling(max_tokens, temperature, stop=stop)
    return (model or ScriptedModel()).complete([prompt] * len(seeds), sampling, seeds=seeds)


def nearest(text, others):
    return max(rouge.f1(text, other) for other in others)


QUESTIONS = [question for question, _ in ASKED]
ANSWERS = [answer for _, answer in ASKED]


def test_the_stand_ins_are_what_the_protocols_ask_for():
    model: Model = ScriptedModel()
    embedder: Embedder = HashEmbedder()
    trainer: Trainer = ScriptedTrainer()
    assert (model.name, model.chat, embedder.name) == ("scripted", True, "hash")
    assert trainer.lengths([]) == []


def test_a_function_of_your_own_answers_and_every_prompt_is_remembered():
    model = ScriptedModel(lambda prompt, sampling, seed: f"{prompt} {seed} then a stop | and more")
    done = model.complete(["a", "b"], Sampling(20, stop=("|", "then")), seeds=[3, 4])
    assert [each.text for each in done] == ["a 3 ", "b 4 "]
    assert model.prompts == ["a", "b"]
    assert all(each.finished for each in done)


@pytest.mark.parametrize(("most", "text", "finished"), [(3, "one, two", False), (4, "one, two three", True)])
def test_a_completion_is_cut_at_the_token_limit(most, text, finished):
    (done,) = ScriptedModel(lambda *_: "one, two three").complete(["?"], Sampling(most), seeds=[0])
    assert (done.text, done.tokens, done.finished) == (text, most, finished)


def test_tokens_are_words_and_punctuation():
    assert ScriptedModel().count(["Where, and why?", "", "  "]) == [5, 0, 0]


def test_a_model_without_chat_refuses_a_conversation():
    with pytest.raises(BackendError, match="no chat template"):
        ask(chat("Why?"), [1], model=ScriptedModel(chat=False))


@pytest.mark.parametrize("prompt", [question_prompt(), question_prompt(LABELS[1]), question_prompt(LABELS[3]), chat()])
def test_most_new_questions_are_new_and_the_others_go_wrong_in_every_usual_way(prompt):
    written = [each.text.strip() for each in ask(prompt, range(400))]
    likeness = [nearest(text, QUESTIONS) for text in written]
    readable = [any(map(str.isalpha, text)) for text in written]
    new = [text for text, alike, fine in zip(written, likeness, readable, strict=True) if fine and alike < 0.7]
    assert 0.7 < len(new) / 400 < 0.95
    assert len(set(new)) > 0.95 * len(new)
    assert sum(text.endswith("?") and 5 <= len(text.split()) <= 25 for text in new) > 0.85 * len(new)
    # copies, near-duplicates, nothing, nothing to read, too short, loops
    assert sum(alike == 1 for alike in likeness) >= 5
    assert sum(0.7 <= alike < 1 for alike in likeness) >= 5
    assert "" in written
    assert any(text and not fine for text, fine in zip(written, readable, strict=True))
    assert any(0 < len(text.split()) < 3 and fine for text, fine in zip(written, readable, strict=True))
    assert any(len(text.split()) > 30 for text in written)


def test_questions_turned_around_are_alike_in_meaning_and_not_in_order():
    written = [text for each in ask(question_prompt(), range(400)) if len((text := each.text).split()) > 2]
    embedder = HashEmbedder()
    likeness = (embedder.embed(written) @ embedder.embed(QUESTIONS).T).max(axis=1)
    pairs = zip(written, likeness, strict=True)
    assert any(cosine >= 0.95 and nearest(text, QUESTIONS) < 0.7 for text, cosine in pairs)


def test_a_model_that_remembers_held_out_questions_repeats_them_now_and_then():
    model = ScriptedModel(memory=["Does salt slow down yeast?"])
    written = [each.text.strip() for each in ask(question_prompt(), range(400), model=model)]
    assert 3 <= written.count("Does salt slow down yeast?") <= 40


@pytest.mark.parametrize("labels", [*LABELS, None])
def test_answers_are_those_of_the_nearest_demonstration_in_other_words(labels):
    about = "Which flour gives pizza the best crust?"
    prompt = answer_prompt(about, labels) if labels else chat(about)
    stop = (f"\n\n{labels[0].strip()}",) if labels else ()
    done = ask(prompt, range(400), max_tokens=96, stop=stop)
    written = [each.text.strip() for each in done]
    fair = [text for text in written if 0.3 < rouge.f1(text, ANSWERS[2]) <= 0.9 and nearest(text, [about]) <= 0.8]
    assert len(fair) > 0.75 * 400
    # copied, echoed, nothing at all, nothing to read, without end, repetitive
    assert sum(nearest(text, ANSWERS) > 0.9 for text in written) >= 3
    assert sum(rouge.f1(text, about) > 0.8 for text in written) >= 3
    assert "" in written
    assert any(text and not any(map(str.isalnum, text)) for text in written)
    assert sum(not each.finished and each.tokens == 96 for each in done) >= 5
    assert any(each.finished and len(set(each.text.split())) < len(each.text.split()) / 2 for each in done)


def test_plain_text_goes_on_with_the_next_question_unless_it_is_stopped():
    (done,) = ask(answer_prompt("Why?"), [1], stop=())
    assert "\n\nQuestion:" in done.text
    (done,) = ask(question_prompt(LABELS[1]), [1], stop=())
    assert "\nQ:" in done.text


@pytest.mark.parametrize("prompt", [question_prompt(), chat(), chat("Why is bread brown?")])
def test_the_same_prompt_and_seed_give_the_same_text_and_another_seed_another(prompt):
    assert ask(prompt, [1, 2, 3]) == ask(prompt, [1, 2, 3])
    assert len({each.text for each in ask(prompt, range(20))}) > 10


def test_without_temperature_the_seed_plays_no_part():
    assert len({each.text for each in ask(chat("Why is bread brown?"), range(20), temperature=0.0)}) == 1


anything = st.text(max_size=40)
conversations = st.builds(
    lambda texts, opens: Chat(
        tuple(Turn("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)), opens
    ),
    st.lists(anything, max_size=5),
    st.sampled_from(["user", "assistant"]),
)
few_shot = st.lists(st.tuples(st.sampled_from(["Question:", "A:", "\n", "Q:", "Reply:"]), anything), max_size=5).map(
    lambda parts: "\n".join(f"{label} {text}" for label, text in parts)
)


@given(st.one_of(anything, few_shot, conversations), anything, st.integers(0, 2**63 - 1))
@settings(max_examples=150, deadline=None)
def test_any_prompt_gets_a_completion_and_any_completion_a_likelihood(prompt, completion, seed):
    assume(not set(rouge.tokens(completion)) & set(scripted.BABBLE))
    model = ScriptedModel()
    (done,) = model.complete([prompt], Sampling(12, 0.9), seeds=[seed])
    assert done.tokens <= 12
    (likelihood,) = model.score([(prompt, completion)])
    assert 0.5 < likelihood.nll < 4 if likelihood.tokens else likelihood.total == 0


def mean_nll(model, prompts):
    pairs = list(zip(prompts, ANSWERS, strict=True))
    return float(np.mean([likelihood.nll for likelihood in model.score(pairs)]))


def test_demonstrations_in_the_words_of_the_answer_make_it_likelier():
    bare = [Chat((Turn("user", question),)) for question in QUESTIONS]
    alien = [
        Chat((Turn("user", "Xylophones?"), Turn("assistant", "Glockenspiels."), Turn("user", question)))
        for question in QUESTIONS
    ]
    alike = [chat(question) for question in QUESTIONS]
    model = ScriptedModel()
    assert mean_nll(model, alike) < mean_nll(model, alien) - 0.1 < mean_nll(model, bare) - 0.1


def test_babble_is_unlikely():
    texts = [each.text for each in ask(chat("Why is bread brown?"), range(400), max_tokens=96)]
    nlls = [each.nll for each in ScriptedModel().score([(chat("Why is bread brown?"), text) for text in texts])]
    assert 2 <= sum(nll > 4 for nll in nlls) <= 20


def example(at, question, answer):
    return Example(f"seed-{at}", Chat((Turn("user", question),)), answer)


EXAMPLES = [example(at, question, answer) for at, (question, answer) in enumerate(ASKED)]


def train(out, examples=EXAMPLES, heldout=EXAMPLES[:2], start=None, steps=12, **options):
    told = []
    trained = ScriptedTrainer(**options).train(
        examples, heldout, steps=steps, start=start, out=out, seed=1, watch=told.append
    )
    return trained, told


def strength(folder):
    return json.loads((folder / "scripted.json").read_text())["strength"]


def test_a_training_makes_answers_likelier_and_leaves_its_adapter(tmp_path):
    train(tmp_path / "new" / "adapter")
    assert [path.name for path in (tmp_path / "new" / "adapter").iterdir()] == ["scripted.json"]
    bare = ScriptedModel()
    tuned = bare.with_adapter(tmp_path / "new" / "adapter")
    prompts = [example.prompt for example in EXAMPLES]
    assert mean_nll(tuned, prompts) < mean_nll(bare, prompts)
    assert mean_nll(tuned.with_adapter(None), prompts) == mean_nll(bare, prompts)
    tuned.complete(["Q:"], Sampling(4), seeds=[1])
    assert bare.prompts == ["Q:"]


def test_each_step_is_told_with_a_falling_loss_and_heldout_scores_now_and_then(tmp_path):
    trained, steps = train(tmp_path, steps=12, checks=4)
    assert [step.number for step in steps] == list(range(1, 13))
    assert tuple(steps) == trained.curve
    assert steps[0].loss > steps[5].loss > steps[-1].loss
    scored = [step for step in steps if step.heldout is not None]
    assert [step.number for step in scored] == [3, 6, 9, 12]
    assert {len(step.heldout) for step in scored} == {2}
    assert trained.best_step == min(scored, key=lambda step: sum(step.heldout)).number
    prompts = [(example.prompt, example.completion) for example in EXAMPLES[:2]]
    kept = tuple(each.nll for each in ScriptedModel().with_adapter(tmp_path).score(prompts))
    assert kept == next(step.heldout for step in scored if step.number == trained.best_step)


def test_a_delay_is_slept_at_every_step_and_call(tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    train(tmp_path, steps=3, delay=0.5)
    assert slept == [0.5] * 3
    model = ScriptedModel(delay=0.25).with_adapter(tmp_path)
    model.complete(["Q:"], Sampling(4), seeds=[1])
    model.score([("Q:", "x")])
    assert slept[3:] == [0.25] * 2


def test_it_ends_where_its_checks_have_turned(tmp_path):
    whole, _ = train(tmp_path / "whole", steps=24, checks=24, patience=24)
    ended, steps = train(tmp_path / "ended", steps=24, checks=24, patience=2)
    assert ended.steps == len(steps) == ended.best_step + 2 < whole.steps == 24
    assert ended.curve == whole.curve[: ended.steps]
    kept = [(example.prompt, example.completion) for example in EXAMPLES[:2]]
    scores = tuple(each.nll for each in ScriptedModel().with_adapter(tmp_path / "ended").score(kept))
    assert scores == ended.curve[ended.best_step - 1].heldout


def test_without_held_out_samples_the_last_step_is_kept(tmp_path):
    trained, steps = train(tmp_path, heldout=[])
    assert trained.best_step == trained.steps == len(steps)
    assert all(step.heldout is None for step in steps)


def test_the_same_training_ends_with_the_same_weights_even_after_an_interruption(tmp_path):
    class KilledError(Exception):
        pass

    def kill(step):
        if step.number == 7:
            raise KilledError

    out = tmp_path / "interrupted"
    with pytest.raises(KilledError):
        ScriptedTrainer().train(EXAMPLES, EXAMPLES, steps=12, start=None, out=out, seed=1, watch=kill)
    assert not out.exists()
    first, _ = train(out)
    second, _ = train(tmp_path / "whole")
    assert first == second
    assert (out / "scripted.json").read_bytes() == (tmp_path / "whole" / "scripted.json").read_bytes()


def made(count, words, seed):
    """Return generated examples whose words are drawn from a vocabulary of that size."""
    rng = np.random.default_rng(seed)
    drawn = [[f"word{number}" for number in rng.integers(0, words, 24)] for _ in range(count)]
    return [
        Example(f"r1-{at}", Chat((Turn("user", " ".join(row[:12])),)), " ".join(row[12:]))
        for at, row in enumerate(drawn)
    ]


def test_more_examples_help_less_and_less_and_repetitive_ones_do_not(tmp_path):
    fresh = [made(count, 5000, 1) for count in (40, 170, 300)]
    reached = []
    for examples in fresh:
        train(tmp_path, examples=examples, heldout=[])
        reached.append(strength(tmp_path))
    assert reached[0] < reached[1] < reached[2]
    assert reached[2] - reached[1] < (reached[1] - reached[0]) / 2
    train(tmp_path, examples=fresh[1] + made(400, 12, 2), heldout=[])
    assert strength(tmp_path) < reached[1]


def test_a_training_goes_on_from_where_it_is_told_to_start(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b", start=tmp_path / "a")
    assert strength(tmp_path / "a") < strength(tmp_path / "b") <= 1


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"strength": "much"}', '{"strength": NaN}', '{"strength": 7}']
)
def test_a_missing_or_damaged_adapter_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "scripted.json").write_text(content)
    with pytest.raises(BackendError, match=r"scripted\.json: .* Train it again"):
        ScriptedModel().with_adapter(tmp_path)
    with pytest.raises(BackendError, match=r"scripted\.json"):
        train(tmp_path / "new", start=tmp_path)


def test_lengths_count_prompt_completion_and_end_of_turn():
    assert ScriptedTrainer().lengths([Example("seed-1", "Why not?", "Because."), Example("seed-2", "", "")]) == [6, 1]


def test_embeddings_have_length_one_and_follow_the_words():
    vectors = HashEmbedder(64).embed([*QUESTIONS, QUESTIONS[0].upper(), "", "?!", "ε γ", "酸面团"])
    assert vectors.shape == (11, 64)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(11), abs=1e-5)
    assert vectors[0] @ vectors[6] == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.5
    assert HashEmbedder().embed([]).shape == (0, 256)


STABLE = """
from pathlib import Path
from isara.protocols import Chat, Example, Sampling, Turn
from isara.testing import HashEmbedder, ScriptedModel
chat = Chat((Turn("user", "How long should dough rest?"), Turn("assistant", "Until it has doubled in size.")), "user")
model = ScriptedModel()
for done in model.complete([chat] * 40, Sampling(40, 0.9), seeds=range(40)):
    print(done.text, model.score([(chat, done.text)])[0].total)
print(HashEmbedder().embed(["How long should dough rest?"]).tobytes().hex())
"""


def test_another_process_gives_the_same():
    said = {
        subprocess.run(
            [sys.executable, "-c", STABLE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop()) > 2000


def test_importing_the_stand_ins_loads_no_torch():
    code = "import sys, isara.testing; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd()).returncode == 0
