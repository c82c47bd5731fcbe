"""What a comparison is to compare: the arms of a study, from a TOML file, with the settings that make each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from isara.config import load_over
from isara.errors import SettingsError
from isara.rawfiles import MOST_SETTINGS, read_plain
from isara.settings import Section, Settings
from isara.tomllines import toml_table

Kind = Literal["base", "retrieved", "seeds", "seeds-last", "loop", "one-shot", "kept", "self-instruct", "self-align"]

LAST_ROUND, BEST = "the last round", "the best"

RESULTS: Mapping[str, str] = {
    "base": "base",
    "retrieved": "retrieved",
    "seeds": "seeds-only",
    "seeds-last": "seeds-only",
    "loop": LAST_ROUND,
    "one-shot": LAST_ROUND,
    "self-instruct": LAST_ROUND,
    "self-align": LAST_ROUND,
    "kept": BEST,
}
"""Which arm of a run is an arm of the study."""

_EVERY_ROUND = ("gate.keep='all'", "gate.patience=100")

OVERRIDES: Mapping[str, tuple[str, ...]] = {
    "base": (),
    "retrieved": (),
    "seeds": ("train.keep='best'",),
    "seeds-last": ("train.keep='last'",),
    "loop": _EVERY_ROUND,
    "one-shot": ("rounds=1", *_EVERY_ROUND),
    "kept": (),
    # Wang et al. 2022 (arXiv 2212.10560): eight demonstrations at random, two of them machine-made; ROUGE-L below 0.7
    # with everything there is; questions that speak of what text cannot hold are dropped; no other filter.
    "self-instruct": (
        "rounds=1",
        *_EVERY_ROUND,
        "questions.demonstrations=8",
        "questions.machine=2",
        "questions.neighbourhood=1000000",
        "answers.choice='random'",
        "filter.rouge=0.7",
        "filter.keywords='image,images,graph,graphs,picture,pictures,file,files,map,maps,draw,plot,video,audio,music'",
        "filter.cosine=1.0",
        "filter.topic=-1.0",
        "filter.confidence=1000",
        "filter.gain=-1000",
        "train.targets='sampled'",
    ),
    # After Sun et al. 2023 (arXiv 2305.03047): answers written with principles and demonstrations in view, training
    # without the principles; its topics, inner thoughts and verbose cloning are left out.
    "self-align": ("rounds=1", *_EVERY_ROUND, "train.targets='sampled'"),
}
"""What an arm of a kind changes in the settings of its study, before its own changes."""

GENERATING = frozenset(kind for kind, result in RESULTS.items() if result in (LAST_ROUND, BEST))


class Take(Section):
    """How many rows of one file are for what; drawn once, the same for every arm and random seed."""

    seeds: int = Field(default=64, ge=2)
    """Rows to learn from."""
    heldout: int = Field(default=16, ge=2)
    """Rows that choose the training steps and the rounds."""
    test: int = Field(default=0, ge=0)
    """Rows by which nothing is chosen, and by which the arms are compared."""


class ArmSettings(Section):
    """One arm: a kind, and what it changes in the settings."""

    kind: Kind = "loop"
    """What is compared: a baseline, the last round of a `loop`, or what the gate `kept`."""
    principles: str = ""
    """A text file of rules, for `self-align`: yours, as none ship."""
    label: str = ""
    """What a person calls it; its name where left out."""
    set: tuple[str, ...] = ()
    """Changes of settings, each as after `--set`."""


class StudySettings(Section):
    """Everything that decides what a comparison does."""

    about: str = ""
    """A sentence or two for the reader of the table."""
    seeds: str
    """Samples to learn from, as for `isara run`; a path is looked for beside the study's file first."""
    heldout: str | None = None
    """Samples that choose the training steps and the rounds; without them, `take` says how many rows to set aside."""
    test: str | None = None
    """Samples by which the arms are compared; without any, the held-out ones, which flatters what was tuned."""
    take: Take | None = None
    """Rows of the seed file for each purpose, where there are no other files."""
    question_field: str | None = None
    """The field that holds the question, where it cannot be told."""
    answer_field: str | None = None
    """The field that holds the answer, where it cannot be told."""
    random_seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1)
    """Every arm is made once with each of these."""
    accepted: int = Field(default=128, ge=1)
    """Samples that every generating arm accepts in all its rounds together."""
    against: str = "seeds"
    """The arm that the others are compared with."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings that all arms share, as in the file of a run."""
    arms: dict[str, ArmSettings] = Field(min_length=2)
    """The arms by name."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a study, with all its settings."""

    name: str
    label: str
    kind: str
    result: str
    """The arm of a run that it is; or `LAST_ROUND`, or `BEST`."""
    changes: tuple[str, ...]
    settings: Settings

    @property
    def generating(self) -> bool:
        """Whether it makes samples."""
        return self.kind in GENERATING


