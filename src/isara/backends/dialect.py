"""What is sent to a server and what comes back: OpenAI's completions and chat completions, as servers speak them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from isara.backends.patience import TroubleError
from isara.backends.template import PLAIN, Encoder
from isara.protocols import Chat, Likelihood, Prompt, Sampling

Form = Literal["tokens", "text", "chat"]
"""Prompts as token ids, as text with the template's markers in it, or as the messages of a conversation."""
Content = list[int] | str | list[dict[str, str]]

PATHS: Mapping[Form, str] = {
    "tokens": "/v1/completions",
    "text": "/v1/completions",
    "chat": "/v1/chat/completions",
}
WHOLE: Mapping[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""
Sampling from the whole distribution, in the words of vLLM, SGLang and llama.cpp.

Left to themselves, llama.cpp keeps the 40 likeliest tokens, and vLLM does what the model's generation_config.json says.
"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server takes requests."""

    model: str
    """The name to ask for."""
    form: Form
    extras: bool
    """Whether it takes fields that OpenAI's interface does not have."""
    stops: tuple[int, ...] = ()
    """Tokens that end a completion."""

    @property
    def path(self) -> str:
        """Return where requests go."""
        return PATHS[self.form]

    def body(self, content: Content, sampling: Sampling, seed: int, *, logs: bool = False) -> dict[str, Any]:
        """Return a request for one completion; `logs` asks for the log-probability of each of its tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages" if self.form == "chat" else "prompt": content,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self.extras:
            body |= WHOLE
            if self.stops:
                body["stop_token_ids"] = list(self.stops)
        if logs:
            body |= {"logprobs": 0, "return_token_ids": True}
        return body

    def scoring(self, prompt: list[int], completion: list[int]) -> dict[str, Any]:
        """Return a request for the likelihood of a completion, as vLLM takes it."""
        body = {"model": self.model, "prompt": [*prompt, *completion], "max_tokens": 1}
        return body | {"temperature": 0.0, "prompt_logprobs": 0}


@dataclass(frozen=True, slots=True)
class Written:
    """A completion as a server returned it."""

    text: str
    finished: bool
    tokens: int | None
    """How many it has, where the server counted."""
    prompt_tokens: int | None
    ids: tuple[int, ...] = ()
    """Its tokens, where they were asked for and given."""
    logs: tuple[float, ...] = ()
    """Their log-probabilities."""


def read_completion(answer: Any) -> Written:
    """Return the one completion in an answer; raises TroubleError where there is none."""
    choice = the_choice(answer)
    message = choice.get("message")
    # A chat server may say null for no words.
    text = (message.get("content") or "") if isinstance(message, dict) else choice.get("text")
    if not isinstance(text, str):
        raise TroubleError("an answer without a text")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    ids, logs = given_logs(choice)
    # Whatever else ended it (an abort, a content filter) did not end it well.
    ended = choice.get("finish_reason") in ("stop", "eos", "eos_token", "stop_sequence")
    return Written(text, ended, whole(usage.get("completion_tokens")), whole(usage.get("prompt_tokens")), ids, logs)


def the_choice(answer: Any) -> dict[str, Any]:
    """Return the first choice in an answer; raises TroubleError where there is none."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise TroubleError("an answer without choices")
    return choices[0]


def given_logs(choice: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the ids and log-probabilities of a completion, as vLLM gives them; two empty tuples where it has none."""
    ids, found = choice.get("token_ids"), choice.get("logprobs")
    logs = found.get("token_logprobs") if isinstance(found, dict) else None
    if not isinstance(ids, list) or not isinstance(logs, list) or len(ids) != len(logs):
        return (), ()
    if not all(isinstance(log, float | int) for log in logs):
        return (), ()
    return tuple(ids), tuple(map(float, logs))


def read_likelihood(answer: Any, ids: Sequence[int], completion: int) -> Likelihood:
    """Return the likelihood of the last `completion` tokens of a scored prompt; raises TroubleError without one."""
    found = the_choice(answer).get("prompt_logprobs")
    if not isinstance(found, list) or len(found) != len(ids):
        raise TroubleError("an answer without the log-probabilities of its prompt")
    total = 0.0
    for token, place in zip(ids[len(ids) - completion :], found[len(ids) - completion :], strict=True):
        entry = place.get(str(token)) if isinstance(place, dict) else None
        log = entry.get("logprob") if isinstance(entry, dict) else None
        if not isinstance(log, float | int):
            raise TroubleError("an answer without the log-probability of a token of its prompt")
        total += log
    return Likelihood(total, completion)


def whole(number: Any) -> int | None:
    """Return a count, where it is one."""
    return number if isinstance(number, int) and number >= 0 else None


def trimmed(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return text up to the first stop string, and whether there was one: not every server knows where to stop."""
    cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    return (text[:cut], True) if cut >= 0 else (text, False)


def rendered(encoder: Encoder, prompt: Prompt, form: Form) -> Content | None:
    """
    Return a prompt in the form that a server takes; None where that form cannot say it.

    As tokens everything can be said. A text with a marker such as `<|im_end|>` in a sample cannot be sent as text, for
    the server would read the marker. A conversation in which the user is to speak next, and plain text, cannot be
    sent as messages.
    """
    if form == "tokens":
        return encoder.prompt(prompt)
    pieces = pieces_of(encoder, prompt)
    if any(is_content and encoder.marked(text) for text, is_content in pieces):
        return None
    if form == "text":
        text = "".join(text for text, _ in pieces)
        # A server puts the mark of a beginning in front of a text by itself, as the tokenizer does.
        return text.removeprefix(encoder.tokenizer.decode(encoder.start())) or None
    if isinstance(prompt, str) or prompt.opens != "assistant" or encoder.template is None:
        return None
    return [{"role": turn.role, "content": turn.text} for turn in prompt.turns]


def pieces_of(encoder: Encoder, prompt: Prompt) -> list[tuple[str, bool]]:
    """Return a prompt as (text, is content) pieces."""
    if isinstance(prompt, Chat):
        return (encoder.template or PLAIN).pieces(prompt)
    return [(prompt, True)]
