"""`isara.align`: from samples to a tuned model, in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isara import manifest, summary
from isara.backends.address import refuse_secrets
from isara.config import load
from isara.context import Run, warnings_told
from isara.errors import InputError, SettingsError
from isara.events import Event, Watch, quiet
from isara.heldout import split
from isara.lock import locked
from isara.loop import run_loop
from isara.protocols import Embedder, Model, Trainer
from isara.readers import Fields, from_records, read_seeds, sha256_of
from isara.report import write_report
from isara.rundir import fingerprint
from isara.samples import Sample
from isara.seal import examine, mend, refuse, seal
from isara.settings import Settings
from isara.vectors import how

Seeds = str | Path | Iterable[Any]
"""A file, a dataset name, a shipped seed set, or records already in memory."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The three slow things, and what identifies them."""

    model: Model
    embedder: Embedder
    trainer: Trainer
    model_facts: Mapping[str, Any]
    embedder_facts: Mapping[str, Any]
    said: tuple[str, ...] = ()
    """What was chosen, and why, in sentences for the reader."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to."""

    run: Path
    """The run directory."""
    adapter: Path | None
    """The best tuned weights; None where the untouched model was best."""
    best: str
    """The arm they belong to: `round-1`, `seeds-only`, `base`."""
    verdict: tuple[str, ...]
    """Plain sentences, the winner first."""
    scores: Mapping[str, float]
    """Mean held-out NLL per token of each arm, in nats; lower is better."""
    rounds: tuple[Mapping[str, Any], ...]
    """`round.json` of each round."""


def align(
    seeds: Seeds,
    *,
    model: str | None = None,
    out: str | Path = "runs/latest",
    settings: Settings | Sequence[str] = (),
    heldout: Seeds | None = None,
    test: Seeds | None = None,
    force: bool = False,
    backend: Callable[[Settings], Backend] | None = None,
    watch: Watch = quiet,
    question_field: str | None = None,
    answer_field: str | None = None,
) -> Result:
    """
    Teach a model from samples, and return the tuned weights with the evidence.

    `seeds`, `heldout` and `test` are files, dataset names or records; `settings` is a Settings or a list like
    `["rounds=3", "train.rank=8"]`. Called again with the same `out`, it goes on where it stopped. Raises SeedError
    for samples that cannot be read, SettingsError, RunError where `out` holds another run, BackendError.
    """
    chosen = settings if isinstance(settings, Settings) else load(None, list(settings))
    if model is not None:
        chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"name": model})})
    refuse_secrets(chosen.server)
    fields = Fields(question_field=question_field, answer_field=answer_field)
    samples, inputs = read_inputs({"seeds": seeds, "heldout": heldout, "test": test}, fields)
    folder = Path(out)
    manifest.refuse_strangers(folder)
    with locked(folder) as killed:
        learned, judged = samples["seeds"], samples["heldout"]
        if heldout is None:
            learned, judged = split(learned, chosen.split, chosen.seed)
        refuse_shared(learned, judged, samples["test"])
        made, embedder_facts = opened(chosen, backend or choose_backend, len(learned), watch)
        name = folder.resolve().name
        wanted = manifest.describe(name, chosen, inputs, made.model_facts, embedder_facts, sys.argv)
        if killed:
            watch(Event("say", {"text": f"The last {killed}, did not end by itself: taken over.", "level": "info"}))
        bring_in_order(folder, wanted, watch, force=force)
        slow = (made.model, made.embedder, made.trainer)
        run = Run(folder, chosen, *slow, learned, judged, samples["test"], watch, force)
        with warnings_told(run):
            run_loop(run)
        found = summary.write_summary(folder)
        write_report(folder)
        seal(folder, complete=True)
    return as_result(folder, found)


def opened(
    chosen: Settings, backend: Callable[[Settings], Backend], seeds: int, watch: Watch
) -> tuple[Backend, dict[str, Any]]:
    """Return the three slow things, and the embedder's facts with the search that a run of this size depends on."""
    watch(Event("stage", {"name": "load", "label": "loading", "kind": "load", "units": 1, "prior": 20}))
    made = backend(chosen)
    watch(Event("finish", {"name": "load"}))
    search, words = how(most_questions(chosen, seeds))
    for sentence in (*made.said, *([words] if words else [])):
        watch(Event("say", {"text": sentence, "level": "info"}))
    return made, {**made.embedder_facts, **({"search": search} if search else {})}


def bring_in_order(folder: Path, wanted: dict[str, Any], watch: Watch, *, force: bool) -> None:
    """Compare a run directory with its hashes and with what is asked for; what is stale or damaged is made way for."""
    damage = examine(folder)
    told = manifest.settle(folder, wanted, force=force, ready=lambda kept: refuse(folder, damage, kept, force=force))
    for sentence in (*told, *mend(folder, damage, force=force)):
        watch(Event("say", {"text": sentence, "level": "warning"}))


def most_questions(settings: Settings, seeds: int) -> int:
    """Return the most questions that a run may come to compare new ones with."""
    return seeds + settings.rounds * int(settings.target.accepted * settings.target.budget)


