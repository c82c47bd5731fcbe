"""Turns run events into one progress line and a few plain sentences, for a terminal or for a log file."""

from __future__ import annotations

import math
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from isara.eta import Plan, Stage
from isara.events import Event, Watch

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import ProgressColumn, Task
    from rich.table import Table

Clock = Callable[[], float]


@contextmanager
def rich_watch(console: Console, clock: Clock = time.monotonic) -> Iterator[Watch]:
    """Give a watcher for a terminal: one progress line for the whole run, with the sentences above it."""
    from rich.progress import Progress
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    state = _State(clock)
    columns = (
        _column(lambda: Text(state.label or "starting", no_wrap=True, overflow="ellipsis")),
        _column(lambda: ProgressBar(total=1.0, completed=state.fraction()), ratio=1),
        _column(lambda: Text(_percent(state.fraction())), no_wrap=True),
        _column(lambda: Text(f"{duration(state.elapsed())}{_left(state.remaining())}", style="dim", no_wrap=True)),
    )
    with Progress(*columns, console=console, expand=True, transient=True) as progress:
        progress.add_task("")

        def watch(event: Event) -> None:
            state.take(event)
            sentence = _sentence(event)
            if sentence:
                style = "yellow" if event.data.get("level") == "warning" else ""
                console.print(Text(sentence, style=style), soft_wrap=True)

        yield watch


@contextmanager
def plain_watch(stream: TextIO, clock: Clock = time.monotonic, every: float = 15.0) -> Iterator[Watch]:
    """Give a watcher for a log file: a line as a stage begins and ends, at most one in `every` seconds between."""
    state = _State(clock)
    encoding = stream.encoding or "utf-8"
    spoken = clock()

    def watch(event: Event) -> None:
        nonlocal spoken
        news = state.take(event)
        line = _sentence(event) or (news and f"{state.label}: {news}")
        if not line and event.kind == "progress" and clock() - spoken >= every:
            line = f"{_percent(state.fraction())}  {state.label}{state.count()}{_left(state.remaining())}"
        if line:
            spoken = clock()
            # a log in an encoding without this character is no reason to end a run
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()

    yield watch


