"""Soft targets on torch: the loss and its gradient, what is recorded, and what training on them teaches."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from isara.backends.hf import TransformersModel  # noqa: E402
from isara.backends.targets import aligned, likeliest, recorded, soft_loss  # noqa: E402
from isara.backends.training import TransformersTrainer, taught  # noqa: E402
from isara.protocols import Chat, Example, Targets, Turn  # noqa: E402
from isara.settings import TrainSettings  # noqa: E402
from tiny import checkpoint  # noqa: E402

SHOWN = Chat((Turn("user", "Does the moon grow?"), Turn("assistant", "It does not."), Turn("user", "Does it forget?")))
BARE = Chat((Turn("user", "Does it forget?"),))
ANSWER = "No, for months."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(base):
    return TransformersModel(base, device="cpu", dtype="float32")


def drawn(places, k, *, seed=0, vocabulary=50):
    """Ids that differ within a place, and probabilities that add up to 1."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:k] for _ in range(places)])
    return ids, torch.rand(places, k, generator=generator).softmax(-1)


def test_loss_and_gradient_are_those_of_a_plain_implementation():
    """Against torch's own cross-entropy over the whole vocabulary, hard and soft completions in one batch."""
    tokens = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    counts, soft = [3, 2, 2], [None, drawn(2, 4), drawn(2, 7, seed=1)]
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(2)).requires_grad_()
    wanted = torch.nn.functional.one_hot(tokens, 50).float()
    for start, (ids, probabilities) in ((3, soft[1]), (5, soft[2])):
        wanted[start : start + 2] = torch.zeros(2, 50).scatter(1, ids, probabilities)
    plain = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / 11
    (expected,) = torch.autograd.grad(plain, logits)
    loss = soft_loss(logits, tokens, 11, counts, soft)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, expected)


def test_without_soft_targets_it_is_the_ordinary_cross_entropy():
    tokens, logits = torch.tensor([7, 0, 7]), torch.randn(3, 50, generator=torch.Generator().manual_seed(3))
    plain = torch.nn.functional.cross_entropy(logits, tokens)
    # The logits are used up: what is large is not copied.
    torch.testing.assert_close(soft_loss(logits, tokens, 3, [1, 2], [None, None]), plain)


def test_the_likeliest_tokens_are_the_models_own(model):
    (targets,) = model.distributions([(SHOWN, ANSWER)], 5)
    prompt, completion = model.encoder.prompt(SHOWN), model.encoder.completion(SHOWN, ANSWER)
    assert targets.tokens == (*completion, model.encoder.end)
    assert targets.ids.shape == targets.probabilities.shape == (len(completion) + 1, 5)
    (likelihood,) = model.score([(SHOWN, ANSWER)])
    wide = model.distributions([(SHOWN, ANSWER)], 10_000)[0]
    at = [dict(zip(ids, p, strict=True)) for ids, p in zip(wide.ids.tolist(), wide.probabilities, strict=True)]
    total = sum(np.log(float(place[token])) for place, token in zip(at, completion, strict=False))
    assert total == pytest.approx(likelihood.total, abs=0.05)
    for place, ids in zip(at, targets.ids.tolist(), strict=True):
        assert ids == sorted(place, key=lambda token: -place[token])[:5]
    assert len(prompt) > 10


def test_targets_do_not_depend_on_the_batch(model):
    pairs = [(SHOWN, ANSWER), (BARE, "Because."), ("Question: Why?\nAnswer:", "Because.")]
    together = model.distributions(pairs, 4)
    for pair, one in zip(pairs, together, strict=True):
        (alone,) = model.distributions([pair], 4)
        assert alone.tokens == one.tokens
        np.testing.assert_array_equal(alone.ids, one.ids)
        np.testing.assert_allclose(alone.probabilities, one.probabilities, atol=1e-3)
    assert model.distributions([], 4) == []


def test_what_is_noted_of_a_text_needs_every_place_and_leaves_out_what_came_after():
    rows = [(np.array([place, 9], np.int32), np.array([0.5, 0.25], np.float16)) for place in range(3)]
    whole = recorded([7, 8, 2], rows)
    assert (whole.tokens, whole.ids.tolist()) == ((7, 8, 2), [[0, 9], [1, 9], [2, 9]])
    assert recorded([7, 8], rows).ids.tolist() == [[0, 9], [1, 9]]
    assert recorded([7, 8, 6, 2], rows) is None
    assert recorded([], rows) is None


