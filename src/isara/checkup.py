"""The seed doctor at work: read the files, load what counts tokens and measures likeness, examine, put into words."""

from __future__ import annotations

from collections.abc import Iterator

from isara.api import choose_backend, read_inputs
from isara.doctor import Diagnosis, examine
from isara.heldout import as_examples
from isara.readers import Fields
from isara.settings import Settings


def check_seeds(
    seeds: str,
    settings: Settings,
    *,
    heldout: str | None = None,
    question_field: str | None = None,
    answer_field: str | None = None,
) -> Diagnosis:
    """Return what is to be said about samples before a run; raises SeedError where they cannot be read."""
    fields = Fields(question_field=question_field, answer_field=answer_field)
    samples, _ = read_inputs({"seeds": seeds, "heldout": heldout}, fields)
    # Counting tokens takes no server, and a check should not wait for one.
    here = settings.model.model_copy(update={"engine": "transformers"})
    backend = choose_backend(settings.model_copy(update={"model": here}))
    examples = as_examples(samples["seeds"], chat=backend.model.chat)
    return examine(
        samples["seeds"],
        count=backend.model.count,
        embedder=backend.embedder,
        settings=settings,
        heldout=samples["heldout"],
        lengths=backend.trainer.lengths(examples),
    )


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield a diagnosis as lines to print: what spoils a run first, then warnings, notes, topics and suggestions."""
    marks = {"spoils": "SPOILS THE RUN", "warning": "warning", "note": "note"}
    for level, mark in marks.items():
        for finding in diagnosis.findings:
            if finding.level == level:
                yield f"{mark}: {finding.words}"
    if diagnosis.clusters:
        yield "Topics:"
        for cluster in diagnosis.clusters:
            yield f"  {len(cluster.ids):3}  {cluster.name}"
    if diagnosis.suggestions:
        yield "Suggested settings:"
        for suggestion in diagnosis.suggestions:
            yield f"  --set {suggestion.setting}={suggestion.value}  (now {suggestion.current}): {suggestion.reason}"
    yield "This would spoil a run." if diagnosis.spoiled else "Nothing here would spoil a run."
