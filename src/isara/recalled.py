"""Completions that runs of a study have in common: what one run's model wrote, another run recalls and does not ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isara.api import Backend
from isara.drafted import likelihood_of
from isara.prompts import as_messages
from isara.protocols import Completion, Likelihood, Model, Prompt, Sampling, Targets
from isara.rundir import Events, snapshot
from isara.settings import Settings
from isara.sharing import same_writers
from isara.spent import costs
from isara.targetfiles import WRITTEN, targets_in

_STAGE = "draft-1"
_ROUND = "round-1"
"""The only round that is recalled: later ones are written by models that another training made."""


Asked = tuple[str, int]
"""What a model was asked: a prompt as it is on the disk, and a random seed."""


@dataclass(frozen=True, slots=True)
class Written:
    """A completion in a complete run."""

    record: Mapping[str, Any]
    targets: Callable[[], Targets] | None
    """Reads what was likely at each place, where that was noted."""
    seconds: float
    """Its share of the time that the draft took, by tokens."""

    @property
    def completion(self) -> Completion:
        """What the model returned then."""
        targets = self.targets() if self.targets else None
        return Completion(
            self.record["text"], self.record["tokens"], self.record["finished"], likelihood_of(self.record), targets
        )


class Recalling:
    """A model that is not asked for what runs beside its own have from it, after the same prompt and random seed."""

    def __init__(self, model: Model, known: Mapping[Asked, Written], events: Events) -> None:
        self.model = model
        self.known = known
        self.events = events

    @property
    def name(self) -> str:
        """What a person calls this model."""
        return self.model.name

    @property
    def chat(self) -> bool:
        """Whether it takes a `Chat` as prompt."""
        return self.model.chat

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, *, seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each prompt, in order, and log the time that was saved."""
        found = [self.known.get(asked(as_messages(prompt), seed)) for prompt, seed in zip(prompts, seeds, strict=True)]
        wanting = [i for i, one in enumerate(found) if one is None]
        new = [prompts[i] for i in wanting]
        fresh = iter(self.model.complete(new, sampling, seeds=[seeds[i] for i in wanting]) if new else [])
        saved = [one.seconds for one in found if one is not None]
        if saved:
            # Named for its first seed: a run that is killed before it can note what it recalled recalls it again.
            self.events.add(
                "recalled", name=_STAGE, of=str(seeds[0]), completions=len(saved), seconds=round(sum(saved), 2)
            )
        return [next(fresh) if one is None else one.completion for one in found]

    def score(self, pairs: Sequence[tuple[Prompt, str]], *, top_tokens: int = 0) -> list[Likelihood]:
        """Return the likelihood of each completion after its prompt."""
        return self.model.score(pairs, top_tokens=top_tokens)

    def distributions(self, pairs: Sequence[tuple[Prompt, str]], k: int) -> list[Targets] | None:
        """Return the `k` likeliest tokens at each place of each completion."""
        return self.model.distributions(pairs, k)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the length of each text in this model's tokens."""
        return self.model.count(texts)

    def with_adapter(self, adapter: Path | None) -> Recalling:
        """Return the same base model with other tuned weights; a prompt's random seed says which of them wrote."""
        return Recalling(self.model.with_adapter(adapter), self.known, self.events)


def recalling(
    backend: Callable[[Settings], Backend], folder: Path, settings: Settings, runs: Sequence[Path]
) -> Callable[[Settings], Backend]:
    """
    Return a backend whose model recalls the first round of complete runs, for a run in `folder` with these settings.

    All are runs of one study. Only those count whose models are the same by their settings. What is recalled was
    written in other company, so that rounding may differ from what the model would write now.
    """
    donors = [run for run in runs if same_writers(run, settings)]

    def made(chosen: Settings) -> Backend:
        opened = backend(chosen)
        known = {one: written for donor in donors for one, written in written_in(donor).items()}
        return replace(opened, model=Recalling(opened.model, known, Events(folder / "events.jsonl")))

    return made if donors else backend


def asked(prompt: Any, seed: int) -> Asked:
    """Return what stands for a prompt (as it is on the disk) with a random seed: runs use the same seeds for others."""
    return json.dumps(prompt, ensure_ascii=False), seed


def written_in(run: Path) -> dict[Asked, Written]:
    """Return what was completed in a run's first round, by what was asked."""
    written = snapshot(run / _ROUND)
    targets = targets_in(run / _ROUND, WRITTEN)
    done = {(record["id"], record["stage"]): record for record in written.each("completions.jsonl")}
    a_token = costs(run).get(_STAGE, 0.0) / max(1, sum(record["tokens"] for record in done.values()))
    found = {}
    for one in written.each("prompts.jsonl"):
        record = done[one["id"], one["stage"]]
        noted = targets.get(one["id"]) if one["stage"] == "answer" else None
        found[asked(one["prompt"], one["seed"])] = Written(record, noted, a_token * record["tokens"])
    return found
