"""Pages of keys and values: who shares which, when room runs out, and what is forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from isara.backends.openvino_pages import Pages


def test_prompts_that_begin_alike_share_the_pages_that_they_fill_alike():
    pages = Pages(12, 4)
    first = pages.lease([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 12)
    second = pages.lease([1, 2, 3, 4, 5, 6, 7, 0, 9, 10], 12)
    third = pages.lease([1, 2, 3, 4, 5, 6, 7, 8, 11, 12], 16)
    assert [first.known, second.known, third.known] == [0, 4, 8]
    assert first.pages[0] == second.pages[0] == third.pages[0]
    assert first.pages[1] == third.pages[1] != second.pages[1]
    assert len({*first.pages[2:], *second.pages[1:], *third.pages[2:]}) == 1 + 2 + 2


def test_the_last_two_tokens_are_always_computed():
    pages = Pages(8, 4)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    pages.lease(prompt, 9)
    assert pages.lease(prompt, 9).known == 4
    assert pages.lease([*prompt, 10], 10).known == 4
    assert pages.lease([*prompt, 11], 10).known == 8, "the prompt of ten had two more, and so gave its second page away"


def test_the_same_tokens_after_other_ones_are_another_content():
    pages = Pages(8, 2)
    pages.lease([1, 1, 2, 2, 3, 3], 6)
    assert pages.lease([9, 9, 2, 2, 3, 3], 6).known == 0


def test_without_room_there_is_no_lease_and_nothing_changes():
    pages = Pages(4, 4)
    first = pages.lease([1] * 6, 12)
    assert pages.lease([2] * 6, 8) is None
    pages.give_back(first)
    assert len(pages.lease([2] * 6, 16).pages) == 4


def test_idle_pages_stay_known_until_the_room_is_needed_and_go_oldest_first():
    pages = Pages(6, 2)
    for token in (1, 2, 3):
        pages.give_back(pages.lease([token] * 4, 4))
    pages.give_back(pages.lease([4] * 4, 8))
    assert [pages.lease([token] * 4, 4).known for token in (3, 1)] == [2, 0]


def test_what_was_forgotten_is_computed_again():
    pages = Pages(6, 2)
    kept = pages.lease([1] * 6, 6)
    pages.give_back(pages.lease([2] * 6, 6))
    pages.forget()
    assert pages.lease([2] * 4, 4).known == 0
    pages.give_back(kept)


def test_a_kept_page_is_copied_by_what_goes_on_from_it_until_it_is_let_go():
    pages = Pages(12, 4)
    stem = [1, 2, 3, 4, 5, 6]
    lease = pages.lease(stem, 6)
    assert pages.lease([*stem, 7, 8], 8).known == 4, "nothing is copied that may not be computed yet"
    pages.keep(stem, lease)
    longer = pages.lease([*stem, 7, 8], 9)
    assert (longer.known, longer.copied) == (6, lease.pages[1])
    assert longer.pages[0] == lease.pages[0]
    assert longer.pages[1] != lease.pages[1]
    assert pages.lease([*stem, 7], 7).copied is None, "two tokens are its own"
    assert pages.lease([1, 2, 3, 4, 5, 0, 7, 8], 8).copied is None
    pages.let_go(stem, lease)
    assert pages.lease([*stem, 7, 9], 8).copied is None


def test_of_two_kept_pages_the_one_with_more_in_common_is_copied():
    pages = Pages(12, 8)
    kept = {}
    for stem in ([1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9, 9]):
        kept[len(stem)] = pages.lease(stem, len(stem))
        pages.keep(stem, kept[len(stem)])
    found = {last: pages.lease([1, 2, 3, 4, last, 6, 7], 7) for last in (5, 6)}
    assert [(lease.known, lease.copied) for lease in found.values()] == [
        (5, kept[5].pages[0]),
        (3, kept[3].pages[0]),
    ]
    pages.let_go([1, 2, 3, 4, 5], kept[5])
    assert pages.lease([1, 2, 3, 4, 5, 6, 7], 7).known == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_page_serves_two_contents_at_once(data):
    """Against a plain record of what each page holds, over random comings and goings."""
    pages = Pages(10, 2)
    holds, leases = {}, []
    for _ in range(30):
        if leases and data.draw(st.booleans()):
            lease, _ = leases.pop(data.draw(st.integers(0, len(leases) - 1)))
            pages.give_back(lease)
            continue
        prompt = data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
        length = len(prompt) + data.draw(st.integers(0, 4))
        lease = pages.lease(prompt, length)
        if lease is None:
            assert sum(len(set(other.pages)) for other, _ in leases) + -(-length // 2) > 10 - 5
            continue
        used = {page for other, shareable in leases for page in other.pages[shareable:]}
        assert not used & set(lease.pages), "a page in which another sequence writes"
        assert len(set(lease.pages)) == len(lease.pages) == -(-length // 2)
        for place, page in enumerate(lease.pages):
            content = tuple(prompt[: 2 * place + 2])
            if place < lease.known // 2:
                assert holds[page] == content
            holds[page] = content
        leases.append((lease, max(0, len(prompt) - 2) // 2))
