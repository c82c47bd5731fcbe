import threading

import pytest

torch = pytest.importorskip("torch")

from isara.backends.parts import cores_for, on_one_core, shares, side_by_side  # noqa: E402

CPU = torch.device("cpu")


def test_parts_come_back_in_order_and_torch_has_its_threads_again():
    before = torch.get_num_threads()
    meeting = threading.Barrier(3, timeout=60)

    def work(part):
        meeting.wait()
        return part, torch.get_num_threads(), threading.get_ident()

    done = side_by_side(work, [5, 3, 4], 3)
    assert [part for part, _, _ in done] == [5, 3, 4]
    assert {threads for _, threads, _ in done} == {max(1, before // 3)}
    assert len({thread for *_, thread in done}) == 3
    assert torch.get_num_threads() == before


def test_one_part_stays_in_its_thread():
    assert side_by_side(lambda part: (part, threading.get_ident()), [7], 2) == [(7, threading.get_ident())]
    assert side_by_side(lambda part: part, [], 2) == []


def test_what_goes_wrong_in_a_part_is_raised_here():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda part: 1 // part, [1, 0], 2)
    assert torch.get_num_threads() == before


def test_on_one_core_torch_has_its_threads_back_afterwards():
    def fail():
        with on_one_core():
            raise KeyError(torch.get_num_threads())

    before = torch.get_num_threads()
    with pytest.raises(KeyError, match="1"):
        fail()
    assert torch.get_num_threads() == before


def test_there_are_as_many_parts_as_cores_where_there_is_enough_to_do(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [cores_for(tokens, 100, CPU) for tokens in (0, 99, 250, 9000)] == [1, 1, 2, 4]
    assert cores_for(9000, 100, torch.device("meta")) == 1


def test_shares_are_of_like_size_and_hold_everything_once():
    sizes = [5, 30, 1, 7, 7, 12, 3]
    parts = shares(sizes, 3)
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert sorted(sum(sizes[i] for i in part) for part in parts) == [17, 18, 30]
    assert shares([4, 4], 3) == [[0], [1]]
