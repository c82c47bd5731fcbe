"""How a stage of drafting prompts now, and how well what comes back can be read."""

from __future__ import annotations

from dataclasses import dataclass, field

from isara.prompts import SEPARATORS, Separators, Style

_EASIEST = len(SEPARATORS) - 1


@dataclass
class Stage:
    """One of the two stages of a round: how it prompts now, and how well what came back could be read."""

    name: str
    style: Style
    demonstrations: int
    floor: float
    level: int = 0
    asked: int = 0
    parsed: int = 0
    adapted: list[str] = field(default_factory=list)

    @property
    def separators(self) -> Separators:
        """The labels in use."""
        return SEPARATORS[min(self.level, _EASIEST)]

    @property
    def shown(self) -> int:
        """How many demonstrations to show: two fewer each time that too little could be read."""
        return max(1, self.demonstrations - 2 * self.level) if self.demonstrations else 0

    @property
    def rate(self) -> float | None:
        """The share of completions that could be read."""
        return self.parsed / self.asked if self.asked else None

    def observe(self, asked: int, parsed: int) -> str | None:
        """Take in a batch; returns a sentence when the next one will be prompted differently."""
        self.asked += asked
        self.parsed += parsed
        if not asked or parsed / asked >= self.floor or self.level >= _EASIEST:
            return None
        self.level += 1
        labels = f" and {self.separators.question!r} labels" if self.style == "text" else ""
        said = f"Only {parsed} of {asked} {self.name}s could be read; from now on {self.shown} demonstrations{labels}."
        self.adapted.append(said)
        return said
