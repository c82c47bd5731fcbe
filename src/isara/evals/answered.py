"""Benchmarks on which a model writes answers: IFEval, safety, AlpacaEval, and the held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isara.errors import SeedError
from isara.evals import ifeval, likeness, safety
from isara.evals.benchmark import Benchmark, Measure, Rows
from isara.evals.files import Answer, read_rows, records_of
from isara.heldout import bare_prompt, refuse_nan
from isara.prompts import SEPARATORS, answer_stops
from isara.protocols import Embedder, Model, Sampling
from isara.rundir import fingerprint, write_json
from isara.samples import Sample

CHUNK = 32


def answers_of(
    model: Model, prompts: Sequence[str], names: Sequence[str], most: int
) -> tuple[list[Answer], list[bool]]:
    """Return a model's most likely answer to each bare prompt, of `most` tokens, and whether it had ended."""
    stops = () if model.chat else answer_stops("text", SEPARATORS[0])[:2]
    done = model.complete(
        [bare_prompt(prompt, chat=model.chat) for prompt in prompts],
        Sampling(most, stop=stops),
        seeds=[0] * len(prompts),
    )
    answers = [
        Answer(name, prompt, completion.text.strip(), name, {})
        for name, prompt, completion in zip(names, prompts, done, strict=True)
    ]
    return answers, [completion.finished for completion in done]


def merged(answers: Sequence[Answer], finished: Sequence[bool], scored: Rows) -> Rows:
    """Return scored rows with the answer in each."""
    return [
        {"id": answer.id, "prompt": answer.prompt, "response": answer.response, "finished": ended} | row
        for answer, ended, row in zip(answers, finished, scored, strict=True)
    ]


def on_ifeval(source: str, limit: int | None, most: int) -> Benchmark:
    """Return IFEval with the items of a file."""
    items = ifeval.read_items(source)
    chosen = list(items.values())[:limit]

    def perform(model: Model, some: Sequence[ifeval.Item]) -> Rows:
        names = [fingerprint(item.prompt)[:8] for item in some]
        answers, finished = answers_of(model, [item.prompt for item in some], names, most)
        return merged(answers, finished, ifeval.score(answers, items))

    return Benchmark(
        "ifeval",
        chosen,
        {
            "items": fingerprint([[item.prompt, item.instructions, item.arguments] for item in chosen]),
            "max_tokens": most,
        },
        perform,
        (
            Measure("prompts followed, strict", "strict", "higher"),
            Measure("prompts followed, loose", "loose", "higher"),
        ),
        CHUNK,
        more=lambda rows, confidence: ifeval.figures(rows, confidence)[1::2],
    )


def on_safety(sources: Sequence[str], limit: int | None, most: int) -> Benchmark:
    """Return refusal and over-refusal on the prompts of files; `limit` takes so many of each."""
    known: dict[str, tuple[str, str | None]] = {}
    for source in sources:
        known |= dict(list(safety.read_prompts(source).items())[:limit])
    items = list(known.values())

    def perform(model: Model, some: Sequence[tuple[str, str | None]]) -> Rows:
        names = [fingerprint(text)[:8] for text, _ in some]
        answers, finished = answers_of(model, [text for text, _ in some], names, most)
        return merged(answers, finished, safety.score(answers, known))

    caution = safety.caution([{"kind": kind} for _, kind in items])
    return Benchmark(
        "safety",
        items,
        {"items": fingerprint(items), "max_tokens": most},
        perform,
        (
            Measure("harmful prompts refused", "refused", "higher", ("kind", safety.HARMFUL)),
            Measure("safe prompts refused (over-refusal)", "refused", "lower", ("kind", safety.SAFE)),
            Measure("prompts of unknown kind refused", "refused", "higher", ("kind", None)),
        ),
        CHUNK,
        notes=(caution,) if caution else (),
    )


def on_alpacaeval(source: str, limit: int | None, most: int) -> Benchmark:
    """Return AlpacaEval's instructions; each arm's folder gets a `model_outputs.json` that the official tool takes."""
    items, mistakes = [], []
    for where, record in records_of(read_rows(source)):
        if isinstance(record.get("instruction"), str) and record["instruction"].strip():
            items.append({key: record[key] for key in ("instruction", "dataset", "output") if record.get(key)})
        else:
            mistakes.append(f"{where}: no 'instruction' here (found: {', '.join(map(str, record))}).")
    if mistakes:
        raise SeedError(mistakes)
    items = items[:limit]

    def perform(model: Model, some: Sequence[dict[str, Any]]) -> Rows:
        names = [fingerprint(item["instruction"])[:8] for item in some]
        answers, finished = answers_of(model, [item["instruction"] for item in some], names, most)
        rows = merged(
            answers, finished, [{"dataset": item.get("dataset"), "reference": item.get("output")} for item in some]
        )
        return [row | {"words": len(row["response"].split())} for row in rows]

    return Benchmark(
        "alpacaeval",
        items,
        {"items": fingerprint(items), "max_tokens": most},
        perform,
        (Measure("answers that had ended", "finished", "higher"),),
        CHUNK,
        notes=("Whether answers are good is for a judge to say: --judge, or the official tool on model_outputs.json.",),
        write=write_outputs,
    )


def write_outputs(folder: Path, generator: str, rows: Rows) -> None:
    """Leave `model_outputs.json`: a list of instruction, output, generator and, where known, dataset."""
    outputs = [
        {"instruction": row["prompt"], "output": row["response"], "generator": generator}
        | ({"dataset": row["dataset"]} if row.get("dataset") else {})
        for row in rows
    ]
    write_json(folder / "model_outputs.json", outputs)


def on_heldout(samples: Sequence[Sample], source: str, most: int, embedder: Callable[[], Embedder]) -> Benchmark:
    """Return the held-out samples: likelihood of the reference answers, and written answers held against them."""
    wanted = likeness.references(samples)

    def perform(model: Model, some: Sequence[Sample]) -> Rows:
        scored = model.score([(bare_prompt(s.question, chat=model.chat), s.answer) for s in some])
        refuse_nan(model, [sample.id for sample in some], scored)
        answers, finished = answers_of(model, [s.question for s in some], [s.id for s in some], most)
        rows = merged(answers, finished, likeness.score(answers, wanted, embedder()))
        return [
            row | {"reference": sample.answer, "nll": round(likelihood.nll, 6), "tokens": likelihood.tokens}
            for row, sample, likelihood in zip(rows, some, scored, strict=True)
        ]

    return Benchmark(
        "heldout",
        list(samples),
        {"items": fingerprint([[s.question, s.answer] for s in samples]), "max_tokens": most},
        perform,
        (
            Measure("NLL per token of the reference answer", "nll", "lower"),
            Measure("ROUGE-L with the reference", "rouge_l", "higher"),
            Measure("embedding similarity with the reference", "similarity", "higher"),
        ),
        CHUNK,
        notes=(f"Samples: {source}.",),
    )
