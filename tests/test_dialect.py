from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isara.backends.dialect import Dialect, Written, read_completion, read_likelihood, trimmed
from isara.backends.patience import TroubleError
from isara.protocols import Likelihood, Sampling

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "text",
                    "message",
                    "content",
                    "usage",
                    "logprobs",
                    "token_logprobs",
                    "token_ids",
                    "prompt_logprobs",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def answer(**choice):
    return {"choices": [{"text": "No.", "finish_reason": "stop"} | choice]}


def test_a_request_says_how_to_sample():
    body = Dialect("m", "text", False).body("Why?", Sampling(9, 0.8, 0.95, ("\n",)), 7)
    assert body == {
        "model": "m",
        "prompt": "Why?",
        "max_tokens": 9,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 7,
        "stop": ["\n"],
    }


def test_where_a_server_takes_more_it_is_told_to_sample_from_the_whole_distribution():
    body = Dialect("m", "tokens", True, (2, 5)).body([1, 2], Sampling(9), 7)
    assert body["prompt"] == [1, 2]
    assert "stop" not in body
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert body["stop_token_ids"] == [2, 5]


def test_messages_go_to_the_chat_path():
    messages = [{"role": "user", "content": "Why?"}]
    dialect = Dialect("m", "chat", False)
    assert dialect.path == "/v1/chat/completions"
    assert dialect.body(messages, Sampling(9), 7)["messages"] == messages
    assert Dialect("m", "text", False).path == "/v1/completions"


@pytest.mark.parametrize(
    ("reason", "finished"),
    [
        ("stop", True),
        ("eos_token", True),
        ("length", False),
        ("abort", False),
        ("content_filter", False),
        (None, False),
    ],
)
def test_a_completion_is_finished_where_the_server_says_so(reason, finished):
    assert read_completion(answer(finish_reason=reason)).finished is finished


def test_a_completion_has_its_counts_where_they_are_given():
    assert read_completion(answer()) == Written("No.", True, None, None)
    counted = answer() | {"usage": {"completion_tokens": 2, "prompt_tokens": 11}}
    assert read_completion(counted) == Written("No.", True, 2, 11)
    odd = answer() | {"usage": {"completion_tokens": -1, "prompt_tokens": "many"}}
    assert read_completion(odd) == Written("No.", True, None, None)


def test_an_empty_text_is_a_completion_and_a_missing_one_is_not():
    assert read_completion(answer(text="")).text == ""
    assert read_completion(answer(message={"content": None})).text == ""
    assert read_completion(answer(message={"content": "Yes."})).text == "Yes."
    for wrong in (answer(text=None), answer(text=["No."]), answer(message={"content": 3})):
        with pytest.raises(TroubleError, match="without a text"):
            read_completion(wrong)


def test_log_probabilities_count_only_with_a_token_for_each():
    logs = {"token_logprobs": [-1.0, -2]}
    assert read_completion(answer(token_ids=[4, 5], logprobs=logs)).logs == (-1.0, -2.0)
    for ids, found in (([4], logs), (None, logs), ([4, 5], None), ([4, 5], {"token_logprobs": [-1.0, None]})):
        written = read_completion(answer(token_ids=ids, logprobs=found))
        assert (written.ids, written.logs) == ((), ())


@settings(max_examples=60)
@given(JSON)
def test_whatever_comes_back_is_a_completion_or_trouble(value):
    with contextlib.suppress(TroubleError):
        assert isinstance(read_completion(value).text, str)


def test_a_likelihood_is_the_sum_over_the_completion():
    entries = [None, {"7": {"logprob": -9.0}}, {"8": {"logprob": -1.5}, "1": {"logprob": -0.1}}, {"9": {"logprob": -2}}]
    assert read_likelihood(answer(prompt_logprobs=entries), [5, 7, 8, 9], 2) == Likelihood(-3.5, 2)
    impossible = [*entries[:3], {"9": {"logprob": -math.inf}}]
    assert read_likelihood(answer(prompt_logprobs=impossible), [5, 7, 8, 9], 2).total == -math.inf


@pytest.mark.parametrize(
    "found",
    [None, [], [None], [None, {"8": {"logprob": -1.0}}], [None, None], [None, {"7": None}], [None, {"7": {"rank": 1}}]],
)
def test_a_likelihood_that_is_not_that_of_our_tokens_is_trouble(found):
    with pytest.raises(TroubleError, match="without the log-probabilit"):
        read_likelihood(answer(prompt_logprobs=found), [5, 7], 1)


def test_text_ends_before_the_first_stop_string():
    assert trimmed("One.\n\nQuestion: Two?", ("\nQuestion:", "\n\n")) == ("One.", True)
    assert trimmed("One.", ("\n",)) == ("One.", False)
    assert trimmed("", ()) == ("", False)
