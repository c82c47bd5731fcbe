"""What a server can do, found out by asking it once, before a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isara.backends.adapter import write_blank
from isara.backends.checkpoints import Checkpoint
from isara.backends.dialect import Dialect, Form, Written, read_completion, read_likelihood, rendered
from isara.backends.endpoint import Endpoint, RefusedError
from isara.backends.patience import TroubleError
from isara.backends.template import Encoder
from isara.errors import BackendError
from isara.protocols import Chat, Prompt, Sampling, Turn

_PLAIN: Prompt = "Question: What is the name of the river?\nAnswer:"
_CHAT: Prompt = Chat((Turn("user", "What is the name of the river?"),))
_ORDER: tuple[tuple[Form, bool], ...] = (
    ("tokens", True),
    ("tokens", False),
    ("text", True),
    ("text", False),
    ("chat", True),
    ("chat", False),
)
"""How to ask, the most exact way first: with token ids a server cannot read a prompt otherwise than we mean it."""
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@dataclass(frozen=True, slots=True)
class Served:
    """What a server serves, and what it can do."""

    dialect: Dialect
    owner: str | None
    """What it calls itself, such as `vllm` or `llamacpp`."""
    root: str | None
    """The weights that it says it has."""
    foreign: str | None
    """What shows that it reads prompts otherwise than the local tokenizer, in words; None where nothing does."""
    draws: bool
    """Whether other seeds bring other completions."""
    repeats: bool
    """Whether the same seed brings the same completion."""
    adapters: bool
    """Whether it takes tuned weights while it runs, and scores: then it does everything, else likelihoods are local."""
    why_not: str | None
    """Why it takes none, in words."""


def examine(
    endpoint: Endpoint, checkpoint: Checkpoint, encoder: Encoder, named: str | None, rank: int | None
) -> Served:
    """Ask a server what it serves and what it can do; `rank` is that of the adapters to come, None for none."""
    entry = choose(endpoint, named, checkpoint.name)
    stops = tuple(sorted({encoder.end, *encoder.user_ends}))
    dialect, first = find_dialect(endpoint, Dialect(str(entry["id"]), "tokens", True, stops), encoder)
    draws, repeats = sampled(endpoint, dialect, encoder)
    why_not = refusal_of_adapters(endpoint, dialect, checkpoint, encoder, rank)
    return Served(
        dialect,
        as_text(entry.get("owned_by")),
        as_text(entry.get("root")),
        foreign_words(dialect, first, encoder),
        draws,
        repeats,
        why_not is None,
        why_not,
    )


def choose(endpoint: Endpoint, named: str | None, wanted: str) -> dict[str, Any]:
    """Return the entry of the model to ask for, from what is listed; raises BackendError where it is not clear."""

    def read(answer: Any) -> list[dict[str, Any]]:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list):
            raise TroubleError("a list of models without models")
        return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    try:
        entries = endpoint.get("/v1/models", read)
    except RefusedError as error:
        if named is None or error.status in (401, 403):
            raise
        return {"id": named}
    by_name = {entry["id"]: entry for entry in entries}
    if named is not None:
        # A server such as `transformers serve` lists what it has cached, and not all that it can be asked for.
        return by_name.get(named, {"id": named})
    # Adapters that are loaded already are listed too, each with the model it belongs to.
    bare = [entry for entry in entries if not entry.get("parent")]
    same = [entry for entry in bare if entry["id"].lower().rpartition("/")[2] == wanted.lower().rpartition("/")[2]]
    found = bare if len(bare) == 1 else same
    if len(found) != 1:
        names = ", ".join(sorted(by_name)[:20]) or "none"
        raise BackendError(f"{endpoint.url}: which model is {wanted!r}? It lists: {names}. Name one in server.model.")
    return found[0]


def find_dialect(endpoint: Endpoint, dialect: Dialect, encoder: Encoder) -> tuple[Dialect, Written]:
    """Return how the server takes requests, and its first answer; raises BackendError where it takes none."""
    refused: dict[Form, str] = {}
    for form, extras in _ORDER:
        content = rendered(encoder, probe_for(form, encoder), form)
        if content is None:
            continue
        asking = replace(dialect, form=form, extras=extras)
        body = asking.body(content, Sampling(1), 1)
        try:
            answer = endpoint.post(asking.path, body, read_completion, eager=True)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            refused[form] = f'{form}: status {error.status}, "{error.words}"'
            continue
        if form == "tokens" and answer.prompt_tokens not in (None, len(content)):
            continue  # read as something else than the tokens that they are
        return asking, answer
    raise BackendError(
        f"{endpoint.url}: it takes no kind of prompt that isara can send for {dialect.model!r} "
        f"({'; '.join(refused.values())}). Check server.url and server.model."
    )


def probe_for(form: Form, encoder: Encoder) -> Prompt:
    """Return a prompt to find out with: a conversation where the model has a template."""
    return _CHAT if form == "chat" or encoder.template is not None else _PLAIN


def foreign_words(dialect: Dialect, first: Written, encoder: Encoder) -> str | None:
    """Return what is odd about how the server counts a prompt of text or messages; None for nothing."""
    ours = len(encoder.prompt(probe_for(dialect.form, encoder)))
    if dialect.form == "tokens" or first.prompt_tokens in (None, ours):
        return None
    cause = (
        "its chat template may add a system prompt, or be another one"
        if dialect.form == "chat"
        else "it may serve another model, or add tokens of its own"
    )
    return f"It reads a prompt of {ours} tokens as {first.prompt_tokens}: {cause}"


def sampled(endpoint: Endpoint, dialect: Dialect, encoder: Encoder) -> tuple[bool, bool]:
    """Return whether other seeds bring other completions, and whether the same seed brings the same."""
    content = rendered(encoder, probe_for(dialect.form, encoder), dialect.form)
    assert content is not None

    def written(seed: int) -> str:
        body = dialect.body(content, Sampling(12, temperature=1.5), seed)
        return endpoint.post(dialect.path, body, read_completion).text

    first = written(1)
    # Two that are alike by chance are hardly followed by a third.
    return first != written(2) or first != written(3), first == written(1)


def refusal_of_adapters(
    endpoint: Endpoint, dialect: Dialect, checkpoint: Checkpoint, encoder: Encoder, rank: int | None
) -> str | None:
    """
    Return why the server cannot answer and score with tuned weights; None where it can.

    It is given an adapter that changes nothing, of the rank of those to come, and asked with it: that shows whether
    adapters may be loaded, whether it sees this machine's files, and whether it scores what it did not write.
    """
    if rank is None:
        return "not asked for"
    if dialect.form != "tokens":
        return "it does not take token ids"
    ids = encoder.prompt(_PLAIN)
    with blank_adapter(checkpoint, rank) as folder:
        try:
            load(endpoint, folder.name, folder)
            scoring = replace(dialect, model=folder.name).scoring(ids[:-1], ids[-1:])
            endpoint.post(dialect.path, scoring, lambda answer: read_likelihood(answer, ids, 1), eager=True)
        except RefusedError as error:
            return f"status {error.status}, {error.words!r}"
        except BackendError:
            return "it gave no log-probabilities of a prompt"
        finally:
            unload(endpoint, folder.name)
    return None


@contextmanager
def blank_adapter(checkpoint: Checkpoint, rank: int) -> Iterator[Path]:
    """Give a folder with an adapter that changes nothing, readable for a server that another user runs."""
    with tempfile.TemporaryDirectory(prefix="isara-probe-") as scratch:
        folder = Path(scratch)
        write_blank(folder, checkpoint.folder, rank)
        folder.chmod(0o755)
        yield folder


def load(endpoint: Endpoint, name: str, folder: Path) -> None:
    """Load an adapter into a server under a name; one that is there already is left as it is."""
    try:
        endpoint.tell(LOAD, {"lora_name": name, "lora_path": str(folder)}, eager=True)
    except RefusedError as error:
        if "already" not in error.words:
            raise


def unload(endpoint: Endpoint, name: str) -> None:
    """Take an adapter out of a server again, where it is there."""
    try:
        endpoint.tell(UNLOAD, {"lora_name": name}, eager=True)
    except RefusedError:
        return


def as_text(value: Any) -> str | None:
    """Return a value where it is text, cut where it is long."""
    return value[:200] if isinstance(value, str) and value else None
