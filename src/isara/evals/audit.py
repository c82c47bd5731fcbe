"""
Whether a judge can be trusted: agreement with a second judge, and with people where their labels are there.

The rule: where two model judges agree with an alpha above 0.5, the task is one that models label about as people do
(Ahmed et al. 2024, arXiv 2408.05534: over ten labelling tasks of software engineering, agreement between models went
with agreement between models and people, Spearman 0.65). It comes from ten tasks of one field, so it is a setting and
no law; and two judges of one family agree too easily. On tasks that pass, labels given with high confidence may be
taken; the others go to a person.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isara.errors import SeedError
from isara.evals.agreement import Agreement, Level, agreement
from isara.evals.files import excerpt, plain, read_rows, records_of
from isara.evals.rates import Figure, share
from isara.stats import mean_interval

LEAST = 0.5
"""Alpha below which a judge's score is not printed."""

Label = Hashable
_FIELDS = ("label", "refused", "verdict", "strict", "human_label", "score")


@dataclass(frozen=True, slots=True)
class Labels:
    """What one judge said of each item."""

    name: str
    labels: Mapping[str, Label]
    """By the item's id, or by its prompt where it has none."""
    confidences: Mapping[str, float]
    """How sure the judge was, from 0 to 1, where it said."""


@dataclass(frozen=True, slots=True)
class Pair:
    """How far two judges agree."""

    first: str
    second: str
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Gate:
    """What is left of a judge when it abstains from all that it is less sure of."""

    tau: float
    delegated: float
    """Share of the items that it labels."""
    agreement: Agreement
    """On these items, with the people where there are any, else with the other judge."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether a judge's score may be printed, and why."""

    trusted: bool
    verdict: tuple[str, ...]
    """Plain sentences, the decision first."""
    pairs: tuple[Pair, ...]
    level: Level
    least: float
    gates: tuple[Gate, ...]
    abstained: tuple[str, ...]
    """Items that the first judge was less sure of than asked for."""

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return asdict(self)


def read_labels(
    source: str, name: str, *, field: str | None = None, equated: Mapping[str, str] | None = None
) -> Labels:
    """
    Return a file's labels by id, or by prompt where rows have no id.

    The field is `label`, `refused`, `verdict`, `strict`, `human_label` or `score`, unless `field` names another one;
    `equated` says which labels mean the same ("2_full_refusal" for "true"). `confidence` or `probability` says how
    sure the judge was. Raises SeedError with every row without a label, and where two rows are about the same item.
    """
    labels: dict[str, Label] = {}
    confidences: dict[str, float] = {}
    mistakes = []
    for where, record in records_of(read_rows(source)):
        key = _key(record)
        value = next((record[name] for name in ([field] if field else _FIELDS) if name in record), None)
        if key is None or isinstance(value, (list, dict)) or (value is None and field and field not in record):
            there = ", ".join(map(str, record))
            mistakes.append(f"{where}: no id or prompt, or no '{field or 'label'}' here (found: {there}).")
        elif key in labels:
            mistakes.append(f"{where}: a second label for {excerpt(key)!r}. Leave one for each item.")
        elif value is not None and value != "":
            labels[key] = _label(value, equated or {})
            sure = record.get("confidence", record.get("probability"))
            if isinstance(sure, (int, float)):
                # The probability of a refusal is low where the judge is sure that there is none.
                confidences[key] = max(float(sure), 1 - float(sure)) if "confidence" not in record else float(sure)
    if mistakes:
        raise SeedError(mistakes)
    return Labels(name, labels, confidences)


def audit(
    judges: Sequence[Labels],
    human: Labels | None = None,
    *,
    level: Level = "nominal",
    least: float = LEAST,
    tau: float = 0.0,
    confidence: float = 0.95,
) -> Audit:
    """
    Return whether the first judge's score may be printed, by its agreement with the second one and with people.

    Raises SeedError where two judges share no item.
    """
    others = [*judges[1:], *([human] if human else [])]
    pairs = tuple(Pair(judges[0].name, other.name, _agreed(judges[0], other, level, confidence)) for other in others)
    if human is not None and len(judges) > 1:
        pairs += (Pair(judges[1].name, human.name, _agreed(judges[1], human, level, confidence)),)
    deciding = [pair for pair in pairs if judges[0].name in (pair.first, pair.second)]
    trusted = bool(deciding) and all(_passes(pair.agreement, least) for pair in deciding)
    reference = human or (judges[1] if len(judges) > 1 else None)
    gates = tuple(_gates(judges[0], reference, level, confidence)) if reference else ()
    sure = judges[0].confidences
    abstained = tuple(key for key in judges[0].labels if key in sure and sure[key] < tau)
    return Audit(trusted, tuple(_verdict(judges, pairs, deciding, least)), pairs, level, least, gates, abstained)


