from __future__ import annotations

import io
import subprocess
import sys

import pytest
from rich.console import Console

from isara import console
from isara.events import Event, quiet


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 500.0

    def __call__(self):
        return self.now


PLAN = {
    "stages": [
        {"name": "q1", "label": "round 1: questions", "kind": "question", "units": 100, "prior": 1.0},
        {"name": "t1", "label": "round 1: training", "kind": "train", "units": 10, "prior": 10.0},
    ]
}


def run_of_two_stages(watch, clock):
    """Tell of a run of 100 s and 100 s, both as planned, with a word every 5 s in the first stage."""
    watch(Event("plan", PLAN))
    watch(Event("stage", {"name": "q1", "label": "round 1: questions", "kind": "question", "units": 100}))
    for done in range(5, 101, 5):
        clock.now += 5
        watch(Event("progress", {"name": "q1", "done": done}))
    watch(Event("finish", {"name": "q1"}))
    watch(Event("stage", {"name": "t1", "label": "round 1: training", "kind": "train", "units": 10}))
    clock.now += 100
    watch(Event("finish", {"name": "t1"}))


def plain(tell, **options):
    """Return the lines of a log of what `tell(watch, clock)` tells."""
    clock, stream = Clock(), io.StringIO()
    with console.plain_watch(stream, clock, **options) as watch:
        tell(watch, clock)
    return stream.getvalue().splitlines()


def test_a_log_has_a_line_for_each_begin_and_end_and_one_in_fifteen_seconds_between():
    assert plain(run_of_two_stages) == [
        "round 1: questions: started",
        "  7 %  round 1: questions (15 of 100), about 3 min left",
        " 15 %  round 1: questions (30 of 100), about 2 min 50 s left",
        " 22 %  round 1: questions (45 of 100), about 2 min 40 s left",
        " 30 %  round 1: questions (60 of 100), about 2 min 20 s left",
        " 37 %  round 1: questions (75 of 100), about 2 min left",
        " 45 %  round 1: questions (90 of 100), about 1 min 50 s left",
        "round 1: questions: finished in 1 min 40 s",
        "round 1: training: started",
        "round 1: training: finished in 1 min 40 s",
    ]


def test_stages_that_take_turns_begin_and_end_once():
    def tell(watch, clock):
        for batch in (1, 2):
            for name in ("questions", "answers"):
                watch(Event("stage", {"name": name, "label": name, "kind": name, "units": 2}))
                clock.now += 3
                watch(Event("progress", {"name": name, "done": batch}))
        watch(Event("finish", {"name": "questions"}))
        watch(Event("finish", {"name": "questions"}))
        watch(Event("finish", {"name": "answers"}))

    assert plain(tell) == [
        "questions: started",
        "answers: started",
        "questions: finished in 6 s",
        "answers: finished in 6 s",
    ]


def test_a_stage_found_complete_says_so():
    def tell(watch, clock):
        watch(Event("plan", PLAN))
        watch(Event("stage", {"name": "q1"}))
        watch(Event("revise", {"name": "q1", "units": 0}))
        watch(Event("finish", {"name": "q1"}))

    assert plain(tell) == ["round 1: questions: started", "round 1: questions: nothing to do"]


def test_sentences_are_written_as_they_come():
    def tell(watch, clock):
        watch(Event("resumed", {"text": "Going on after round 1."}))
        watch(Event("say", {"text": "112 of 128 accepted.", "level": "info"}))
        watch(Event("say", {"text": "Only 3 of 64 questions\ncould be read.", "level": "warning"}))

    assert plain(tell) == [
        "Going on after round 1.",
        "112 of 128 accepted.",
        "warning: Only 3 of 64 questions could be read.",
    ]


def test_a_stage_that_was_resumed_or_revised_moves_the_percentage():
    def tell(watch, clock):
        watch(Event("plan", PLAN))
        watch(Event("finish", {"name": "q1"}))
        watch(Event("stage", {"name": "t1", "label": "training", "kind": "train", "units": 10, "done": 5}))
        clock.now += 10
        watch(Event("progress", {"name": "t1", "done": 6}))
        watch(Event("revise", {"name": "t1", "units": 8}))
        clock.now += 10
        watch(Event("progress", {"name": "t1", "done": 7}))

    assert plain(tell, every=0.0) == [
        "round 1: training: started",
        " 80 %  round 1: training (6 of 10), about 40 s left",
        " 94 %  round 1: training (7 of 8), about 10 s left",
    ]


@pytest.mark.parametrize(
    "event",
    [
        Event("unheard of", {"name": "x"}),
        Event("progress", {"name": "never begun", "done": 3}),
        Event("finish", {}),
        Event("revise", {"name": "never begun", "units": 1}),
        Event("plan", {}),
        Event("stage", {"name": "odd", "units": float("nan"), "done": "many"}),
    ],
)
def test_an_odd_event_does_not_end_a_run(event):
    assert plain(lambda watch, clock: watch(event)) == (["odd: started"] if event.kind == "stage" else [])


HOSTILE = "a\x1b[31mb\x9bc\x07\u202etxt\u2028d\ud800é👩\u200d🔬"