def made(tokens, k=2):
    rows = torch.randn(len(tokens), 20, generator=torch.Generator().manual_seed(len(tokens)))
    return likeliest(tokens, rows, k)


def test_targets_of_the_same_tokens_are_taken_as_they_are():
    targets = made([5, 6, 7])
    ids, probabilities = aligned([5, 6, 7], targets)
    assert ids.tolist() == targets.ids.tolist()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3))
    raw = torch.from_numpy(targets.probabilities.astype(np.float32))
    torch.testing.assert_close(probabilities, raw / raw.sum(-1, keepdim=True))


def test_where_the_tokens_differ_the_answers_own_are_certain():
    """As after plain text: the first word begins with a space, and no end of the turn follows."""
    targets = made([15, 6, 7])
    ids, probabilities = aligned([5, 6, 7, 2], targets)
    assert ids[:, 0].tolist() == [5, *targets.ids[1:, 0].tolist(), 2]
    assert probabilities[[0, 3]].tolist() == [[1.0, 0.0]] * 2
    assert ids[1:3].tolist() == targets.ids[1:].tolist()
    assert aligned([5, 6], None) is None
    ids, probabilities = aligned([8, 9], targets)
    assert (ids[:, 0].tolist(), probabilities[:, 0].tolist()) == ([8, 9], [1.0, 1.0])


def test_what_a_teacher_gave_to_a_word_after_a_space_is_given_to_the_word(base):
    trainer = TransformersTrainer(base, TrainSettings(), device="cpu", dtype="float32")
    encoder, vocabulary = trainer.encoder, trainer.encoder.tokenizer.get_vocab()
    spaced, bare = next(
        (vocabulary[t], vocabulary[t[1:]]) for t in vocabulary if t[0] == "\u0120" and t[1:] in vocabulary
    )
    assert encoder.unspaced[spaced] == bare
    assert bare not in encoder.unspaced
    tokens = [*encoder.completion(BARE, ANSWER), encoder.end]
    places = np.full((len(tokens), 3), [spaced, bare, tokens[0]], np.int32)
    targets = Targets(tuple(tokens), places, np.full(places.shape, 0.25, np.float16))
    example = Example("r1-1", BARE, ANSWER, targets=lambda: targets)
    ids, probabilities = taught(example, trainer.encode(example), encoder)
    assert ids.tolist() == [[bare, bare, tokens[0]], *places.tolist()[1:]]
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(len(tokens)))
    text = replace(example, prompt="Question: Why?\nAnswer:")
    pair = ([1], tokens)
    assert taught(text, pair, encoder)[0].tolist() == places.tolist(), "after plain text a word has its space"
    assert taught(replace(example, targets=None), pair, encoder) is None


def test_training_on_them_brings_the_bare_model_to_what_the_shown_one_said(base, model, tmp_path):
    """Distilled: without demonstrations the tuned model spreads its probability as with them, which one string cannot.

    The distance is the cross-entropy to the shown model's probabilities, over all tokens of the answer.
    """
    (targets,) = model.distributions([(SHOWN, ANSWER)], 64)
    hard = Example("r1-1", BARE, ANSWER)
    distances = {}
    for name, example in (("sampled", hard), ("soft", replace(hard, targets=lambda: targets))):
        settings = TrainSettings(rank=8, alpha=16.0, learning_rate=0.02, batch=1)
        trainer = TransformersTrainer(base, settings, device="cpu", dtype="float32")
        trainer.train([example], [], steps=30, start=None, out=tmp_path / name, seed=1, watch=lambda step: None)
        tuned = model.with_adapter(tmp_path / name)
        distances[name] = distance(targets, tuned.distributions([(BARE, ANSWER)], 320)[0])
    distances["untouched"] = distance(targets, model.distributions([(BARE, ANSWER)], 320)[0])
    assert distances["soft"] < distances["untouched"]
    assert distances["soft"] < distances["sampled"]


def distance(targets: Targets, found: Targets) -> float:
    total = 0.0
    for wanted, p, ids, q in zip(targets.ids, targets.probabilities, found.ids, found.probabilities, strict=True):
        said = dict(zip(ids.tolist(), np.maximum(q.astype(float), 1e-7), strict=True))
        share = p.astype(float) / p.astype(float).sum()
        total -= sum(weight * np.log(said[token]) for token, weight in zip(wanted.tolist(), share, strict=True))
    return total / len(targets.tokens)
