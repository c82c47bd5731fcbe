"""`isara score`: recorded answers of any model scored on a benchmark, without loading one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isara.errors import InputError
from isara.evals import ifeval, likeness, safety
from isara.evals.files import excerpt, missing, read_answers
from isara.evals.rates import Figure
from isara.protocols import Embedder
from isara.readers import read_seeds
from isara.rundir import write_jsonl

_NAMED = 50
Benchmark = Literal["ifeval", "safety", "heldout"]


@dataclass(frozen=True, slots=True)
class Scored:
    """What recorded answers came to."""

    rows: list[dict[str, Any]]
    """One for each answer, in the order of the file."""
    figures: list[Figure]
    notes: list[str]
    """What a reader must know beside the figures."""


def score_file(
    responses: str, benchmark: Benchmark, data: str | None, out: Path, embedder: Callable[[], Embedder]
) -> Scored:
    """
    Score a file of recorded answers, and write one row for each into `out`.

    `data` holds what the benchmark needs: IFEval's prompts with their instructions, reference answers, or prompts
    that say whether they are harmful. Raises SeedError with every row that cannot be read or matched, InputError
    where data is needed and none given.
    """
    if out.exists() and any(Path(source).exists() and out.samefile(source) for source in (responses, data or "")):
        raise InputError(f"--out {out}: this file is read from. Give another name, so that it stays as it is.")
    if benchmark == "ifeval":
        found = _ifeval(responses, _needed(data, "the benchmark's prompts with 'instruction_id_list' and 'kwargs'"))
    elif benchmark == "heldout":
        found = _heldout(responses, _needed(data, "questions with their reference answers"), embedder)
    else:
        found = _safety(responses, data)
    write_jsonl(out, found.rows)
    return found


def _ifeval(responses: str, data: str) -> Scored:
    items = ifeval.read_items(data)
    answers = read_answers(responses, items, data)
    rows = ifeval.score(answers, items)
    left = missing(answers, {key: item.prompt for key, item in items.items()})
    return Scored(rows, ifeval.figures(rows), unanswered(left, data))


def _heldout(responses: str, data: str, embedder: Callable[[], Embedder]) -> Scored:
    wanted = likeness.references(read_seeds(data, prefix="reference"))
    answers = read_answers(responses, wanted, data)
    rows = likeness.score(answers, wanted, embedder())
    return Scored(rows, likeness.figures(rows), unanswered(missing(answers, {key: key for key in wanted}), data))


def _safety(responses: str, data: str | None) -> Scored:
    known = safety.read_prompts(data) if data else None
    answers = read_answers(responses, known, data or "")
    left = missing(answers, {key: text for key, (text, _) in known.items()}) if known else []
    rows = safety.score(answers, known)
    caution = safety.caution(rows)
    return Scored(rows, safety.figures(rows), [*unanswered(left, data or ""), *([caution] if caution else [])])


def _needed(data: str | None, what: str) -> str:
    if data is None:
        raise InputError(f"--data is missing: it names the file with {what}.")
    return data


def unanswered(prompts: list[str], data: str) -> list[str]:
    """Name the prompts that nothing answered, the first 50 of them."""
    if not prompts:
        return []
    more = [f"  ... and {len(prompts) - _NAMED} more"] if len(prompts) > _NAMED else []
    heading = f"{len(prompts)} prompts of {data} have no response here and are not counted:"
    return [heading, *(f"  {excerpt(prompt)}" for prompt in prompts[:_NAMED]), *more]