def test_what_a_model_wrote_cannot_steer_the_terminal():
    assert console.clean(HOSTILE) == "a\\x1b[31mb\\x9bc\\x07\\u202etxt d\\ud800é👩\u200d🔬"
    (line,) = plain(lambda watch, clock: watch(Event("say", {"text": HOSTILE, "level": "info"})))
    assert "\x1b" not in line
    lines = plain(lambda watch, clock: watch(Event("stage", {"name": "x", "label": HOSTILE, "units": 1})))
    assert "\x1b" not in lines[0]


def test_a_log_in_another_encoding_still_gets_every_line():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    with console.plain_watch(stream, Clock()) as watch:
        watch(Event("say", {"text": "Straße", "level": "info"}))
    assert raw.getvalue() == b"Stra\\xdfe\n"


def terminal(width=100):
    stream = io.StringIO()
    return stream, Console(file=stream, force_terminal=True, width=width, legacy_windows=False)


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_shows_stage_percent_and_time_on_one_line(width):
    clock, (stream, screen) = Clock(), terminal(width)
    with console.rich_watch(screen, clock) as watch:
        watch(Event("plan", PLAN))
        watch(Event("stage", {"name": "q1", "label": "round 1: questions", "kind": "question", "units": 100}))
        clock.now += 40
        watch(Event("progress", {"name": "q1", "done": 40}))
        watch(Event("say", {"text": "[bold]so far[/] :smile:\x1b[2J", "level": "warning"}))
    shown = stream.getvalue()
    assert "warning: [bold]so far[/] :smile:\\x1b[2J" in shown
    assert "20 %" in shown
    if width == 100:
        assert "round 1: questions" in shown
        assert "40 s, about 2 min 40 s left" in shown
    # never more than one line to take back
    assert "\x1b[2A" not in shown


def test_a_terminal_is_given_back_when_a_run_fails():
    stream, screen = terminal()

    def run():
        with console.rich_watch(screen, Clock()) as watch:
            watch(Event("plan", PLAN))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7825, "2 h 10 min"),
        (2 * 86400 + 3 * 3600, "2 d 3 h"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert console.duration(seconds) == words


def difference(arm, against, mean):
    low, high = (None, None) if mean is None else (mean - 0.05, mean + 0.05)
    return {"arm": arm, "against": against, "n": 16, "mean": mean, "low": low, "high": high, "p": 0.01, "words": "…"}


def arm(name, label, mean):
    return {"arm": name, "label": label, "n": 16, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "values": []}


def summary():
    return {
        "best": "round-1",
        "verdict": ["Round 1 is better than the seeds alone.", "It gains 0.1 nats per token."],
        "stopped": "Stopped after round 2: it was not kept.",
        "heldout": {
            "n": 16,
            "source": "split",
            "arms": [
                arm("base", "the untouched model", 2.5),
                arm("retrieved", "with demonstrations", 2.25),
                arm("seeds-only", "seeds only", 2.0),
                arm("round-1", "round 1", 1.9),
                arm("round-3", "round 3", 1.97),
                arm("round-2\x1b[31m", "round 2", 1.95),
            ],
            "differences": [
                difference("round-1", "base", 0.6),
                difference("round-1", "seeds-only", 0.1),
                difference("round-2\x1b[31m", "seeds-only", -0.05),
                difference("seeds-only", "base", None),
            ],
        },
        "test": None,
        "rounds": [{"round": 1, "kept": True}, {"round": 3, "kept": False}],
    }


def shown(table):
    stream = io.StringIO()
    Console(file=stream, width=140).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def row(lines, label):
    """Return the words of an arm's two lines: numbers and note, then the intervals."""
    (at,) = [at for at, line in enumerate(lines) if line.strip().startswith(f"{label} ")]
    return lines[at].strip().removeprefix(label).split(), " ".join(lines[at + 1].split())


def test_the_summary_says_the_verdict_first_and_then_every_arm():
    lines = shown(console.summary_table(summary()))
    assert lines[:2] == ["Round 1 is better than the seeds alone.", "It gains 0.1 nats per token."]
    assert row(lines, "base") == (["2.500", "–", "–"], "2.400 to 2.600")
    assert row(lines, "seeds-only") == (["2.000", "–", "–"], "1.900 to 2.100")
    assert row(lines, "retrieved")[0] == ["2.250", "–", "–", "few-shot"]
    assert row(lines, "round-1") == (
        ["1.900", "+0.600", "+0.100", "the", "result"],
        "1.800 to 2.000 +0.550 to +0.650 +0.050 to +0.150",
    )
    assert row(lines, "round-2\\x1b[31m")[0] == ["1.950", "–", "-0.050"]
    assert row(lines, "round-3")[0] == ["1.970", "–", "–", "not", "kept"]
    assert lines[-1] == "Stopped after round 2: it was not kept."


def test_a_test_set_gets_a_table_of_its_own():
    with_test = summary() | {"test": summary()["heldout"] | {"n": 40}}
    lines = shown(console.summary_table(with_test))
    titles = [line.strip() for line in lines if "samples:" in line]
    assert [title.split(":")[0] for title in titles] == ["16 held-out samples", "40 test samples"]


def test_importing_the_console_loads_no_rich():
    code = "import sys, isara.console; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_quiet_watcher_takes_anything():
    assert quiet(Event("anything", {})) is None
