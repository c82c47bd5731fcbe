"""What a comparison is to compare: the arms of a study, from a TOML file, with the settings that make each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from isara.config import load_over
from isara.errors import InputError, SettingsError
from isara.rawfiles import MOST_SETTINGS, read_plain, stands
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
        "questions.draws=1",
        "questions.machine=2",
        # Machine-made are those of earlier batches, so that one large batch would have none.
        "target.batch=32",
        "questions.neighbourhood=1000000",
        "answers.choice='random'",
        "filter.rouge=0.7",
        "filter.keywords='image,images,graph,graphs,picture,pictures,file,files,map,maps,draw,plot,video,audio,music'",
        "filter.cosine=1.0",
        "filter.topic=-1.0",
        "filter.confidence=1000",
        "filter.gain=-1000",
        "filter.common=1.0",
        "train.targets='sampled'",
        "train.start='base'",
    ),
    # After Sun et al. 2023 (arXiv 2305.03047): answers written with principles and demonstrations in view, training
    # without the principles; its topics, inner thoughts and verbose cloning are left out.
    "self-align": ("rounds=1", *_EVERY_ROUND, "train.targets='sampled'", "train.start='base'"),
}
"""What an arm of a kind changes in the settings of its study, before its own changes."""

_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".txt", ".yaml")
"""Endings by which a name is that of a file, and of no dataset."""

GENERATING = frozenset(kind for kind, result in RESULTS.items() if result in (LAST_ROUND, BEST))


Values = dict[str, str | bool | int | float | tuple[str | bool | int | float, ...]]
"""Fields of a row, and for each the value, or the values, that it has to have."""


class Take(Section):
    """How many rows of one file are for what; drawn once, the same for every arm and random seed."""

    seeds: int = Field(default=64, ge=2)
    """Rows to learn from."""
    heldout: int = Field(default=16, ge=2)
    """Rows that choose the training steps and the rounds."""
    test: int = Field(default=0, ge=0)
    """Rows by which nothing is chosen, and by which the arms are compared."""
    where: Values = Field(default_factory=dict)
    """Rows that count at all: those with these values in these fields."""
    test_where: Values = Field(default_factory=dict)
    """Rows that only test, such as those of whole categories: seeds and held-out rows come from the others."""


class Part(Section):
    """Some rows of a file of a measure."""

    file: str
    """The file, or dataset on the hub."""
    where: Values = Field(default_factory=dict)
    """Rows that count: those with these values in these fields."""


class MeasureSettings(Section):
    """A benchmark of `isara eval` that every arm is measured on besides; just the file's name stands for `data`."""

    data: tuple[str | Part, ...] = ()
    """Its files, as after `--data` of `isara eval`, or some rows of them; `heldout` takes the samples that judge."""
    limit: int = Field(default=100, ge=1)
    """The most items of each file, drawn once."""
    max_tokens: int = Field(default=48, ge=1)
    """The longest written answer."""

    @field_validator("data", mode="before")
    @classmethod
    def one_or_several(cls, given: object) -> object:
        """Take one file as a list of one."""
        return [given] if isinstance(given, str | Mapping) else given

    @property
    def parts(self) -> list[Part]:
        """The files, each with the rows that count."""
        return [Part(file=part) if isinstance(part, str) else part for part in self.data]


class ArmSettings(Section):
    """One arm: a kind, and what it changes in the settings."""

    kind: Kind = "loop"
    """What is compared: a baseline, the last round of a `loop`, or what the gate `kept`."""
    principles: str = ""
    """A text file of rules, for `self-align`: yours, as none ship."""
    label: str = ""
    """What a person calls it; its name where left out."""
    beside: str = ""
    """An arm of which this one changes a single choice: the two are compared in a table of their own."""
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
    measures: dict[str, MeasureSettings] = Field(default_factory=dict)
    """Further measures, by their names in `isara eval --on`."""
    arms: dict[str, ArmSettings] = Field(min_length=2)
    """The arms by name."""

    @field_validator("measures", mode="before")
    @classmethod
    def with_data(cls, given: object) -> object:
        """Take a file, or a list of files, as a measure with these data."""
        if not isinstance(given, Mapping):
            return given
        return {name: {"data": each} if isinstance(each, str | list) else each for name, each in given.items()}


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a study, with all its settings."""

    name: str
    label: str
    kind: str
    result: str
    """The arm of a run that it is; or `LAST_ROUND`, or `BEST`."""
    changes: tuple[str, ...]
    beside: str
    """The arm of which it changes a single choice; empty where there is none."""
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
    data: Path | None = None
    """Where the files are that it names and that are not beside it."""

    def source(self, name: str) -> str:
        """
        Return where a file is that the study names: beside the study's own, else in `data`, else the name as it is.

        Raises InputError where a name can only be that of a file, and there is none.
        """
        places = [self.path.parent / name, *([self.data / name] if self.data else []), Path(name)]
        found = next((place for place in places if stands(place)), None)
        if found is None and Path(name).suffix.lower() in _FILES:
            inside = f" and none in {self.data}" if self.data else ""
            raise InputError(f"{self.path}: no {name} beside it{inside}. Name the folder that has it with --data.")
        return str(found or name)


def load_study(
    path: Path, overrides: Sequence[str] = (), *, seeds: str | None = None, data: Path | None = None
) -> Study:
    """
    Return the study in a TOML file; raises SettingsError with a line for each mistake.

    `overrides` change the settings that all arms share, `seeds` stands in for the samples that the file names, and
    `data` is a folder with the files that are not beside it.
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
    refuse_unclear(path, chosen)
    refuse_unpaired(path, chosen)
    return Study(path, chosen, arms, data)


def refuse_unclear(path: Path, chosen: StudySettings) -> None:
    """Raise SettingsError where it is not clear which rows are for what."""
    take = chosen.take or Take()
    both = sorted({*take.where} & {*take.test_where})
    if both:
        raise SettingsError(f"{path}: take: {both[0]} is in where and in test_where. Leave it in one of them.")
    if take.test_where and not take.test:
        raise SettingsError(f"{path}: take.test: 0, and test_where says which rows test. Say how many.")
    if "heldout" in chosen.measures and chosen.measures["heldout"].data:
        raise SettingsError(f"{path}: measures.heldout.data: its items are the study's own. Leave data out.")


def refuse_unpaired(path: Path, chosen: StudySettings) -> None:
    """Raise SettingsError where an arm is to stand beside itself, or beside one that there is not."""
    for name, arm in chosen.arms.items():
        if arm.beside == name or (arm.beside and arm.beside not in chosen.arms):
            others = ", ".join(other for other in chosen.arms if other != name)
            raise SettingsError(f"{path}: arms.{name}.beside: no other arm is called {arm.beside!r} (found: {others}).")


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
    return Arm(name, arm.label or name, arm.kind, RESULTS[arm.kind], arm.set, arm.beside, settings)