def as_result(folder: Path, found: Mapping[str, Any]) -> Result:
    """Return a summary as a Result."""
    return Result(
        run=folder,
        adapter=folder / found["adapter"] if found["adapter"] else None,
        best=str(found["best"]),
        verdict=tuple(found["verdict"]),
        scores={row["arm"]: row["mean"] for row in found["heldout"]["arms"]},
        rounds=tuple(found["rounds"]),
    )


def read_inputs(sources: Mapping[str, Seeds | None], fields: Fields) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    """Return the samples of each source, and what the manifest says of them."""
    samples: dict[str, list[Sample]] = {}
    inputs: dict[str, Any] = {}
    for part, source in sources.items():
        prefix = "seed" if part == "seeds" else part
        if source is None:
            samples[part], inputs[part] = [], None
            continue
        if isinstance(source, str | Path):
            samples[part] = read_seeds(source, prefix=prefix, **fields)
            path = str(source)
        else:
            source = list(source)
            samples[part] = from_records(source, prefix=prefix, **fields)
            path = "(in memory)"
        read = [[sample.question, sample.answer] for sample in samples[part]]
        # The same file read by other fields is other samples, so what was read has a hash of its own.
        content = fingerprint(read)
        facts = {"path": path, "sha256": sha256_of(source, **fields), "samples": len(read), "content": content}
        inputs[part] = facts
    return samples, inputs


def refuse_shared(seeds: Sequence[Sample], heldout: Sequence[Sample], test: Sequence[Sample]) -> None:
    """Raise InputError where a held-out or a test question is also a seed: the scores would mean nothing."""
    known = {plain(sample.question): sample.id for sample in seeds}
    shared = [(s.id, known[plain(s.question)]) for s in (*heldout, *test) if plain(s.question) in known]
    judged = {plain(sample.question): sample.id for sample in heldout}
    shared += [(s.id, judged[plain(s.question)]) for s in test if plain(s.question) in judged]
    if shared:
        raise InputError(
            f"{len(shared)} samples are both learned from and judged by, or in two sets of judges "
            f"(first: {shared[0][0]} is {shared[0][1]}). Remove them from one file; `isara check` lists them."
        )


def plain(text: str) -> str:
    """Return text without case and spacing, for comparing questions."""
    return " ".join(text.casefold().split())


def choose_backend(settings: Settings) -> Backend:
    """Return the stand-ins for `scripted`, else the real model, embedder and trainer."""
    name = settings.model.name
    if name == "scripted":
        from isara.testing import HashEmbedder, ScriptedModel, ScriptedTrainer

        return Backend(
            ScriptedModel(remember=False), HashEmbedder(), ScriptedTrainer(), {"name": "scripted"}, {"name": "hash"}
        )
    return real_backend(settings)


def real_backend(settings: Settings) -> Backend:
    """Load the real model's checkpoint and embedder; raises SettingsError where their libraries are missing."""
    try:
        from isara.backends.checkpoints import locate
        from isara.backends.engines import open_engine
        from isara.backends.template import departures
        from isara.backends.training import TransformersTrainer
        from isara.backends.trust import Trust
    except ModuleNotFoundError as error:
        raise SettingsError(
            f'model.name: {settings.model.name!r} needs {error.name}. Run: pip install "isara[hf]", '
            "or use --model scripted for a preview."
        ) from error
    wanted = settings.model
    trust = Trust(pickle=wanted.allow_pickle, code=wanted.trust_remote_code)
    checkpoint = locate(wanted.name, wanted.revision, trust)
    engine = open_engine(checkpoint, settings)
    embedder, embedder_facts = choose_embedder(
        wanted.embedder, wanted.device, allow_pickle=trust.pickle, trust_remote_code=trust.code
    )
    trainer = TransformersTrainer(
        checkpoint, settings.train, device=wanted.device, dtype=wanted.dtype, beside=engine.model, int8=engine.int8
    )
    template = trainer.encoder.template
    facts = {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "chat": engine.model.chat,
        "engine": engine.name,
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "device": str(trainer.device),
        **engine.facts,
    }
    said = (engine.why, *engine.notes, *trust.told(), *departures(template))
    return Backend(engine.model, embedder, trainer, facts, embedder_facts, said)


def choose_embedder(
    name: str, device: str = "auto", *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> tuple[Embedder, dict[str, Any]]:
    """Return an embedder and what identifies it; raises SettingsError where its library is missing."""
    if name == "hash":
        from isara.testing import HashEmbedder

        return HashEmbedder(), {"name": "hash"}
    try:
        from isara.backends.embed import SentenceEmbedder
        from isara.backends.trust import Trust

        real = SentenceEmbedder(name, device=device, trust=Trust(allow_pickle, trust_remote_code))
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"model.embedder: {name!r} needs {error.name}. Run: pip install \"isara[hf]\", or take the embedder 'hash'."
        ) from error
    return real, {"name": real.name, "sha256": real.sha256}
