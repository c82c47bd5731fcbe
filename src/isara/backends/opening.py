"""Opens the way to a server, and puts into words what was found there and who will do what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isara.backends.address import base_of, is_near, key_from
from isara.backends.checkpoints import Checkpoint
from isara.backends.endpoint import Endpoint
from isara.backends.hf import TransformersModel
from isara.backends.pacing import Pace
from isara.backends.patience import Limits
from isara.backends.probing import Served, examine
from isara.backends.server import Line, ServerModel
from isara.errors import SettingsError
from isara.settings import Settings

_FORMS = {"tokens": "token ids", "text": "text", "chat": "chat messages"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A model behind a server."""

    model: ServerModel
    words: str
    """The server, in a few words."""
    notes: tuple[str, ...]
    """What it can and cannot do, and who does the rest, in sentences."""
    facts: Mapping[str, Any]
    """What identifies what it serves."""


def open_server(checkpoint: Checkpoint, settings: Settings, local: TransformersModel, here: str) -> Opened:
    """Return the model behind the server that the settings name; `here` says in words what `local` computes with."""
    wanted = settings.server
    if wanted.url is None:
        raise SettingsError("model.engine: 'server' needs its address. Give --server URL, or set server.url.")
    url, key = base_of(wanted.url), key_from(wanted)
    limits = Limits(wanted.timeout, wanted.retries, wanted.deadline)
    endpoint = Endpoint(url, limits, key=key, key_variable=wanted.key_variable, most=wanted.concurrency)
    rank = settings.train.rank if wanted.adapters and settings.train.method == "lora" else None
    served = examine(endpoint, checkpoint, local.encoder, wanted.model, rank)
    by = f" ({served.owner})" if served.owner else ""
    words = f"server at {url}{by} with {served.dialect.model!r}, asked with {_FORMS[served.dialect.form]}"
    notes = tuple(notes_on(served, here))
    if key is not None and url.startswith("http://") and not is_near(url):
        notes += ("The key goes to the server unencrypted: whoever is on the way can read it. Use https.",)
    return Opened(
        ServerModel(Line(endpoint, served, Pace(wanted.concurrency)), local), words, notes, facts(url, served)
    )


def notes_on(served: Served, here: str) -> Iterator[str]:
    """Yield what a reader should know of a server, in sentences."""
    if served.adapters:
        yield "The server takes tuned weights while it runs: it answers and scores for every arm."
    else:
        yield f"The server does not take tuned weights ({served.why_not}): tuned models answer with {here}."
        yield "So that all arms are scored alike, every likelihood is computed there, too."
    if served.dialect.form == "chat":
        yield f"The server offers only chat: plain-text prompts, such as those for new questions, go to {here}."
    if served.foreign:
        yield f"{served.foreign}. What it writes then answers another prompt than the one trained on."
    if not served.draws:
        yield f"The server writes the same whatever the seed: what is to be drawn at random is drawn with {here}."
    elif not served.repeats:
        yield "The server does not repeat itself for the same seed: a batch cut off by a kill is written anew."


def facts(url: str, served: Served) -> dict[str, Any]:
    """Return what identifies what a server serves, and who does what, for the manifest."""
    who = "server" if served.adapters else "transformers"
    found = {
        "server": url,
        "served_by": served.owner,
        "served_model": served.dialect.model,
        "served_root": served.root,
        "prompts": _FORMS[served.dialect.form],
        "tuned_answers": who,
        "likelihoods": who,
    }
    return {name: value for name, value in found.items() if value is not None}
