import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.nn.functional as F  # noqa: E402, N812

from isara.backends import attention, packing, selfcheck  # noqa: E402
from isara.backends.decode import Lane, decode  # noqa: E402
from isara.backends.forest import Forest  # noqa: E402
from isara.backends.hf import load_network  # noqa: E402
from isara.backends.loss import answer_loss, log_probabilities  # noqa: E402
from isara.backends.memory import Budget  # noqa: E402
from isara.backends.packing import IMPLEMENTATION, Layout  # noqa: E402
from isara.backends.scoring import completion_logs, score_encoded  # noqa: E402
from isara.backends.training import packed_loss  # noqa: E402
from isara.errors import BackendError  # noqa: E402
from isara.protocols import Sampling  # noqa: E402
from tiny import MIXED, PACKABLE, REFUSED, VOCABULARY, configuration, network, pair, sequence, tokenizer  # noqa: E402

CPU = torch.device("cpu")
ALIKE = [(sequence(9, 60) + sequence(end, 70 + end), sequence(5, 80)) for end in (2, 1, 2)]
"""Two samples that are equal, and one that begins as they do."""
each_architecture = pytest.mark.parametrize("name", PACKABLE)


def logs_alone(ordinary, prompt, completion):
    logits = ordinary(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(completion)[:, None])[:, 0]


@each_architecture
def test_packed_scores_are_those_of_each_sequence_alone(name):
    ordinary, packed = pair(name)
    with torch.inference_mode():
        wanted = torch.cat([logs_alone(ordinary, *pair) for pair in MIXED])
        found = completion_logs(packed, MIXED)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@each_architecture
def test_greedy_decoding_is_that_of_transformers(name):
    ordinary, packed = pair(name)
    lanes = [Lane(list(prompt), 0) for prompt, _ in MIXED]
    ends = frozenset(sequence(40, 99))
    with torch.inference_mode():
        decode(packed, lanes, Sampling(24), ends, lambda tokens, **_: "")
        for lane in lanes:
            row = ordinary.generate(
                torch.tensor([lane.prompt]),
                attention_mask=torch.ones(1, len(lane.prompt), dtype=torch.long),
                max_new_tokens=24,
                do_sample=False,
                eos_token_id=sorted(ends),
                pad_token_id=0,
            )[0].tolist()
            wanted = [token for token in row[len(lane.prompt) :] if token not in ends]
            assert lane.tokens == wanted


@pytest.mark.parametrize("fused", [False, True], ids=["explicit", "fused"])
@each_architecture
def test_packed_loss_and_gradient_are_those_of_one_by_one(name, fused, monkeypatch):
    if fused:
        monkeypatch.setattr(packing, "_slow_fused", lambda query: False)
    ordinary, packed = pair(name)
    batch = [*MIXED, *ALIKE]
    total = sum(len(completion) for _, completion in batch)
    wanted = torch.stack([-logs_alone(ordinary, *pair).sum() for pair in batch]).sum() / total
    found = packed_loss(packed, batch, total)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    expected = torch.autograd.grad(wanted, list(ordinary.parameters()), allow_unused=True)
    gradients = torch.autograd.grad(found, list(packed.parameters()), allow_unused=True)
    used = 0
    for (place, _), one, other in zip(packed.named_parameters(), gradients, expected, strict=True):
        assert (one is None) == (other is None), place
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-4, msg=lambda text, at=place: f"{at}: {text}")
            used += bool(one.abs().max() > 1e-4)
    assert used > len(gradients) / 2


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_scores_do_not_depend_on_how_sequences_are_grouped(name):
    _, packed = pair(name)
    together = score_encoded(packed, MIXED, Budget(4096))
    for batch_tokens in (1, 16, 20):
        for one, other in zip(together, score_encoded(packed, MIXED, Budget(batch_tokens)), strict=True):
            assert one.tokens == other.tokens
            assert one.total == pytest.approx(other.total, abs=1e-4)


def test_an_empty_completion_has_no_likelihood_and_disturbs_no_other():
    _, packed = pair("llama")
    with_empty = score_encoded(packed, [([5, 6], []), MIXED[0]], Budget(4096))
    assert (with_empty[0].total, with_empty[0].tokens) == (0.0, 0)
    assert with_empty[1].total == pytest.approx(score_encoded(packed, [MIXED[0]], Budget(4096))[0].total, abs=1e-5)


def test_a_layout_puts_together_what_it_takes_apart():
    layout = Layout([3, 1, 4], CPU)
    states = torch.randn(1, 2, 8, 5)
    apart = layout.split(states)
    assert apart.shape == (3, 2, 4, 5)
    torch.testing.assert_close(apart[2], states[0, :, 4:8])
    torch.testing.assert_close(layout.join(apart), states.transpose(1, 2))
    assert layout.positions.tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]
    assert layout.last.tolist() == [2, 3, 7]


def test_what_samples_begin_with_alike_is_read_once():
    _, packed = pair("llama")
    read = []
    embeddings = packed.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda layer, given, out: read.append(given[0].shape[1]))
    packed_loss(packed, ALIKE, 15)
    hook.remove()
    first, second = (len(prompt) + len(completion) - 1 for prompt, completion in ALIKE[:2])
    assert read == [first + second - 9]
    layout = Layout([3, 2, 3], CPU, [[0, 1, 2], [0, 3], [0, 1, 4]])
    assert layout.positions.tolist() == [[0, 1, 2, 1, 2]]
    states = torch.randn(1, 2, 5, 4)
    apart = layout.split(states)
    torch.testing.assert_close(apart[2], states[0][:, [0, 1, 4]])
    torch.testing.assert_close(layout.join(apart), states.transpose(1, 2))


