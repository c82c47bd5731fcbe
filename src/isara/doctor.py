"""
The seed doctor: looks at samples before anything slow is done with them.

Whatever is wrong with thirty samples is wrong with everything that is generated from them, and a question that is
both trained on and held out makes any result worthless. Both are cheap to see beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from isara.advice import Measured, Suggestion, held_out, suggest
from isara.likeness import overlaps, repeats
from isara.protocols import Embedder
from isara.samples import Sample
from isara.settings import Settings
from isara.symptoms import Finding, blank_lines, cut_off, left_out, odd_lengths, too_long
from isara.topics import Topic, topics

_ORDER = ("spoils", "warning", "note")
_FEWEST_SEEDS = 8
_FEW = 30
_LOPSIDED = 0.6
# Half of an arbitrary set of sentences reaches about 0.1 as a topic, thirty questions about one thing about 0.3.
_SET_OFF = 0.15


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found in a set of samples, and the settings that suit it."""

    findings: tuple[Finding, ...]
    """What spoils the outcome first, then warnings, then notes."""
    clusters: tuple[Topic, ...]
    """Topics of the questions, the largest first; each is named by its most central question."""
    suggestions: tuple[Suggestion, ...]

    @property
    def spoiled(self) -> bool:
        """Whether something makes the outcome worthless."""
        return any(finding.level == "spoils" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return {
            "spoiled": self.spoiled,
            "findings": [finding.to_json() for finding in self.findings],
            "clusters": [topic.to_json() for topic in self.clusters],
            "suggestions": [suggestion.to_json() for suggestion in self.suggestions],
        }


def examine(
    samples: Sequence[Sample],
    *,
    count: Callable[[Sequence[str]], list[int]],
    embedder: Embedder,
    settings: Settings,
    heldout: Sequence[Sample] = (),
    lengths: Sequence[int] | None = None,
) -> Diagnosis:
    """
    Return what is wrong with samples, what they are about, and which settings suit them.

    `count` gives the tokens of each text, `lengths` the training length of each sample in tokens, template included
    (None: question and answer alone). Without `heldout` samples it is taken that some of these will be held out.
    Raises ValueError when there is not one length for each sample.
    """
    if lengths is not None and len(lengths) != len(samples):
        raise ValueError(f"{len(lengths)} training lengths for {len(samples)} samples.")
    findings = list(_amount(len(samples), heldout, settings))
    if not samples:
        return Diagnosis(tuple(findings), (), ())
    questions, answers = [sample.question for sample in samples], [sample.answer for sample in samples]
    tokens = count([*questions, *answers])
    measured = Measured(tokens[: len(samples)], tokens[len(samples) :], lengths)
    vectors = embedder.embed([*questions, *(sample.question for sample in heldout)])
    own, others = vectors[: len(samples)], vectors[len(samples) :]
    groups = topics(samples, own)
    findings += [
        *overlaps(samples, heldout, own, others, settings.filter),
        *repeats(samples, own, settings.filter),
        *_symptoms(samples, measured, settings),
        *_imbalance(groups, len(samples)),
    ]
    findings.sort(key=lambda finding: _ORDER.index(finding.level))
    return Diagnosis(tuple(findings), groups, suggest(samples, measured, settings, own_heldout=bool(heldout)))


def _symptoms(samples: Sequence[Sample], measured: Measured, settings: Settings) -> Iterator[Finding]:
    pairs = zip(measured.questions, measured.answers, strict=True)
    training = measured.training if measured.training is not None else [sum(pair) for pair in pairs]
    yield from too_long(samples, training, settings.train)
    yield from left_out(samples)
    yield from cut_off(samples)
    yield from blank_lines(samples, settings.answers.style)
    yield from odd_lengths(samples, "question", measured.questions)
    yield from odd_lengths(samples, "answer", measured.answers)


def _amount(samples: int, heldout: Sequence[Sample], settings: Settings) -> Iterator[Finding]:
    least = settings.split.least
    away = 0 if heldout else held_out(samples, settings.split)
    left = max(0, samples - away)
    some = f"{samples} {'sample' if samples == 1 else 'samples'}"
    if left < _FEWEST_SEEDS:
        after = "" if heldout else f", and {left} after {away} are held out"
        fix = f"Bring at least {_FEW}." if heldout else f"Bring at least {_FEW}, or held-out samples of their own."
        yield Finding("spoils", "too few", (), f"There are {some}{after}: too few to learn a domain from. {fix}")
    elif samples < _FEW:
        words = f"There are only {some}. The loop is meant for {_FEW} to 100: with fewer it soon repeats itself."
        yield Finding("warning", "too few", (), f"{words} Write some more.")
    if heldout and len(heldout) < least:
        words = f"There are only {len(heldout)} held-out samples, which show none but very large differences."
        yield Finding("warning", "few held out", (), f"{words} Bring at least {least}, better 16 or more.")


def _imbalance(groups: Sequence[Topic], samples: int) -> Iterator[Finding]:
    if groups[0].size < _LOPSIDED * samples or groups[0].silhouette < _SET_OFF:
        return
    largest = groups[0]
    words = f"{largest.size} of {samples} are about the same thing, such as '{largest.name[:80]}'."
    fix = "What is generated will be lopsided too: write more about the rest, or remove some of these."
    yield Finding("warning", "imbalance", largest.ids, f"{words} {fix}")
