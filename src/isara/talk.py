"""Asking the untouched model and the tuned one the same things, to hear the difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from isara.api import choose_backend
from isara.config import recorded
from isara.errors import RunError
from isara.heldout import bare_prompt
from isara.manifest import arms_in
from isara.protocols import Model, Sampling
from isara.rundir import read_json
from isara.settings import Settings
from isara.summary import summarise


def talk(run: Path, arm: str | None, *, ask: Callable[[], str | None], answer: Callable[[str], None]) -> None:
    """
    Answer each line that `ask` brings, by the untouched model and by an arm's, until it brings None.

    Each question stands alone, as in the held-out scores. Raises RunError where the run has no such arm.
    """
    path = run / "manifest.json"
    settings = recorded(read_json(path)["settings"], path)
    chosen = arm or summarise(run)["best"]
    adapter = run / str(chosen) / "adapter"
    if chosen is None:
        raise RunError(f"{run}: nothing is tuned yet. Start the run again to go on, then talk to it.")
    if chosen != "base" and (chosen not in arms_in(run) or not adapter.exists()):
        raise RunError(f"{run}: no tuned weights for {chosen!r}. `isara status {run}` lists the arms.")
    base = choose_backend(settings).model
    models = {"base": base} if chosen == "base" else {"base": base, str(chosen): base.with_adapter(adapter)}
    while (question := ask()) is not None:
        if question.strip():
            for name, model in models.items():
                answer(f"{name}> {reply(model, question.strip(), settings)}")


def reply(model: Model, question: str, settings: Settings) -> str:
    """Return a model's most likely answer to a question."""
    sampling = Sampling(max(256, settings.answers.max_tokens), stop=() if model.chat else ("\nQuestion:",))
    return model.complete([bare_prompt(question, chat=model.chat)], sampling, seeds=[0])[0].text.strip()
