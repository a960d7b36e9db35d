"""A site's disk: what it refuses is an error in two lines; what it keeps is flushed, its own, and erased in time."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedclient.store import JoinedSessions, SessionStore, StoreError, forget_other_sessions
from fedserver.checkpoint import Checkpoint
from fedserver.plan import ServerError
from secagg.chain import Answer, Position
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


def test_a_folder_that_cannot_be_made_or_is_gone_is_named(tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "home", bytes(32), bytes(32))
    shutil.rmtree(store.folder)
    with pytest.raises(StoreError) as refusal:
        store.save_sent(1, 1, np.zeros(3, np.uint64))
    assert "cannot write" in refusal.value.problem and "sent-1.1.u64" in refusal.value.problem
    (tmp_path / "file").write_text("a file where the home should be")
    with pytest.raises(StoreError) as refusal:
        SessionStore(tmp_path / "file", bytes(32), bytes(32))
    assert "cannot make" in refusal.value.problem


def test_a_list_of_sessions_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError) as refusal:
        JoinedSessions(tmp_path).note(MANIFEST)
    assert "cannot write" in refusal.value.problem and "sessions.log" in refusal.value.problem


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


def test_a_servers_disk_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ServerError, match="server") as ended:
        checkpoint.begin_attempt(1)
    assert "cannot write" in ended.value.problem and "No space left" in ended.value.problem
    assert "--resume" in ended.value.remedy


# ---------------------------------------------------------------------- what is flushed, and in which order


def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files and folders, in the order in which they are flushed from now on."""
    names: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    return names


def test_what_begins_a_session_is_flushed_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log, or a list of sessions, that a crash takes back would let the session begin anew."""
    names = flushed(monkeypatch)
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    assert names == [".answers.log.new", store.folder.name]
    del names[:]
    JoinedSessions(tmp_path).note(MANIFEST)
    assert names == [".sessions.log.new", tmp_path.name]


def test_the_adapter_is_on_disk_before_the_place_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = SessionStore(tmp_path, bytes(32), bytes(32)), flushed(monkeypatch)
    store.save_position(Position.start(MANIFEST), np.zeros(8, np.float32))
    folder = store.folder.name
    assert names == [".adapter-0.f32.new", folder, ".position.cbor.new", folder]


# ---------------------------------------------------------------------- what is read back


def line(attempt: int) -> Answer:
    return Answer(bytes(32), 1, attempt, 1, bytes(32))


def test_the_log_in_memory_is_the_log_on_disk(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    for attempt in (1, 2, 3):
        store.record(line(attempt))
        assert store.ledger.last == SessionStore(tmp_path, bytes(32), bytes(32)).ledger.last == line(attempt)


def test_a_log_of_another_session_is_refused(tmp_path: Path) -> None:
    """The very file that was begun here, under another session's name."""
    one = SessionStore(tmp_path, bytes(32), bytes(32))
    other = one.folder.with_name((b"o" * 32).hex())
    other.mkdir(mode=0o700)
    (one.folder / "answers.log").rename(other / "answers.log")
    with pytest.raises(StoreError) as refusal:
        SessionStore(tmp_path, b"o" * 32, bytes(32))
    assert "is not the log that was begun here" in refusal.value.problem


def test_the_state_of_another_attempt_is_nobodys(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    store.save_client(3, 2, b"state")
    assert store.client(3, 2) == b"state"
    assert [store.client(*other) for other in ((3, 1), (3, 3), (2, 2), (4, 2))] == [None] * 4


def test_masked_words_are_kept_of_the_last_attempt_only_and_whole_or_not_at_all(tmp_path: Path) -> None:
    store, words = SessionStore(tmp_path, bytes(32), bytes(32)), np.arange(5, dtype=np.uint64)
    store.save_sent(1, 1, words)
    store.save_sent(1, 2, words + np.uint64(1))
    assert [path.name for path in store.folder.glob("sent-*")] == ["sent-1.2.u64"]
    sent = store.sent(1, 2)
    assert sent is not None and sent.tolist() == [1, 2, 3, 4, 5]
    assert store.sent(1, 1) is None
    path = store.folder / "sent-1.2.u64"
    path.write_bytes(path.read_bytes()[:-3])
    assert store.sent(1, 2) is None


# ---------------------------------------------------------------------- what is erased


def filled(home: Path, session: bytes) -> SessionStore:
    """A store in the middle of a round, with what a crash may have left half written."""
    store = SessionStore(home, session, bytes(32))
    store.save_update(1, random_update("u", 8))
    store.save_client(1, 1, b"state")
    store.save_sent(1, 1, np.zeros(3, np.uint64))
    for name in (".update-2.f32.new", ".update-2.meta.new", ".client.sealed.new"):
        (store.folder / name).write_bytes(b"half")
    return store


def kept(store: SessionStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_nothing_of_a_round_that_is_over_stays_whatever_a_crash_left(tmp_path: Path) -> None:
    store = filled(tmp_path, bytes(32))
    assert len(kept(store)) == 8
    store.forget_round()
    assert kept(store) == ["answers.log"]


def test_a_new_update_takes_the_place_of_every_earlier_one(tmp_path: Path) -> None:
    store = filled(tmp_path, bytes(32))
    store.save_update(2, random_update("v", 8))
    assert [name for name in kept(store) if "update" in name] == ["update-2.f32", "update-2.meta"]


def test_nothing_secret_of_another_session_stays(tmp_path: Path) -> None:
    one, other = filled(tmp_path, b"1" * 32), filled(tmp_path, b"2" * 32)
    before = kept(one)
    forget_other_sessions(tmp_path, b"1" * 32)
    assert kept(one) == before
    assert kept(other) == ["answers.log"]
