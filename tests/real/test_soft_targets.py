"""A comparison on the real model, as small as it can be: sampled answers against soft targets. About a minute."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from isara.backends.checkpoints import embedded_gguf, embedded_minilm
from isara.compare import compare
from isara.errors import BackendError
from isara.rundir import records_in
from isara.targetfiles import targets_in

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

STUDY = """
seeds = "misconceptions"
random_seeds = [1]
accepted = 4

[take]
seeds = 12
heldout = 3
test = 4

[settings]
rounds = 1
target = {batch = 8, budget = 12.0}
questions = {max_tokens = 24}
answers = {max_tokens = 48, demonstrations = 2}
train = {epochs = 2.0, batch = 6, checks = 1}

[arms]
seeds = {kind = "seeds"}
sampled = {kind = "one-shot", set = ["train.targets='sampled'"]}
soft = {kind = "one-shot", set = ["train.teacher='generator'"]}
mean = {kind = "one-shot", set = ["train.teacher='mean'"]}
"""


def test_soft_targets_are_the_generators_and_train(tmp_path):
    try:
        embedded_gguf(), embedded_minilm()
    except BackendError as error:
        pytest.skip(str(error))
    path = tmp_path / "study.toml"
    path.write_text(STUDY, encoding="utf-8")
    found = compare(path, tmp_path / "out")
    runs = {arm["arm"]: tmp_path / "out" / arm["runs"][0]["run"] for arm in found["arms"]}
    drafts = {(runs[arm] / "round-1" / "kept.jsonl").read_bytes() for arm in ("sampled", "soft", "mean")}
    assert len(drafts) == 1, "drafted once, trained on three times"
    kept = records_in(runs["soft"] / "round-1" / "kept.jsonl")
    targets, means = (targets_in(runs[arm] / "round-1" / "targets") for arm in ("soft", "mean"))
    for record in kept:
        one, mean = targets[record["id"]](), means[record["id"]]()
        shares = one.probabilities.astype(float)
        assert one.ids.shape == (len(one.tokens), 32)
        assert 0.05 < shares.sum(-1).min() <= shares.sum(-1).max() < 1.01
        assert (shares[:, :-1] >= shares[:, 1:]).all()
        # Answers are the likeliest tokens, so that most of them are the first of their place.
        assert (one.ids[:, 0] == one.tokens).mean() > 0.7
        assert mean.tokens == one.tokens
        assert (mean.probabilities[:, :-1] >= mean.probabilities[:, 1:]).all()
        # What one teacher in three is sure of has at least its third in the mean.
        sure = one.probabilities[:, 0] > 0.9
        still = ((mean.ids == one.ids[:, :1]) * mean.probabilities.astype(float)).sum(-1)
        assert (still[sure] > 0.29).all()
    adapters = [runs[arm] / "round-1" / "adapter" / "adapter_model.safetensors" for arm in runs if arm != "seeds"]
    assert len({path.read_bytes() for path in adapters}) == 3
    training = json.loads((runs["soft"] / "round-1" / "training.json").read_text(encoding="utf-8"))
    assert training["soft"] == training["generated"] == len(kept) > 0
    scores = {arm["arm"]: arm["mean"] for arm in found["arms"]}
    assert len({scores[arm] for arm in ("sampled", "soft", "mean")}) == 3