@dataclass(frozen=True, slots=True)
class Study:
    """A study as read from its file."""

    path: Path
    chosen: StudySettings
    arms: tuple[Arm, ...]

    def source(self, name: str) -> str:
        """Return where samples are: a path beside the study's file where there is one, else the name as it is."""
        beside = self.path.parent / name
        return str(beside) if beside.exists() else name


def load_study(path: Path, overrides: Sequence[str] = (), *, seeds: str | None = None) -> Study:
    """
    Return the study in a TOML file; raises SettingsError with a line for each mistake.

    `overrides` change the settings that all arms share, and `seeds` stands in for the samples that the file names.
    """
    try:
        table = toml_table(read_plain(path, MOST_SETTINGS).decode("utf-8-sig"))
        chosen = StudySettings.model_validate(table | ({} if seeds is None else {"seeds": seeds}))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValidationError as error:
        raise SettingsError("\n".join(mistakes(path, error))) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid TOML ({error}).") from error
    arms = tuple(arm_of(path, chosen, name, overrides) for name in chosen.arms)
    if chosen.against not in chosen.arms:
        raise SettingsError(f"{path}: against: no arm is called {chosen.against!r} (found: {', '.join(chosen.arms)}).")
    if chosen.take is not None and (chosen.heldout or chosen.test):
        raise SettingsError(f"{path}: take: rows of the seed file and files of their own do not go together.")
    if chosen.take is None and chosen.heldout is None:
        raise SettingsError(f"{path}: heldout: not given. Name a file, or say in [take] how many rows to set aside.")
    return Study(path, chosen, arms)


def mistakes(path: Path, error: ValidationError) -> list[str]:
    """Return a line for each thing wrong with a study's file."""
    return [f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}." for each in error.errors()]


def principles_of(path: Path, name: str, arm: ArmSettings) -> list[str]:
    """Return the change that puts an arm's principles before its demonstrations."""
    if (arm.kind == "self-align") != bool(arm.principles):
        raise SettingsError(
            f"{path}: arms.{name}: principles: a text file for an arm of the kind self-align, and only it."
        )
    if not arm.principles:
        return []
    try:
        written = read_plain(path.parent / arm.principles, MOST_SETTINGS).decode("utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: arms.{name}: principles: {arm.principles} cannot be read ({error}).") from error
    return [f"answers.principles={json.dumps(written)}"]


def arm_of(path: Path, chosen: StudySettings, name: str, overrides: Sequence[str]) -> Arm:
    """Return an arm with the settings of its study, its kind's and its own changes on top, its budget the study's."""
    arm = chosen.arms[name]
    changes = (*OVERRIDES[arm.kind], *principles_of(path, name, arm), *arm.set)
    try:
        settings = load_over(chosen.settings, [*overrides, *changes])
        if arm.kind in GENERATING:
            share, rest = divmod(chosen.accepted, max(1, settings.rounds))
            if rest or not settings.rounds:
                raise SettingsError(
                    f"--set: rounds: {chosen.accepted} accepted samples do not fall into {settings.rounds} equal rounds"
                )
            settings = load_over(settings.model_dump(mode="json"), [f"target.accepted={share}"])
        else:
            settings = load_over(settings.model_dump(mode="json"), ["rounds=0"])
    except SettingsError as error:
        lines = (line.removeprefix("--set: ") for line in str(error).splitlines())
        raise SettingsError("\n".join(f"{path}: arms.{name}: {line}" for line in lines)) from error
    return Arm(name, arm.label or name, arm.kind, RESULTS[arm.kind], arm.set, settings)
