"""A folder that cannot be made and words that cannot be kept are the site's own trouble, and said so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from fedclient.store import SessionStore, StoreError


def test_a_folder_that_cannot_be_made_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(StoreError) as refusal:
        SessionStore(tmp_path, bytes(32), bytes(32))
    assert "cannot make" in refusal.value.problem


def test_a_full_disk_is_named_when_the_words_that_leave_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(StoreError) as refusal:
        store.save_sent(1, 1, np.zeros(3, np.uint64))
    monkeypatch.undo()
    assert "cannot write" in refusal.value.problem


def test_a_full_disk_leaves_the_state_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    store.save_client(1, 1, b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError):
        store.save_client(1, 1, b"after")
    monkeypatch.undo()
    assert store.client(1, 1) == b"before"
