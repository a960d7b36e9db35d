"""Whatever the disk refuses at a site or at the server becomes an error in two lines, and never a traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedclient.store import JoinedSessions, SessionStore, StoreError
from fedserver.checkpoint import Checkpoint
from fedserver.plan import ServerError
from secagg.chain import Answer
from secagg.session import Packet
from secagg.vector import Layout
from tests.sim import Consortium, random_update

CONSORTIUM = Consortium(5)
MANIFEST = CONSORTIUM.manifest(8)


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


WRITES: dict[str, Callable[[SessionStore], None]] = {
    "an update": lambda store: store.save_update(1, random_update("u", 8)),
    "a sealed state": lambda store: store.save_client(1, 1, b"state"),
    "a line of the log": lambda store: store.record(Answer(bytes(32), 1, 1, 1, bytes(32))),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_disk_that_is_full_is_named_and_leaves_no_half_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    before = sorted(path.name for path in store.folder.iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError) as refusal:
        WRITES[what](store)
    assert "cannot write" in refusal.value.problem and "No space left" in refusal.value.problem
    assert sorted(path.name for path in store.folder.iterdir()) == before
    assert store.ledger.last is None


def test_a_disk_that_is_full_is_named_when_a_session_or_a_round_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    monkeypatch.setattr(os, "fsync", full)
    layout = Layout((("vector", (8,)),))
    for call in (
        lambda: store.save_session(MANIFEST, CONSORTIUM.roster, layout),
        lambda: store.save_round(1, 1, CONSORTIUM.names, Packet(b"head", np.zeros(3, np.uint64))),
    ):
        with pytest.raises(StoreError) as refusal:
            call()
        assert "cannot write" in refusal.value.problem
    assert store.manifest() is None
    assert not (store.folder / "rounds" / "000001").exists()


def test_a_file_that_cannot_be_read_or_removed_is_named(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    for name in ("manifest.cbor", "update-1.f32"):
        (store.folder / name).mkdir()  # what is no file can neither be read nor removed as one
    for call in (store.manifest, lambda: store.update(1), store.forget_update, store.forget_round):
        with pytest.raises(StoreError, match="storage") as refusal:
            call()
        assert "cannot re" in refusal.value.problem and str(store.folder) in refusal.value.problem


def test_a_list_of_sessions_that_cannot_be_read_lets_none_begin(tmp_path: Path) -> None:
    (tmp_path / "sessions.log").mkdir()
    for call in (JoinedSessions(tmp_path).require_new_or_whole, JoinedSessions(tmp_path).note):
        with pytest.raises(StoreError) as refusal:
            call(MANIFEST)
        assert "cannot read" in refusal.value.problem


def test_a_servers_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(ServerError, match="server") as ended:
        Checkpoint(tmp_path / "out")
    assert "cannot make" in ended.value.problem
    assert "--out" in ended.value.remedy
