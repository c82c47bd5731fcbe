"""
The two engines on the real model: what they write greedily, and how likely they find given answers.

Agreement is measured token by token along what transformers writes: at each place, given everything before it, is its
token OpenVINO's first choice too? After a divergence the comparison starts again from transformers' text, so that one
close call does not count for all that follows it.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openvino")

from isara.backends.adapter import adapt, state_of, write_adapter  # noqa: E402
from isara.backends.checkpoints import embedded_gguf, locate  # noqa: E402
from isara.backends.decode import Lane, decode  # noqa: E402
from isara.backends.hf import TransformersModel, load_network  # noqa: E402
from isara.backends.openvino import OpenVinoModel, look_at  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from isara.heldout import bare_prompt  # noqa: E402
from isara.protocols import Chat, Sampling, Turn  # noqa: E402
from isara.readers import read_seeds  # noqa: E402

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

COUNT = 16
GREEDY = Sampling(32)


@pytest.fixture(scope="session")
def both(tmp_path_factory):
    try:
        embedded_gguf()
    except BackendError as error:
        pytest.skip(str(error))
    checkpoint = locate("smollm2-135m")
    # bfloat16 where the CPU multiplies it; where not, OpenVINO has none.
    return TransformersModel(checkpoint, dtype="auto"), OpenVinoModel(checkpoint, dtype="auto")


@pytest.fixture(scope="session")
def eight_bits(both):
    return OpenVinoModel(both[0].checkpoint, dtype="auto", int8=True)


@pytest.fixture(scope="session")
def prompts():
    seeds = read_seeds("misconceptions")
    shown = [turn for s in seeds[:2] for turn in (Turn("user", s.question), Turn("assistant", s.answer))]
    return [Chat((*shown, Turn("user", s.question))) for s in seeds[2 : 2 + COUNT]]


@pytest.fixture(scope="session")
def written(both, prompts):
    """What transformers writes: the ids of prompts and of greedy completions."""
    model = both[0]
    lanes = [Lane(model.encoder.prompt(prompt), 0) for prompt in prompts]
    with torch.inference_mode():
        decode(model.network, lanes, GREEDY, model.ends(), model.tokenizer.decode)
    return [(lane.prompt, lane.tokens) for lane in lanes]


def agreement(model, written):
    hits = []
    look_at(model.session(), written, lambda i, rows: hits.extend(rows.argmax(-1).eq(torch.tensor(written[i][1]))))
    return float(np.mean(hits))


def say(words):
    """The measured figures belong to the result, and `pytest -rP` shows them."""
    sys.stdout.write(words + "\n")


def test_at_least_95_percent_of_greedy_tokens_agree(both, written):
    share = agreement(both[1], written)
    say(f"{share:.1%} of {sum(len(tokens) for _, tokens in written)} greedy tokens agree in {both[0].dtype}")
    assert share >= 0.95


def pairs(count=COUNT):
    return [(bare_prompt(s.question, chat=True), s.answer) for s in read_seeds("supportdesk")[:count]]


def test_likelihoods_agree_within_what_is_rounded(both):
    theirs, ours = ([s.nll for s in model.score(pairs())] for model in both)
    say(
        f"NLL per token: largest difference {max(abs(np.subtract(theirs, ours))):.4f}, of the means "
        f"{np.mean(ours) - np.mean(theirs):+.4f} nats"
    )
    assert ours == pytest.approx(theirs, abs=0.05)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.01)


def test_eight_bits_lose_little_on_held_out_answers(both, eight_bits, written):
    full, small = ([s.nll for s in model.score(pairs(32))] for model in (both[1], eight_bits))
    loss = float(np.mean(small) - np.mean(full))
    kept = agreement(eight_bits, written)
    say(f"8-bit weights: {loss:+.4f} nats per token on held-out answers, {kept:.1%} of greedy tokens kept")
    assert abs(loss) < 0.05


def test_a_completion_is_the_same_alone_and_again(both, prompts):
    model, drawn, seeds = both[1], Sampling(24, temperature=0.8, top_p=0.95), list(range(8))
    together = model.complete(prompts[:8], drawn, seeds=seeds)
    assert model.complete(prompts[:8], drawn, seeds=seeds) == together
    assert model.complete(prompts[:8][::-1], drawn, seeds=seeds[::-1])[::-1] == together
    alone = [model.complete([prompts[i]], drawn, seeds=[i])[0] for i in (0, 5)]
    assert alone == [together[0], together[5]]


def test_an_adapter_changes_both_in_the_same_way(both, tmp_path):
    theirs, ours = both
    layers = adapt(load_network(theirs.checkpoint.folder, torch.device("cpu"), theirs.dtype), 16, 32.0, 1)
    with torch.no_grad():
        for layer in layers.values():
            layer.b.copy_(torch.randn(layer.b.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    write_adapter(tmp_path / "adapter", state_of(layers), base="smollm2-135m", rank=16, alpha=32.0)
    bare = np.mean([s.nll for s in ours.score(pairs(8))])
    worn = [[s.nll for s in model.with_adapter(tmp_path / "adapter").score(pairs(8))] for model in both]
    say(f"adapter: {np.mean(worn[0]):.4f} and {np.mean(worn[1]):.4f} nats per token, without it {bare:.4f}")
    assert abs(np.mean(worn[1]) - bare) > 0.1
    assert worn[1] == pytest.approx(worn[0], abs=0.05)
