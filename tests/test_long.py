"""A long round: what is held in memory is the pool and what is compared with, not all that was written down."""

from __future__ import annotations

import os
import random
import tracemalloc

import numpy as np
import pytest

from isara.events import quiet
from isara.filter import Sieve
from isara.generate import Draft
from isara.neighbours import Neighbours
from isara.retrieve import Pool
from isara.rundir import Journal
from isara.samples import Sample
from isara.settings import Settings
from isara.testing import HashEmbedder, ScriptedModel

ACCEPTED = 1200


def made_up(count):
    """Seeds of made-up words, from which the scripted model makes thousands of different questions."""
    rng = random.Random(5)
    words = ["".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3)) for _ in range(1500)]
    few = [" ".join(rng.choices(words, k=9)) for _ in range(2 * count)]
    return [Sample(f"seed-{i + 1}", f"{few[2 * i]}?", f"{few[2 * i + 1]}.") for i in range(count)]


def drafting(folder, watch, accepted=ACCEPTED):
    seeds = made_up(80)
    vectors = HashEmbedder().embed([seed.question for seed in seeds]).astype("<f2").astype(np.float32)
    pool = Pool(seeds, vectors)
    settings = Settings(target={"accepted": accepted, "batch": 100})
    known, heldout = Neighbours(seeds, pool.store), Neighbours(seeds[:2], 0 * vectors[:2])
    model = ScriptedModel(remember=False)
    return Draft(
        1,
        journal=Journal(folder),
        load=lambda: model,
        chat=True,
        embedder=HashEmbedder(),
        pool=pool,
        sieve=Sieve(settings.filter, known, heldout, [seed.answer for seed in seeds], accepted),
        settings=settings,
        watch=watch,
    )


def on_disk(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Candidates, bytes in memory and bytes on the disk after each batch of a long round."""
    folder, rows = tmp_path_factory.mktemp("round"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        # One round before, for what is computed once and kept whatever is drafted.
        drafting(tmp_path_factory.mktemp("before"), quiet).run()
        tracemalloc.start()
        try:
            drafted = drafting(folder, lambda event: rows.append((tracemalloc.get_traced_memory()[0], on_disk(folder))))
            drafted.run()
        finally:
            tracemalloc.stop()
    assert len(rows) >= 15
    return rows


def test_memory_grows_by_a_fraction_of_what_is_written_down(seen):
    (first, wrote_first), (last, wrote_last) = seen[2], seen[-1]
    assert wrote_last > 4 * wrote_first
    # Held are a question twice, as text and by its tokens, and its vector; not prompts, answers to them, or scores.
    assert last - first < (wrote_last - wrote_first) / 2


def test_later_candidates_take_no_more_memory_than_earlier_ones(seen):
    half = len(seen) // 2
    before, after = seen[half][0] - seen[2][0], seen[-1][0] - seen[half][0]
    steps = (half - 2, len(seen) - 1 - half)
    assert after / steps[1] < 1.7 * before / steps[0]
