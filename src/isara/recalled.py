"""Completions that runs of a study have in common: what one run's model wrote, another run recalls and does not ask."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Written:
    """A completion in a complete run."""

    prompt: Any
    """As it is on the disk."""
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

    def __init__(self, model: Model, known: Mapping[int, Written], events: Events) -> None:
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
        found = [self.recalled(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        wanting = [i for i, one in enumerate(found) if one is None]
        asked = [prompts[i] for i in wanting]
        fresh = iter(self.model.complete(asked, sampling, seeds=[seeds[i] for i in wanting]) if asked else [])
        saved = [one.seconds for one in found if one is not None]
        if saved:
            # Named for its first seed: a run that is killed before it can note what it recalled recalls it again.
            self.events.add(
                "recalled", name=_STAGE, of=str(seeds[0]), completions=len(saved), seconds=round(sum(saved), 2)
            )
        return [next(fresh) if one is None else one.completion for one in found]

    def recalled(self, prompt: Prompt, seed: int) -> Written | None:
        """Return what was written after a prompt with a random seed, where it was."""
        one = self.known.get(seed)
        return one if one is not None and one.prompt == as_messages(prompt) else None

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
        known = {seed: one for donor in donors for seed, one in written_in(donor).items()}
        return replace(opened, model=Recalling(opened.model, known, Events(folder / "events.jsonl")))

    return made if donors else backend


def written_in(run: Path) -> dict[int, Written]:
    """Return what was completed in a run's first round, by random seed."""
    written = snapshot(run / _ROUND)
    targets = targets_in(run / _ROUND, WRITTEN)
    done = {(record["id"], record["stage"]): record for record in written.each("completions.jsonl")}
    a_token = costs(run).get(_STAGE, 0.0) / max(1, sum(record["tokens"] for record in done.values()))
    found = {}
    for asked in written.each("prompts.jsonl"):
        record = done[asked["id"], asked["stage"]]
        noted = targets.get(asked["id"]) if asked["stage"] == "answer" else None
        found[asked["seed"]] = Written(asked["prompt"], record, noted, a_token * record["tokens"])
    return found
