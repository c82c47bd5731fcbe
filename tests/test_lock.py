"""A directory that is held for moments is waited for, and one that stays held is not."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from isara import lock
from isara.errors import RunError
from isara.lock import InUseError, locked, locked_soon


def test_a_directory_that_is_held_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    waits = []
    with ExitStack() as holder:
        holder.enter_context(locked(tmp_path))

        def let_go(seconds):
            waits.append(seconds)
            holder.close()

        monkeypatch.setattr(lock.time, "sleep", let_go)
        with locked_soon(tmp_path), pytest.raises(InUseError, match="in use by process"), locked(tmp_path):
            pass
    assert len(waits) == 1


def test_one_that_stays_held_is_told_of(tmp_path):
    with locked(tmp_path), pytest.raises(InUseError, match="in use by process"), locked_soon(tmp_path, 0.2):
        pass


def test_what_is_wrong_otherwise_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("waited"))
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot hold a run"), locked_soon(tmp_path / "file"):
        pass
