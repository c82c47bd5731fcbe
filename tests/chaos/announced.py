"""
The command line, telling at each stage where it is, and lingering there: for whoever wants to interrupt it.

`python announced.py run ...` is `isara run ...`. A line with the stage's name goes to the file descriptor in
CHAOS_TELL; CHAOS_LINGER is how many seconds it then waits before it goes on. What it computes is the same.
"""

from __future__ import annotations

import functools
import os
import time

import isara.api
import isara.loop
from isara.cli import main
from isara.generate import Draft

TELL = int(os.environ["CHAOS_TELL"])
LINGER = float(os.environ.get("CHAOS_LINGER", "0"))
STAGES = (
    (isara.api, "choose_backend", "loading"),
    (Draft, "ask", "prompting"),
    (Draft, "complete", "writing"),
    (Draft, "vectors", "filtering"),
    (Draft, "decide", "filtering"),
    (Draft, "scored", "scoring"),
    (isara.loop, "write_scores", "scoring"),
    (isara.loop, "train_arm", "training"),
    (isara.loop, "decide", "gating"),
    (isara.loop, "finish_round", "gating"),
    (isara.api, "write_report", "reporting"),
    (isara.api, "seal", "reporting"),
)


def tell(stage):
    os.write(TELL, f"{stage}\n".encode())
    time.sleep(LINGER)


def told(stage, do):
    @functools.wraps(do)
    def call(*args, **options):
        tell(stage)
        return do(*args, **options)

    return call


def at_each_step(do):
    """Tell of every step of a training as well."""

    def run_loop(run):
        watch = run.watch

        def watching(event):
            watch(event)
            if event.kind == "progress" and str(event.data.get("name", "")).startswith("train-"):
                tell("training")

        run.watch = watching
        do(run)

    return run_loop


for place, name, stage in STAGES:
    setattr(place, name, told(stage, getattr(place, name)))
isara.api.run_loop = at_each_step(isara.api.run_loop)

if __name__ == "__main__":
    main()
