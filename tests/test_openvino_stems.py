"""Stems: what prompts begin with within a page is computed once, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("openvino")

from isara.backends import openvino_graph, openvino_session, openvino_stems  # noqa: E402
from isara.backends.openvino import OpenVinoModel, look_at  # noqa: E402
from isara.backends.openvino_pages import OWN, Pages  # noqa: E402
from isara.backends.openvino_stems import stems  # noqa: E402
from isara.protocols import Sampling  # noqa: E402
from tiny import hashed  # noqa: E402

DRAWN = Sampling(12, temperature=0.9, top_p=0.9)
SIZE = 4


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return hashed(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ISARA_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def computed(prompts, chosen):
    """How many tokens are computed of prompts, each with all of its stems before it, by the pages' own account."""
    pages = Pages(4000, SIZE)
    total = 0
    for stem in sorted(chosen, key=lambda stem: len(stem.tokens)):
        lease = pages.lease(stem.tokens, len(stem.tokens))
        total += len(stem.tokens) - lease.known
        pages.keep(stem.tokens, lease)
    return total + sum(len(prompt) - pages.lease(prompt, len(prompt)).known for prompt in prompts)


def test_a_question_with_many_answers_is_computed_once():
    question = list(range(10))
    prompts = sorted([*question, 50 + i, 90] for i in range(20))
    (stem,) = stems(prompts, SIZE)
    assert (stem.tokens, stem.first, stem.end) == (question, 0, 20)
    assert (computed(prompts, []), computed(prompts, [stem])) == (8 + 20 * 4, 10 + 20 * 2)


def test_prompts_that_are_alike_to_the_end_leave_their_last_tokens():
    (stem,) = stems([list(range(9))] * 12, SIZE)
    assert stem.tokens == list(range(9 - OWN))


def test_what_ends_with_a_page_or_spares_next_to_nothing_is_no_stem():
    assert not list(stems(sorted([0, 1, 2, 3, 4 + i, 5, 6] for i in range(40)), SIZE))
    assert not list(stems(sorted([0, 1, 2, 4 + i, 5, 6] for i in range(3)), SIZE))
    assert not list(stems([[1, 2, 3]], SIZE))
    assert not list(stems([], SIZE))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), max_size=60))
def test_stems_are_beginnings_in_the_order_of_the_prompts_and_never_cost_more_than_they_spare(prompts):
    prompts = sorted(prompts)
    chosen = list(stems(prompts, SIZE))
    assert [stem.first for stem in chosen] == sorted(stem.first for stem in chosen)
    assert len({tuple(stem.tokens) for stem in chosen}) == len(chosen)
    for stem in chosen:
        assert len(stem.tokens) % SIZE >= OWN
        members = prompts[stem.first : stem.end]
        assert all(prompt[: len(stem.tokens)] == stem.tokens for prompt in members)
    assert computed(prompts, chosen) <= computed(prompts, [])


PAIRS = [
    (f"{start} question {number % 7}, which begins as others do: why is it so? Answer:", f" it is {number}, so to say")
    for start in ("A short", "Another, somewhat longer", "The last and by far the longest of all beginnings of a")
    for number in range(35)
]


def told(model):
    """What a model says of the pairs, and how many tokens it computes for that in how many batches."""
    tokens = []
    run = openvino_graph.Runner.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            openvino_graph.Runner, "run", lambda self, batch: tokens.append(len(batch.tokens)) or run(self, batch)
        )
        scores = [likelihood.total for likelihood in model.score(PAIRS)]
        read = sum(tokens)
        texts = [c.text for c in model.complete([p for p, _ in PAIRS], DRAWN, seeds=range(len(PAIRS)))]
    return scores, texts, read


@pytest.mark.parametrize(("most", "room"), [(2048, 16384), (150, 16384), (60, 4096), (150, 400)])
def test_what_is_computed_once_is_what_would_be_computed_each_time(llama, monkeypatch, most, room):
    """Also where stems are computed in between, some pages known and not computed yet, and with little room."""
    with monkeypatch.context() as patch:
        patch.setattr(openvino_stems, "_WORTH", 1 << 40)
        scores, texts, each = told(OpenVinoModel(llama, dtype="float32"))
    monkeypatch.setattr(openvino_session, "_MOST_TOKENS", most)
    model = OpenVinoModel(llama, dtype="float32", batch_tokens=room)
    found = told(model)
    assert found[0] == pytest.approx(scores, abs=1e-5)
    assert found[1] == texts
    assert found[2] < (0.75 if room > 400 else 1.0) * each


@pytest.mark.parametrize("most", [50, 100, 2048])
def test_no_stem_goes_on_from_a_page_that_waits_to_be_computed(llama, monkeypatch, most):
    """A prompt without a stem fills a page, and the stem of the next ones begins with the same."""
    session = OpenVinoModel(llama, dtype="float32").session()
    size = session.runner.page_size
    pairs = []
    for number in range(8):
        page = [10 + number] * size
        pairs.append(([*page, 5, 5, 5, 5], [6, 7]))
        pairs += [([*page, *range(8, 24), last, 3], [6, last]) for last in range(30, 36)]
    assert [stem.first % 7 for stem in stems(sorted(prompt for prompt, _ in pairs), size)] == [1] * 8
    told = []
    for worth in (1 << 40, openvino_stems._WORTH):
        monkeypatch.setattr(openvino_stems, "_WORTH", worth)
        found = {}
        look_at(session, pairs, lambda i, logits, found=found: found.update({i: logits.clone()}))
        told.append(found)
        monkeypatch.setattr(openvino_session, "_MOST_TOKENS", most)
    for i in range(len(pairs)):
        torch.testing.assert_close(told[1][i], told[0][i], atol=1e-4, rtol=1e-4)


def test_stems_make_room_for_a_text_that_needs_all_of_it(llama, monkeypatch):
    monkeypatch.setattr(openvino_stems, "_WORTH", 1)
    monkeypatch.setattr(openvino_stems, "_SHARE", 1)
    model = OpenVinoModel(llama, dtype="float32", batch_tokens=64)
    long = " ".join(["A short question 1, which is long"] * 6)
    pairs = [*PAIRS[:10], (long, " yes, it is"), (long, " no, it is not")]
    wanted = [OpenVinoModel(llama, dtype="float32").score([pair])[0].total for pair in pairs]
    assert [likelihood.total for likelihood in model.score(pairs)] == pytest.approx(wanted, abs=1e-4)


def test_nothing_is_kept_after_a_call_that_failed(llama, monkeypatch):
    model = OpenVinoModel(llama, dtype="float32")
    wanted = told(model)
    run = openvino_graph.Runner.run
    seen = []

    def failing(self, batch):
        seen.append(len(batch.tokens))
        if len(seen) == 3:
            raise ZeroDivisionError
        return run(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(openvino_session, "_MOST_TOKENS", 60)
        patch.setattr(openvino_graph.Runner, "run", failing)
        with pytest.raises(ZeroDivisionError):
            model.score(PAIRS)
    assert told(model) == wanted
