"""The one record everything is made of: a question and its answer, with where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """A question/answer pair."""

    id: str
    """Unique within a run: `seed-7` for a row of the seed file, `r2-00041` for a candidate of round 2."""
    question: str
    answer: str
    round: int = 0
    """The round that generated it; 0 for what a person wrote."""
    parents: tuple[str, ...] = ()
    """Ids of the demonstrations it was shown, for the question and then for the answer; empty for seeds."""

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Sample:
        """Rebuild a sample from what `to_json` made; other keys in `record` are ignored."""
        return Sample(
            id=record["id"],
            question=record["question"],
            answer=record["answer"],
            round=record.get("round", 0),
            parents=tuple(record.get("parents", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return asdict(self)


def dumps(record: Mapping[str, Any]) -> str:
    """Return one line of JSON: UTF-8 kept as it is, keys in the order given, no newline inside."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file that isara itself wrote; an absent file has none."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def read_samples(path: Path) -> list[Sample]:
    """Return the samples of a JSONL file that isara itself wrote."""
    return [Sample.from_json(record) for record in read_jsonl(path)]


def to_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return records as JSONL text, one line each, each ended by a newline."""
    return "".join(dumps(record) + "\n" for record in records)