def clean(text: str) -> str:
    """Return text on one line, with everything escaped that could steer a terminal or turn the writing around."""
    # Cc: control characters, with the escape that opens every terminal sequence. Cf: what turns or hides writing,
    # but for the two joiners that scripts and emoji need. Cs: halves of characters, which no file can hold.
    flat = " ".join(text.split())
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char not in "\u200c\u200d"
        else char
        for char in flat
    )


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: `42 s`, `3 min 05 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def summary_table(summary: Mapping[str, Any]) -> RenderableType:
    """Return what a terminal shows at the end of a run: the verdict, then a table of the arms, from `summary.json`."""
    from rich.console import Group
    from rich.text import Text

    sentences = [Text(clean(sentence)) for sentence in summary["verdict"]]
    parts: list[RenderableType] = [*sentences, Text("")]
    for key, name in (("heldout", "held-out"), ("test", "test")):
        if summary.get(key):
            parts.append(_arms(summary, summary[key], name))
    if summary.get("stopped"):
        parts.append(Text(clean(summary["stopped"])))
    return Group(*parts)


def _arms(summary: Mapping[str, Any], scores: Mapping[str, Any], name: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    differences = {(each["arm"], each["against"]): each for each in scores["differences"]}
    title = f"{scores['n']} {name} samples: NLL per token of the reference answers, lower is better"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for heading in ("mean NLL", "gain\non base", "gain on\nseeds only"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for arm in scores["arms"]:
        table.add_row(
            Text(clean(arm["arm"])),
            Text(_interval(arm)),
            Text(_interval(differences.get((arm["arm"], "base")), sign="+")),
            Text(_interval(differences.get((arm["arm"], "seeds-only")), sign="+")),
            Text(_note(summary, arm["arm"])),
            style="bold" if arm["arm"] == summary["best"] else "",
        )
    return table


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Return what a terminal shows at the end of a comparison, from `comparison.json`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    judged = f"{found['items']} {found['judged_by'].replace('heldout', 'held-out')} samples"
    title = f"{judged}, random seeds {', '.join(map(str, found['random_seeds']))}: NLL per token, lower is better"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    for heading in ("NLL", f"gain on\n{found['against']}", "accepted", "steps\n(best)", "tokens\nwritten", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for arm in found["arms"]:
        runs, own = arm["runs"], arm["arm"] == found["against"]
        costs = [" ".join(str(run[name]) for run in runs) for name in ("accepted", "tokens", "seconds")]
        steps = " ".join(f"{run['steps']} ({run['best_step']})" for run in runs)
        row = [
            f"{arm['mean']:.3f}",
            "–" if own else _interval(arm["difference"], sign="+"),
            costs[0],
            steps,
            *costs[1:],
        ]
        table.add_row(Text(clean(arm["label"])), *map(Text, row), Text("" if own else arm["words"]))
    return table


def measure_table(found: Mapping[str, Any], measure: Mapping[str, Any]) -> Table:
    """Return what a terminal shows of one further measure of a comparison."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = f"{measure['benchmark']}, {measure['items']} items: {measure['measure']}, {measure['better']} is better"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    for heading in ("mean", f"gain on\n{found['against']}", "by random seed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("note")
    for arm in measure["arms"]:
        row, note = ["–", "–", ""], "not measured"
        if "left_out" not in arm:
            own = arm["arm"] == found["against"]
            gain = "–" if own else _interval(arm.get("difference"), sign="+")
            row = [f"{arm['mean']:.3f}", gain, " ".join(f"{mean:.3f}" for mean in arm["by_seed"])]
            note = "" if own else arm.get("words", "")
        table.add_row(Text(clean(arm["label"])), *map(Text, row), Text(note))
    return table


def choices_table(found: Mapping[str, Any], what: str, pairs: Sequence[Mapping[str, Any]]) -> Table:
    """Return what a terminal shows of the arms that each change a single choice of another, on one measure."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    named = {arm["arm"]: clean(arm["label"]) for arm in found["arms"]}
    table = Table(title=f"{what}, choice by choice", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("arm", "beside"):
        table.add_column(heading)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("note")
    for pair in pairs:
        row = (named[pair["arm"]], named[pair["beside"]], _interval(pair["difference"], sign="+"), pair["words"])
        table.add_row(*map(Text, row))
    return table


def _note(summary: Mapping[str, Any], arm: str) -> str:
    kept = {f"round-{each['round']}": each.get("kept") for each in summary.get("rounds") or ()}
    notes = ["the result"] if arm == summary["best"] else []
    notes += ["few-shot"] if arm == "retrieved" else []
    notes += ["not kept"] if kept.get(arm) is False else []
    return ", ".join(notes)


def _interval(scored: Mapping[str, Any] | None, sign: str = "") -> str:
    if scored is None or scored["mean"] is None:
        return "–"
    mean = f"{scored['mean']:{sign}.3f}"
    if scored["low"] is None or scored["high"] is None:
        return mean
    return f"{mean}\n{scored['low']:{sign}.3f} to {scored['high']:{sign}.3f}"


def _column(read: Callable[[], RenderableType], *, no_wrap: bool = False, ratio: int | None = None) -> ProgressColumn:
    """Return a column that shows what `read` gives at each refresh; one with `no_wrap` is the last to be squeezed."""
    from rich.progress import ProgressColumn
    from rich.table import Column

    class Told(ProgressColumn):
        def render(self, task: Task) -> RenderableType:
            return read()

    return Told(table_column=Column(no_wrap=no_wrap, ratio=ratio))


def _sentence(event: Event) -> str:
    if event.kind not in ("say", "resumed"):
        return ""
    sentence = clean(str(event.data.get("text", "")))
    return f"warning: {sentence}" if event.data.get("level") == "warning" else sentence


def _percent(fraction: float) -> str:
    return f"{math.floor(100 * fraction):3} %"


def _left(seconds: float | None) -> str:
    """Return the time left in words; in steps, as nobody knows it to the second."""
    if seconds is None:
        return ""
    step = 5 if seconds < 55 else 10 if seconds < 600 else 60
    return f", about {duration(step * max(1, round(seconds / step))).removesuffix(' 00 s')} left"


def _number(value: object) -> float:
    """Return a count; 0 for what is none, as a progress line is no reason to end a run."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0.0


class _State:
    """What the events so far have told; a terminal's refreshing thread reads it while the run's thread writes."""

    def __init__(self, clock: Clock) -> None:
        self.label = ""
        self._name = ""
        self._clock = clock
        self._start = clock()
        self._lock = threading.Lock()
        self._plan = Plan((), clock)
        self._labels: dict[str, str] = {}
        self._units: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._open: dict[str, bool] = {}

    def take(self, event: Event) -> str:
        """Note an event; return what there is to say about the stage `label`: that it started or finished."""
        data = event.data
        with self._lock:
            if event.kind == "plan":
                stages = data.get("stages")
                for stage in stages if isinstance(stages, list | tuple) else ():
                    self._add(stage)
                return ""
            name = str(data.get("name", ""))
            if event.kind == "stage":
                return self._begin(name, data)
            if name not in self._labels:
                return ""
            if event.kind == "progress":
                self._turn_to(name)
                self._done[name] = _number(data.get("done"))
                self._plan.progress(name, self._done[name])
            elif event.kind == "revise":
                self._units[name] = _number(data.get("units"))
                self._plan.revise(name, self._units[name])
            elif event.kind == "finish":
                self._plan.finish(name)
                if self._open.get(name):
                    self._turn_to(name)
                    self._open[name] = False
                    if not self._units[name]:
                        return "nothing to do"
                    return f"finished in {duration(self._plan.seconds(name))}"
            return ""

    def fraction(self) -> float:
        """Return the share of the run that is done."""
        with self._lock:
            return self._plan.fraction()

    def remaining(self) -> float | None:
        """Return the seconds left, where they are known."""
        with self._lock:
            return self._plan.remaining()

    def elapsed(self) -> float:
        """Return the seconds since the watcher began."""
        return self._clock() - self._start

    def count(self) -> str:
        """Return how many units of the stage under way are done, where it has several."""
        done, units = self._done.get(self._name, 0.0), self._units.get(self._name, 0.0)
        return f" ({done:g} of {units:g})" if units > 1 else ""

    def _turn_to(self, name: str) -> None:
        self._name, self.label = name, self._labels[name]

    def _add(self, data: Mapping[str, object]) -> None:
        name = str(data.get("name", ""))
        if name in self._labels:
            return
        self._labels[name] = clean(str(data.get("label", name)))
        self._units[name] = _number(data.get("units"))
        self._plan.add(Stage(name, str(data.get("kind", "")), self._units[name], _number(data.get("prior"))))

    def _begin(self, name: str, data: Mapping[str, object]) -> str:
        self._add(data)
        if "units" in data:
            self._units[name] = _number(data["units"])
            self._plan.revise(name, self._units[name])
        fresh = name not in self._open
        self._open[name] = True
        self._done[name] = max(self._done.get(name, 0.0), _number(data.get("done")))
        self._plan.begin(name, self._done[name])
        self._turn_to(name)
        return "started" if fresh else ""