def test_sinks_take_their_share_of_the_attention():
    query, key, value = torch.randn(3, 1, 2, 3, 4, dtype=torch.float64)
    sinks = torch.tensor([0.5, -1.0])
    seen = torch.ones(3, 3, dtype=torch.bool).tril()
    weights = (query @ key.transpose(-1, -2) * 0.5).exp() * seen
    share = weights / (weights.sum(-1, keepdim=True) + sinks.exp().view(1, 2, 1, 1))
    found = attention.explicit(attention.grouped_heads(query, 2), key, value, seen, 0.5, None, sinks)
    torch.testing.assert_close(found, share @ value, atol=1e-6, rtol=1e-5)


# What happens when a model is loaded.


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(selfcheck, "_checked", set())


def saved(folder, kind, values):
    network(configuration(kind, values), "eager").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@each_architecture
def test_the_check_lets_pass_what_packs_right(name, unchecked):
    _, packed = pair(name)
    selfcheck.check_packing(packed, name)
    assert packed.config._attn_implementation == IMPLEMENTATION


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_packed_is_refused_when_it_is_loaded(why, unchecked, tmp_path):
    kind, values, said = REFUSED[why]
    folder = saved(tmp_path, kind, values)
    with pytest.raises(BackendError) as refused:
        load_network(folder, CPU, torch.float32)
    assert str(refused.value).startswith(f"{folder}: this architecture does not work here: ")
    assert said in str(refused.value)


def test_16_bits_round_more_than_packing_may_err(unchecked, monkeypatch):
    _, packed = pair("llama")
    half = copy.deepcopy(packed).to(torch.bfloat16)
    seen = []
    real = selfcheck.distance
    monkeypatch.setattr(selfcheck, "distance", lambda *rows: seen.append(real(*rows)) or seen[-1])
    selfcheck.check_packing(half, "half")
    assert 2e-3 < max(seen) < 0.1


def test_one_folder_is_checked_once(unchecked, monkeypatch, tmp_path):
    folder = saved(tmp_path / "one", "llama", PACKABLE["llama"][1])
    other = saved(tmp_path / "other", "llama", PACKABLE["llama"][1])
    asked = []
    real = selfcheck.alone
    monkeypatch.setattr(selfcheck, "alone", lambda *given: asked.append(1) or real(*given))
    for path in (folder, folder, other):
        load_network(path, CPU, torch.float32)
    assert len(asked) == 2
    load_network(folder, CPU, torch.bfloat16)
    assert len(asked) == 3


def test_a_refused_folder_is_refused_again(unchecked, tmp_path):
    folder = saved(tmp_path, *REFUSED["recurrent"][:2])
    for _ in range(2):
        with pytest.raises(BackendError):
            load_network(folder, CPU, torch.float32)


def test_broken_weights_are_not_blamed_on_packing(unchecked):
    broken = network(configuration("llama", PACKABLE["llama"][1]), IMPLEMENTATION)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(float("nan"))
    selfcheck.check_packing(broken, "broken")
    assert broken.config._attn_implementation == IMPLEMENTATION


def test_packing_that_goes_wrong_is_found(unchecked, monkeypatch):
    """Each of the ways in which packing could be wrong, made to be so."""
    _, packed = pair("llama")
    real, see = Layout.split, Forest.seen
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "split", lambda layout, states: real(layout, states).flip(0))
        with pytest.raises(BackendError, match="probabilities move"):
            selfcheck.check_packing(packed, "sequences mixed up")
    with monkeypatch.context() as patch:
        patch.setattr(Forest, "seen", lambda forest, *given: torch.ones_like(see(forest, *given)))
        with pytest.raises(BackendError, match="probabilities move"):
            selfcheck.check_packing(packed, "seeing what comes later")
    with monkeypatch.context() as patch:
        patch.setattr(Layout, "decode_step", lambda layout: layout.lengths[None, :] * 0)
        with pytest.raises(BackendError, match=r"probabilities move|IndexError"):
            selfcheck.check_packing(packed, "decoding from the wrong place")
    selfcheck.check_packing(packed, "none")


def test_probes_lie_within_the_vocabulary():
    for vocabulary in (VOCABULARY, 49152, 262208):
        first, second = selfcheck.probes(vocabulary)
        assert len(first) != len(second)
        assert all(vocabulary // 4 <= token < 3 * vocabulary // 4 for token in (*first, *second))
        assert len({*first, *second}) > 8


def test_loss_written_out_is_the_cross_entropy():
    logits = torch.randn(40, 11, dtype=torch.float32, requires_grad=True)
    targets = torch.arange(40) % 11
    wanted = F.cross_entropy(logits, targets, reduction="sum") / 9
    (expected,) = torch.autograd.grad(wanted, logits)
    copied = logits.detach().clone().requires_grad_()
    found = answer_loss(copied * 1.0, targets, 9)
    (gradient,) = torch.autograd.grad(found, copied)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, expected)
    (halved,) = torch.autograd.grad(answer_loss(copied * 1.0, targets, 9) / 2, copied)
    torch.testing.assert_close(halved, expected / 2)
    logs = log_probabilities(logits.detach(), targets)
    torch.testing.assert_close(-logs.sum() / 9, wanted.detach())
