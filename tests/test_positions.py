"""Texts longer than the positions that a model has learned: refused, with the number."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from isara.backends.hf import TransformersModel
from isara.backends.positions import positions_of
from isara.backends.training import TransformersTrainer
from isara.errors import BackendError
from isara.protocols import Example, Sampling
from isara.settings import TrainSettings
from tiny import PACKABLE, checkpoint, configuration, network

LEARNED = {"gpt2", "gpt_bigcode", "opt"}


@pytest.mark.parametrize("name", ["gpt2", "gpt_bigcode", "opt", "llama", "qwen2", "gpt_neox", "phi3"])
def test_only_learned_positions_have_an_end(name):
    kind, values, _ = PACKABLE[name]
    assert positions_of(network(configuration(kind, values))) == (256 if name in LEARNED else None)


@pytest.fixture(scope="module", params=["gpt2", "opt"])
def short_sighted(request, tmp_path_factory):
    kind, values, _ = PACKABLE[request.param]
    return checkpoint(tmp_path_factory.mktemp("model"), kind, values)


def test_a_prompt_beyond_the_last_position_is_refused(short_sighted):
    model = TransformersModel(short_sighted, device="cpu", dtype="float32")
    words = "a text of {} tokens, and this model has learned 256 positions. Show fewer demonstrations"
    short, long = "x" * 200, "x" * 300
    length = len(model.encoder.prompt(short))
    assert len(model.complete([short], Sampling(256 - length), seeds=[0])) == 1
    with pytest.raises(BackendError, match=words.format(257)):
        model.complete([short], Sampling(257 - length), seeds=[0])
    with pytest.raises(BackendError, match="has learned 256 positions"):
        model.score([(long, "y")])
    assert model.score([(short, "y")])[0].tokens >= 1
    with pytest.raises(BackendError, match="has learned 256 positions"):
        model.distributions([(long, "y")], 2)


def test_an_example_beyond_the_last_position_is_not_trained_on(short_sighted, tmp_path):
    trainer = TransformersTrainer(short_sighted, TrainSettings(batch=1, method="full"), device="cpu", dtype="float32")
    train = [Example("seed-1", "x" * 300, "y", 1.0)]
    with pytest.raises(BackendError, match=r"has learned 256 positions\. Lower train\.max_tokens to that"):
        trainer.train(train, [], steps=1, start=None, out=tmp_path / "a", seed=0, watch=lambda step: None)
