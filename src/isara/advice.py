"""Settings that suit these samples better than the present ones, each with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isara.samples import Sample
from isara.settings import Settings, SplitSettings
from isara.symptoms import word_counts

_ROOM = 1.25
_ROOMY = 4
_HELDOUT_WANTED = 16
_HELDOUT_ENOUGH = 100
_FEWEST_STEPS = 16
_MOST_EPOCHS = 10.0
_MANY_SEEDS = 400
# Generated samples for each seed: 4 to 11 times are reported for ISARA (arXiv 2401.06785).
_EXPANSION = (4, 6, 11)
_PLENTY = 150
_FRAME = 16


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A value for a setting, and why."""

    setting: str
    """Section and name, such as `answers.max_tokens`."""
    value: int | float
    current: int | float
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Measured:
    """Lengths of each sample in tokens of the chosen model."""

    questions: Sequence[int]
    answers: Sequence[int]
    training: Sequence[int] | None = None
    """With the template around them, where that is known."""


def held_out(samples: int, split: SplitSettings) -> int:
    """Return how many of the samples a split holds out."""
    return max(split.least, round(samples * split.heldout))


def suggest(
    samples: Sequence[Sample], measured: Measured, settings: Settings, *, own_heldout: bool
) -> tuple[Suggestion, ...]:
    """Return the settings to change for these samples; `own_heldout` says that the held-out ones are others."""
    if not samples:
        return ()
    left = len(samples) if own_heldout else max(1, len(samples) - held_out(len(samples), settings.split))
    found = list(_tokens(measured, settings))
    for part in ("question", "answer"):
        texts = [sample.question if part == "question" else sample.answer for sample in samples]
        found += _words(part, texts, settings)
    if not own_heldout:
        found += _split(len(samples), settings.split)
    found += [*_shown(left, settings), *_target(left, settings), *_epochs(left, settings)]
    return tuple(found)


def _tokens(measured: Measured, settings: Settings) -> Iterator[Suggestion]:
    limits = {}
    for name, longest, current in (
        ("question", max(measured.questions), settings.questions.max_tokens),
        ("answer", max(measured.answers), settings.answers.max_tokens),
    ):
        fitting = _up(longest * _ROOM, 16)
        limits[name] = max(current, fitting if current < longest else current)
        if current < longest * 1.1:
            reason = f"The longest {name} has {longest} tokens; a generated one must not be cut short of that."
        elif current > _ROOMY * fitting:
            reason = f"The longest {name} has {longest} tokens; one that runs on costs time and is dropped anyway."
        else:
            continue
        yield Suggestion(f"{name}s.max_tokens", fitting, current, reason)
    training = measured.training
    frame = _FRAME
    if training is not None:
        parts = zip(training, measured.questions, measured.answers, strict=True)
        frame = max(0, *(whole - question - answer for whole, question, answer in parts))
    longest = max(training) if training is not None else 0
    needed = _up(max(longest, frame + limits["question"] + limits["answer"]), 64)
    if settings.train.max_tokens < max(longest, frame + limits["question"] + limits["answer"]):
        reason = "The longest question and answer, seeds and generated, then fit with the template around them."
        yield Suggestion("train.max_tokens", needed, settings.train.max_tokens, reason)


def _words(part: str, texts: Sequence[str], settings: Settings) -> Iterator[Suggestion]:
    rules = settings.filter
    least, most = (
        (rules.question_words_min, rules.question_words_max)
        if part == "question"
        else (rules.answer_words_min, rules.answer_words_max)
    )
    counts = word_counts(texts)
    shortest, longest = max(1, int(counts.min())), int(counts.max())
    if most < longest:
        reason = f"The longest seed {part} has {longest} words; the filter would drop one like it."
        yield Suggestion(f"filter.{part}_words_max", math.ceil(longest * _ROOM), most, reason)
    elif most > _ROOMY * longest:
        reason = f"The longest seed {part} has {longest} words; one of more than twice that is unlike them."
        yield Suggestion(f"filter.{part}_words_max", max(4, 2 * longest), most, reason)
    if least > shortest:
        reason = f"The shortest seed {part} has {shortest} {_plural('word', shortest)}; the filter would drop it."
        yield Suggestion(f"filter.{part}_words_min", shortest, least, reason)
    elif least < shortest // 3:
        reason = f"The shortest seed {part} has {shortest} words; one of less than half that is unlike them."
        yield Suggestion(f"filter.{part}_words_min", shortest // 2, least, reason)


def _split(samples: int, split: SplitSettings) -> Iterator[Suggestion]:
    count = held_out(samples, split)
    wanted = min(_HELDOUT_WANTED, samples // 3)
    if count < wanted:
        share = math.ceil(100 * wanted / samples) / 100
        reason = (
            f"{count} held-out samples show only large differences; {wanted} show more, and {samples - wanted} stay."
        )
        yield Suggestion("split.heldout", share, split.heldout, reason)
    elif round(samples * split.heldout) > _HELDOUT_ENOUGH:
        share = max(0.01, math.floor(100 * _HELDOUT_ENOUGH / samples) / 100)
        reason = f"About {_HELDOUT_ENOUGH} held-out samples are enough; the others teach more as seeds."
        yield Suggestion("split.heldout", share, split.heldout, reason)


def _shown(left: int, settings: Settings) -> Iterator[Suggestion]:
    questions = settings.questions
    shown = min(questions.demonstrations, max(2, left // 4))
    if shown < questions.demonstrations:
        reason = f"With {left} seeds to choose from, {questions.demonstrations} at a time make most prompts alike."
        yield Suggestion("questions.demonstrations", shown, questions.demonstrations, reason)
    near = max(shown, left // 2)
    if questions.neighbourhood > near:
        reason = f"{questions.neighbourhood} neighbours out of {left} seeds are hardly near; half of them still are."
        yield Suggestion("questions.neighbourhood", near, questions.neighbourhood, reason)


def _target(left: int, settings: Settings) -> Iterator[Suggestion]:
    least, wanted, most = _EXPANSION
    total = settings.target.accepted * settings.rounds
    if least * left <= total <= most * left or (total < least * left and left > _PLENTY):
        return
    value = max(1, round(wanted * left / settings.rounds))
    if value >= 16:
        value = 8 * round(value / 8)
    reason = (
        f"{settings.rounds} {_plural('round', settings.rounds)} of {settings.target.accepted} make {total / left:.1f} "
        f"samples for each of {left} seeds; {least} to {most} is the range reported for ISARA."
    )
    if value != settings.target.accepted:
        yield Suggestion("target.accepted", value, settings.target.accepted, reason)


def _epochs(left: int, settings: Settings) -> Iterator[Suggestion]:
    train = settings.train
    steps = math.ceil(train.epochs * left / train.batch)
    if steps < _FEWEST_STEPS and train.epochs < _MOST_EPOCHS:
        value = min(_MOST_EPOCHS, math.ceil(_FEWEST_STEPS * train.batch / left))
        reason = (
            f"{left} seeds in batches of {train.batch} make {steps} {_plural('step', steps)}, too few to learn from."
        )
        yield Suggestion("train.epochs", float(value), train.epochs, reason)
    elif left >= _MANY_SEEDS and train.epochs > 3:
        reason = f"{left} seeds make {steps} steps; 3 epochs of so many are enough, and more only learn them by heart."
        yield Suggestion("train.epochs", 3.0, train.epochs, reason)


def _up(value: float, step: int) -> int:
    return step * math.ceil(value / step)


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"
