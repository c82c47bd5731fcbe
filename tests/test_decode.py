import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from isara.backends.decode import Lane, decode, nucleus, pick, uniforms  # noqa: E402
from isara.backends.hf import TransformersModel, checked  # noqa: E402
from isara.backends.memory import grouped  # noqa: E402
from isara.backends.packing import IMPLEMENTATION  # noqa: E402
from isara.protocols import Chat, Completion, Likelihood, Sampling, Turn  # noqa: E402
from tiny import PACKABLE, VOCABULARY, checkpoint, configuration, network, sequence  # noqa: E402

NEVER = frozenset[int]()


def draws(count):
    """Evenly spread numbers in [0, 1): what falls to a token among them is its probability, to within one."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def by_sorting(logits, top_p, draw):
    """The nucleus by the book: sort, cut, renormalise, look up."""
    shares = np.exp(logits.astype(np.float64) - np.logaddexp.reduce(logits.astype(np.float64)))
    order = np.argsort(-shares, kind="stable")
    reached = np.cumsum(shares[order])
    size = int(np.searchsorted(reached, top_p) + 1) if top_p < 1 else len(order)
    kept = order[:size]
    return int(
        kept[np.searchsorted(np.cumsum(shares[kept]) / shares[kept].sum(), draw, side="right").clip(0, size - 1)]
    )


# One token.


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.4, 0.8, 1.0])
def test_each_token_gets_its_share_of_the_draws(temperature, top_p):
    logits = torch.tensor([0.1, 2.0, -1.0, 1.2, 0.4, -3.0])
    shares = (logits / temperature).double().softmax(0)
    order = shares.argsort(descending=True).tolist()
    kept, reached = [], 0.0
    for token in order:
        if reached < top_p:
            kept.append(token)
            reached += float(shares[token])
    count = 20_000
    tokens, logs = pick(logits.expand(count, -1), Sampling(1, temperature, top_p), draws(count))
    found = Counter(tokens.tolist())
    assert set(found) <= set(kept)
    for token in kept:
        assert found[token] == pytest.approx(count * float(shares[token]) / reached, abs=1.5)
    untempered = logits.log_softmax(0)
    torch.testing.assert_close(logs, untempered[tokens])


def test_lanes_draw_tokens_as_likely_as_they_are():
    """Chi-square of what independent lanes draw, by their own seeds."""
    from scipy.stats import chisquare

    logits = torch.tensor([1.0, 0.0, -0.5, 2.0, 0.3])
    lanes = [Lane([0], seed) for seed in range(4000)]
    tokens, _ = pick(logits.expand(len(lanes), -1), Sampling(1, 0.9, 1.0), uniforms(lanes, 3)[:, 1])
    shares = (logits / 0.9).double().softmax(0).numpy()
    assert chisquare(np.bincount(tokens.numpy(), minlength=5), shares * len(lanes)).pvalue > 0.001


@pytest.mark.parametrize("spread", [0.5, 4.0], ids=["nearly uniform", "peaked"])
@pytest.mark.parametrize("top_p", [0.05, 0.7, 0.95, 0.9999, 1.0])
def test_the_short_way_draws_what_sorting_everything_draws(top_p, spread):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 3000, generator=generator) * spread
    numbers = torch.rand(200, generator=generator, dtype=torch.float64)
    found = nucleus(logits, top_p, numbers).tolist()
    wanted = [by_sorting(row, top_p, float(draw)) for row, draw in zip(logits.numpy(), numbers, strict=True)]
    assert found == wanted


@pytest.mark.parametrize("most", [300, 1200])
@pytest.mark.parametrize("top_p", [0.4, 0.95])
def test_of_equally_likely_tokens_the_short_ways_have_the_order_of_the_long_one(top_p, most, monkeypatch):
    """Where the nucleus is wider than what is looked at first; and where it is wider than what is looked at next."""
    monkeypatch.setattr("isara.backends.decode._MORE", most)
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(200, 3000, generator=generator) * 2).round() / 4
    numbers = torch.rand(200, generator=generator, dtype=torch.float64)
    assert logits[0].unique().numel() < 40
    wanted = [by_sorting(row, top_p, float(draw)) for row, draw in zip(logits.numpy(), numbers, strict=True)]
    assert nucleus(logits, top_p, numbers).tolist() == wanted


def test_temperature_0_and_a_tiny_nucleus_take_the_likeliest():
    logits = torch.randn(64, 500, generator=torch.Generator().manual_seed(0))
    for sampling in (Sampling(1, 0.0), Sampling(1, 1.0, 1e-9), Sampling(1, 0.01, 0.5)):
        for draw in (0.0, 0.5, 1 - 2**-53):
            tokens, _ = pick(logits, sampling, torch.full((64,), draw, dtype=torch.float64))
            assert torch.equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("top_p", [0.3, 0.999999, 1.0])
def test_the_ends_of_the_unit_interval_draw_tokens_of_the_nucleus(top_p, draw):
    logits = torch.randn(8, 700, generator=torch.Generator().manual_seed(1))
    logits[:, 5] = float("-inf")
    tokens = nucleus(logits, top_p, torch.full((8,), draw, dtype=torch.float64))
    assert (tokens != 5).all()
    if draw == 0.0:
        assert torch.equal(tokens, logits.argmax(-1))


def test_what_a_row_draws_does_not_depend_on_the_others():
    """Not even where tokens are equally likely, and another row needs the whole vocabulary."""
    peaked = torch.zeros(600)
    peaked[torch.tensor([3, 77, 400])] = 40.0
    flat = torch.zeros(600)
    numbers = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    alone = nucleus(peaked.expand(50, -1), 0.9, numbers)
    mixed = nucleus(torch.stack([peaked, flat]).repeat(50, 1), 0.9, numbers.repeat_interleave(2))
    assert torch.equal(mixed[::2], alone)


def test_random_numbers_are_a_lanes_own():
    together = uniforms([Lane([0], seed) for seed in (5, 6, 7)], 4)
    assert torch.equal(together[1], uniforms([Lane([0], 6)], 4)[0])
    assert torch.equal(together[1, :2], uniforms([Lane([0], 6)], 2)[0])
    assert len(set(together.flatten().tolist())) == 12
    assert ((together >= 0) & (together < 1)).all()


# Whole completions.


class Counting:
    """A network that always finds the next number the likeliest."""

    device = torch.device("cpu")

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def __call__(self, *, input_ids, layout, logits_to_keep=None, **_):
        row = input_ids[0] if logits_to_keep is None else input_ids[0, logits_to_keep]
        following = (row + 1) % self.vocabulary
        return SimpleNamespace(logits=torch.nn.functional.one_hot(following, self.vocabulary)[None].float() * 20)


def counted(texts, starts, sampling, ends=NEVER):
    """What is written when each of `texts` follows the one before it, from the given places on."""

    def to_text(tokens, *, skip_special_tokens=False):
        return "".join(texts[token] for token in tokens)

    lanes = [Lane([start], 0) for start in starts]
    return decode(Counting(len(texts)), lanes, sampling, ends, to_text), lanes


def test_a_stop_string_may_lie_across_tokens():
    texts = ["start", "an", "swer.\n", "\nQ", "uestion: no", " more"]
    (done,), _ = counted(texts, [0], Sampling(5, stop=("\n\nQuestion:",)))
    assert done.text == "answer."
    assert done.finished
    assert done.tokens == 4
    assert done.likelihood is None


def test_the_first_of_several_stop_strings_in_the_text_counts():
    texts = ["start", "one", " two. Q: three"]
    (done,), _ = counted(texts, [0], Sampling(2, stop=("three", "Q:", ". ")))
    assert done.text == "one two"


def test_a_stop_string_of_many_tokens_is_seen():
    stop = "the end of this very long story"
    texts = ["start", "x", *stop, "y"]
    (done,), _ = counted(texts, [0], Sampling(60, stop=(stop,)))
    assert done.text == "x"
    assert done.tokens == 1 + len(stop)


def test_a_stop_string_of_many_bytes_is_seen():
    stop = "¿¡«»¿¡«»"
    bytes_of = stop.encode()

    def to_text(tokens, *, skip_special_tokens=False):
        return bytes(bytes_of[token - 1] for token in tokens).decode(errors="replace")

    lanes = [Lane([0], 0)]
    (done,) = decode(Counting(len(bytes_of) + 2), lanes, Sampling(40, stop=(stop,)), NEVER, to_text)
    assert (done.text, done.finished, done.tokens) == ("", True, len(bytes_of))


def test_a_token_that_ends_is_not_part_of_the_text():
    (done,), _ = counted(["start", "a", "b", "END", "c"], [0], Sampling(9), frozenset([3]))
    assert (done.text, done.finished, done.tokens) == ("ab", True, 2)
    assert done.likelihood.tokens == 2
    assert done.likelihood.total == pytest.approx(0, abs=1e-5)


def test_a_completion_without_an_end_is_cut_and_says_so():
    (done,), _ = counted(["start", "a", "b", "c", "d"], [0], Sampling(3, stop=("z",)))
    assert (done.text, done.finished, done.tokens) == ("abc", False, 3)


def test_an_end_at_the_very_last_token_counts():
    (done,), _ = counted(["start", "a", "b", "END"], [0], Sampling(3), frozenset([3]))
    assert (done.text, done.finished) == ("ab", True)
    (done,), _ = counted(["start", "a", "END"], [1], Sampling(1), frozenset([2]))
    assert (done.text, done.finished, done.tokens) == ("", True, 0)


def test_lanes_end_one_by_one():
    texts = [str(number % 10) for number in range(40)]
    starts = [30, 12, 25, 38, 3, 33]
    done, lanes = counted(texts, starts, Sampling(50), frozenset([39]))
    for start, lane, completion in zip(starts, lanes, done, strict=True):
        assert lane.tokens == list(range(start + 1, 39))
        assert completion.finished


@pytest.fixture(scope="module")
def packed():
    return network(configuration("llama", PACKABLE["llama"][1]), IMPLEMENTATION)


@pytest.mark.parametrize("sampling", [Sampling(20, 1.0, 0.95), Sampling(20, 0.7, 1.0), Sampling(20)], ids=str)
def test_a_completion_is_the_same_alone_and_in_a_batch(sampling, packed):
    ends = frozenset(sequence(30, 7))
    prompts = [sequence(length, length) for length in (5, 1, 17, 9, 3, 12, 8, 2)]

    def written(which):
        lanes = [Lane(list(prompts[i]), 100 + i) for i in which]
        with torch.inference_mode():
            decode(packed, lanes, sampling, ends, lambda tokens, **_: "")
        return [lane.tokens for lane in lanes]

    together = written(range(8))
    assert together == [written([i])[0] for i in range(8)]
    assert written([6, 1, 3]) == [together[i] for i in (6, 1, 3)]
    # Lanes close at different times, else closing them would not be tested.
    assert len({len(tokens) for tokens in together}) > 3


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_prompts_that_begin_alike_and_parts_on_cores_change_no_completion(name, monkeypatch):
    network_of = network(configuration(*PACKABLE[name][:2]), IMPLEMENTATION)
    beginning = sequence(20, 3)
    prompts = [beginning + sequence(length, length) for length in (5, 1, 9, 9)] + [beginning, sequence(12, 4)]
    prompts.append(list(prompts[0]))

    def written(some):
        lanes = [Lane(list(prompt), 7 * i) for i, prompt in enumerate(some)]
        with torch.inference_mode():
            decode(network_of, lanes, Sampling(12), frozenset(sequence(20, 7)), lambda tokens, **_: "")
        return [lane.tokens for lane in lanes]

    alone = [written([prompt])[0] for prompt in prompts]
    assert written(prompts) == alone
    monkeypatch.setattr("isara.backends.decode._LEAST_TOKENS", 1)
    monkeypatch.setattr("isara.backends.decode._LEAST_LANES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert written(prompts) == alone


# The model around it.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = checkpoint(tmp_path_factory.mktemp("tiny"))
    return TransformersModel(made, device="cpu", dtype="float32")


PROMPTS = [
    Chat((Turn("user", "Why?"),)),
    "Question: Do goldfish have a memory?\nAnswer:",
    Chat((Turn("user", "Does the moon grow?"), Turn("assistant", "No."), Turn("user", "Never?"))),
    Chat((), opens="user"),
    "",
]


def test_completions_come_in_order_however_they_are_grouped(model, monkeypatch):
    sampling = Sampling(16, 1.0, 0.95)
    whole = model.complete(PROMPTS, sampling, seeds=range(5))
    assert len({done.text for done in whole}) == 5
    monkeypatch.setattr(model.budget, "tokens", 40)
    parts = model.complete(PROMPTS, sampling, seeds=range(5))
    assert [done.text for done in parts] == [done.text for done in whole]
    assert model.complete([], sampling, seeds=[]) == []
    assert model.score([]) == []


def test_a_seed_decides_what_is_drawn(model):
    sampling = Sampling(16, 1.0)
    once, again, other = (model.complete(PROMPTS[:1], sampling, seeds=[seed])[0].text for seed in (1, 1, 2))
    assert once == again != other


def test_the_likelihood_of_a_completion_is_what_scoring_it_gives(model):
    # Hot and short, so that many of a random model's completions are tokens that text is read as.
    prompts = PROMPTS * 16
    done = model.complete(prompts, Sampling(3, 3.0), seeds=range(len(prompts)))
    known = [(prompt, one) for prompt, one in zip(prompts, done, strict=True) if one.likelihood]
    assert 5 <= len(known) < len(prompts)
    assert {one.tokens for _, one in known} >= {2, 3}
    # After plain text the space in front is the prompt's; in a turn it is part of what was written.
    texts = [(prompt, one.text.strip() if isinstance(prompt, str) else one.text) for prompt, one in known]
    scored = model.score(texts)
    for (_, one), likelihood in zip(known, scored, strict=True):
        assert one.likelihood.tokens == likelihood.tokens == one.tokens
        assert one.likelihood.total == pytest.approx(likelihood.total, abs=1e-3)


def test_text_that_would_be_read_as_other_tokens_has_no_likelihood(model):
    ids = model.tokenizer("moon", add_special_tokens=False).input_ids
    letters = [model.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in "moon"]
    assert ids != letters
    done = Completion("moon", 4, True, Likelihood(-3.0, 4))
    assert checked(model.encoder, PROMPTS[0], Lane([1], 0, tokens=ids), done) == done
    assert checked(model.encoder, PROMPTS[0], Lane([1], 0, tokens=letters), done).likelihood is None
    # After plain text a completion is scored with a space in front, which this one has not.
    assert checked(model.encoder, PROMPTS[1], Lane([1], 0, tokens=ids), done).likelihood is None


def test_a_score_leaves_the_end_of_the_turn_out(model):
    ids = model.encoder.completion(PROMPTS[0], "Because.")
    (likelihood,) = model.score([(PROMPTS[0], "Because.")])
    assert likelihood.tokens == len(ids)
    assert model.encoder.end not in ids


def test_scores_after_nothing_follow_the_end_of_a_text(model):
    scored = model.score([("", "Why?"), (PROMPTS[0], "Because."), ("", "")])
    assert scored[0].total == pytest.approx(model.score([("", "Why?")])[0].total, abs=1e-4)
    assert scored[0].total < 0
    assert scored[2].tokens == 0


def test_what_a_model_says_of_itself(model):
    assert model.chat
    assert model.name == "tiny"
    assert model.count(["", "moon", "<|im_end|>"])[:2] == [0, len(model.encoder.content("moon"))]
    assert model.count(["<|im_end|>"])[0] > 1
    assert model.with_adapter(None) is model
    assert {model.encoder.end, model.tokenizer.eos_token_id} <= model.ends() <= set(range(VOCABULARY))


def test_groups_hold_every_index_once_and_respect_the_limit():
    sizes = [5, 30, 1, 7, 7, 12, 3]
    groups = list(grouped(sizes, 14))
    assert sorted(i for group in groups for i in group) == list(range(7))
    assert groups[0] == [1]
    assert all(len(group) == 1 or sum(sizes[i] for i in group) <= 14 for group in groups)
    assert list(grouped([], 14)) == []


class Words:
    """Reads words as tokens; the first word is another one after a space."""

    def completion(self, prompt, text):
        numbers = {"From": 1, " From": 2, " the": 3, " desk": 4}
        return [numbers[word] for word in re.findall(r" ?\w+", text)]

    def ended(self, prompt, completion):
        return [*completion, 9]


@pytest.mark.parametrize(
    ("text", "tokens", "read"),
    [
        ("From the desk", [1, 3, 4], (1, 3, 4, 9)),
        (" From the desk", [2, 3, 4], (1, 3, 4, 9)),
        ("From the", [1, 3], (1, 3, 9)),
        ("From the desk", [1, 4, 3], None),
        ("From the desk", [1, 3], None),
    ],
)
def test_what_was_noted_is_that_of_the_text_but_for_space_in_front(text, tokens, read):
    likely = [(np.array([place], np.int32), np.array([1.0], np.float16)) for place in range(len(tokens) + 1)]
    lane = Lane([0], 0, tokens=tokens, likely=likely)
    found = checked(Words(), PROMPTS[0], lane, Completion(text, len(tokens), True, Likelihood(-1.0, len(tokens))))
    assert (found.likelihood is None) == (read is None)
    assert (found.targets.tokens if found.targets else None) == read
    if read:
        assert found.targets.ids[:, 0].tolist() == list(range(len(read)))
