import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from isara.backends.forest import Forest, common, cut, fresh, shared  # noqa: E402
from isara.backends.memory import Budget  # noqa: E402
from isara.backends.scoring import completion_logs, score_encoded  # noqa: E402
from tiny import PACKABLE, pair, sequence  # noqa: E402

CPU = torch.device("cpu")
SHOWN, OTHER = sequence(14, 1), sequence(11, 2)
QUESTIONS = [SHOWN + sequence(9, 3), SHOWN + sequence(10, 4), OTHER]
CANDIDATES = [(question, sequence(length, 7 * length)) for question in QUESTIONS for length in (1, 4, 2, 13, 4, 1)]
"""Candidates of three questions, two of which begin alike; some are equal, and some only in their question."""


def logs_alone(ordinary, prompt, completion):
    logits = ordinary(input_ids=torch.tensor([prompt + completion]), use_cache=False).logits[0].float()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]


@pytest.mark.parametrize("name", PACKABLE)
def test_scores_of_what_begins_alike_are_those_of_each_alone(name):
    ordinary, packed = pair(name)
    with torch.inference_mode():
        wanted = torch.cat([logs_alone(ordinary, *pair) for pair in CANDIDATES])
        found = completion_logs(packed, CANDIDATES)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_tokens", [1, 40, 90, 4096])
def test_scores_do_not_depend_on_how_they_are_divided(threads, batch_tokens, monkeypatch):
    monkeypatch.setattr("isara.backends.scoring._LEAST", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    _, packed = pair("gemma2")
    with torch.inference_mode():
        wanted = [completion_logs(packed, [one]).double().sum() for one in CANDIDATES]
    found = score_encoded(packed, CANDIDATES, Budget(batch_tokens))
    assert [one.tokens for one in found] == [len(completion) for _, completion in CANDIDATES]
    assert [one.total for one in found] == pytest.approx([float(each) for each in wanted], abs=1e-4)


def test_what_is_shared_stands_in_the_row_once():
    rows = [prompt + completion for prompt, completion in CANDIDATES]
    forest = Forest(rows, CPU)
    assert forest.tokens.shape[1] < sum(map(len, rows)) / 3
    for row, places in zip(rows, forest.rows, strict=True):
        assert forest.tokens[0, list(places)].tolist() == row
        assert forest.positions[0, list(places)].tolist() == list(range(len(row)))


words = st.lists(st.integers(0, 1), min_size=1, max_size=24)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, min_size=1, max_size=12), st.integers(1, 60))
@example([[0] * 8, [0] * 9, [0] * 10], 1)
def test_any_sequences_are_laid_out_and_cut(rows, most):
    forest = Forest(rows, CPU)
    for row, places in zip(rows, forest.rows, strict=True):
        assert forest.tokens[0, list(places)].tolist() == row
        assert forest.positions[0, list(places)].tolist() == list(range(len(row)))
    assert forest.tokens.shape[1] <= sum(fresh(rows)) <= sum(map(len, rows))
    groups = cut(rows, most)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    for group in groups:
        assert len(group) == 1 or sum(fresh([rows[i] for i in group])) <= most


@given(st.lists(words, min_size=1, max_size=12))
def test_every_beginning_stands_once(sequences):
    tokens, rows = shared(sequences)
    for wanted, own in zip(sequences, rows, strict=True):
        assert [tokens[row] for row in own] == wanted
    # As many tokens as a prefix tree has nodes.
    assert len(tokens) == len({tuple(s[: end + 1]) for s in sequences for end in range(len(s))})


@given(words, words)
def test_how_far_two_sequences_are_alike(one, other):
    length = common(one, other)
    assert one[:length] == other[:length]
    assert length in (len(one), len(other)) or one[length] != other[length]