def _agreed(first: Labels, second: Labels, level: Level, confidence: float, keys: set[str] | None = None) -> Agreement:
    shared = [key for key in first.labels if key in second.labels and (keys is None or key in keys)]
    if not shared and keys is None:
        raise SeedError(
            [f"{first.name} and {second.name} share no item. Both need the same ids, or the same prompts and no ids."]
        )
    return agreement([(first.labels[key], second.labels[key]) for key in shared], level, confidence=confidence)


def _gates(judge: Labels, reference: Labels, level: Level, confidence: float) -> list[Gate]:
    """Return the agreement that is left as the judge abstains from more and more, where it said how sure it was."""
    sure = {key: judge.confidences[key] for key in judge.labels if key in judge.confidences and key in reference.labels}
    found = []
    for tau in (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99) if sure else ():
        keys = {key for key, value in sure.items() if value >= tau}
        if keys:
            left = _agreed(judge, reference, level, confidence, keys)
            found.append(Gate(tau, len(keys) / len(sure), left))
    return found


def _passes(found: Agreement, least: float) -> bool:
    return found.alpha is not None and found.alpha >= least


def _verdict(judges: Sequence[Labels], pairs: Sequence[Pair], deciding: Sequence[Pair], least: float) -> list[str]:
    name = judges[0].name
    if not deciding:
        return [f"Do not use {name}: there is no second judge and no human label to hold it against."]
    failed = [pair for pair in deciding if not _passes(pair.agreement, least)]
    said = [f"{_capital(name)} can be used: it agrees with {_listed(deciding)} at an alpha of {least:g} or more."]
    if failed:
        said = [
            f"Do not use {name}: its agreement with {_listed(failed)} is below an alpha of {least:g}, or undefined."
        ]
    said += [_sentence(pair, least) for pair in pairs]
    if len(judges) > 1:
        said.append("Two judges of one family, or one prompt, agree too easily; human labels settle it.")
    return said


def _sentence(pair: Pair, least: float) -> str:
    found = pair.agreement
    who = f"{_capital(pair.first)} and {pair.second}, {found.n} items:"
    if found.alpha is None:
        return f"{who} alpha is undefined, since only one label was ever given or no item has two."
    if found.low is None or found.high is None:
        return f"{who} alpha {found.alpha:.3f}, too few items for an interval."
    unsure = f"; the interval holds {least:g}, so more items could change the decision"
    return (
        f"{who} alpha {found.alpha:.3f} ({found.low:.3f} to {found.high:.3f}), the same label on "
        f"{found.agreeing or 0:.1%}{unsure if found.low < least <= found.high else ''}."
    )


def _listed(pairs: Sequence[Pair]) -> str:
    return " and ".join(pair.second for pair in pairs)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _key(record: Mapping[str, Any]) -> str | None:
    """Return what names an item: its id with the model that answered, where several did, or its prompt."""
    given = record.get("id", record.get("key"))
    if given is not None and str(given).strip():
        return " ".join(str(part) for part in (record.get("model"), given) if part)
    prompt = record.get("prompt")
    return plain(prompt) if isinstance(prompt, str) and prompt.strip() else None


def _label(value: Any, equated: Mapping[str, str]) -> Label:
    """Return a label so that JSON and CSV give the same: truth values and numbers as such, other text folded."""
    text = str(value).strip().casefold()
    text = equated.get(text, text)
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text)
    except ValueError:
        return text


def judged_score(judge: Labels, level: Level, confidence: float = 0.95) -> list[Figure]:
    """Return what a judge's labels come to: the mean of numbers, or the share of each label with its interval."""
    values = list(judge.labels.values())
    if level != "nominal":
        return [Figure("mean label", mean_interval([float(str(value)) for value in values], confidence=confidence))]
    return [
        Figure(f"share of {str(label).lower()}", share([value == label for value in values], confidence))
        for label in sorted(set(values), key=str)
    ]
