"""A session's folder: a round is there when it is whole and flushed, and whatever is damaged is named."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedclient.transcript import Damaged, Transcript
from secagg.session import Packet
from secagg.vector import Layout
from tests.sim import Consortium

CONSORTIUM = Consortium(5)
MANIFEST = CONSORTIUM.manifest(8)
LAYOUT = Layout((("vector", (8,)),))
WORDS = np.arange(3, dtype=np.uint64)


class Failed(Exception):
    """What the caller makes of a disk's error."""


def transcript(folder: Path) -> Transcript:
    return Transcript(folder, lambda act, path, error: Failed(f"cannot {act} {path.name}: {error.strerror}"))


def one_round(folder: Path) -> Transcript:
    """A described session with one finished round and a vector of it."""
    made = transcript(folder)
    made.describe(MANIFEST, CONSORTIUM.roster, LAYOUT)
    made.archive().put("site-01", WORDS)
    made.save(1, 2, ("site-01",), Packet(b"head", WORDS))
    return made


def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
    )
    return names


# ---------------------------------------------------------------------- what is flushed


def test_what_a_session_fixes_is_flushed_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = flushed(monkeypatch)
    transcript(tmp_path).describe(MANIFEST, CONSORTIUM.roster, LAYOUT)
    files = (".roster.cbor.new", ".layout.json.new", ".manifest.cbor.new")
    assert names == [name for file in files for name in (file, tmp_path.name)]


def test_everything_of_a_round_is_flushed_before_the_round_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = transcript(tmp_path), []
    made.archive().put("site-01", WORDS)
    names = flushed(monkeypatch)
    real = os.fsync

    def spy(descriptor: int) -> None:
        real(descriptor)
        there.append((tmp_path / "rounds" / "000001").exists())

    monkeypatch.setattr(os, "fsync", spy)
    made.save(1, 1, ("site-01",), Packet(b"head", WORDS))
    assert sorted(names[:-1]) == [".next", "head.cbor", "round.json", "site-01.u64", "vectors", "words.u64"]
    assert names[-1] == "rounds"
    assert there == [False] * 6 + [True]


def test_everything_that_is_held_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = transcript(tmp_path)
    made.archive().put("site-01", WORDS)
    names = flushed(monkeypatch)
    made.hold(1, 1, b"blob")
    assert sorted(names) == [".next", "held.json", "site-01.u64", "vectors"]


# ---------------------------------------------------------------------- what a full disk leaves


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_round(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(os, "fsync", full)
    for call in (
        lambda: made.write("manifest.cbor", b"another"),
        lambda: made.save(1, 3, (), Packet(b"another", None)),
        lambda: made.save(2, 1, (), Packet(b"next", None)),
    ):
        with pytest.raises(Failed, match="No space left"):
            call()
        assert {path: path.read_bytes() for path in before} == before
        assert made.rounds() == 1


def test_a_full_disk_is_named_whatever_is_kept(tmp_path: Path) -> None:
    """A file stands where a folder should be: nothing below it can be written."""
    made = one_round(tmp_path)
    archive = made.archive()
    (tmp_path / "rounds" / ".next" / "vectors").rmdir()
    (tmp_path / "rounds" / ".next" / "vectors").write_text("a file")
    with pytest.raises(Failed, match=r"cannot write site-01\.u64"):
        archive.put("site-01", WORDS)
    (tmp_path / "blocked").write_text("a file")
    for call in (
        lambda: transcript(tmp_path / "blocked").write("a", b""),
        lambda: transcript(tmp_path / "blocked").archive(),
        lambda: transcript(tmp_path / "blocked").hold(1, 1, b""),
    ):
        with pytest.raises(Failed, match="cannot write"):
            call()


# ---------------------------------------------------------------------- what is damaged


@pytest.mark.parametrize("name", ["head.cbor", "round.json"])
def test_a_round_that_lacks_a_file_is_named(tmp_path: Path, name: str) -> None:
    made = one_round(tmp_path)
    assert (made.attempt(1), made.aggregate(1).head, made.size_of(1)) == (2, b"head", 4 + 24)
    (tmp_path / "rounds" / "000001" / name).unlink()
    with pytest.raises(Damaged, match="damaged or missing"):
        made.aggregate(1) if name == "head.cbor" else made.attempt(1)
    for damaged in ("[1", "[]", "{}", '{"attempt": null}'):
        (tmp_path / "rounds" / "000001" / "round.json").write_text(damaged)
        with pytest.raises(Damaged):
            made.attempt(1)


def test_a_round_whose_size_cannot_be_told_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = one_round(tmp_path)

    def gone(path: Path, **_: object) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "stat", gone)
    with pytest.raises(Damaged):
        made.size_of(1)


def test_a_vector_that_is_missing_or_torn_is_named(tmp_path: Path) -> None:
    made = one_round(tmp_path)
    vectors = made.vectors(1)
    assert vectors.sites() == {"site-01"}
    assert vectors.get("site-01").tolist() == WORDS.tolist()
    with pytest.raises(Damaged):
        vectors.get("site-02")
    path = tmp_path / "rounds" / "000001" / "vectors" / "site-01.u64"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Damaged):
        vectors.get("site-01")
    made.forget_vectors(1)
    assert vectors.sites() == set()


@pytest.mark.parametrize("name", ["manifest.cbor", "roster.cbor", "layout.json"])
def test_what_a_session_fixes_is_whole_or_named(tmp_path: Path, name: str) -> None:
    made = one_round(tmp_path)
    read: dict[str, Callable[[], object]] = {
        "manifest.cbor": made.manifest, "roster.cbor": made.roster, "layout.json": made.layout,
    }  # fmt: skip
    assert (made.manifest(), made.roster(), made.layout()) == (MANIFEST, CONSORTIUM.roster, LAYOUT)
    for damaged in (b"\xff", b"", b"[]", b'[["b", [1]], ["a", [1]]]', b'[["a", ["x"]]]', b"[1]"):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(Damaged, match=name):
            read[name]()
    (tmp_path / name).unlink()
    with pytest.raises(Damaged, match=name):
        read[name]()


# ---------------------------------------------------------------------- what is held


def test_an_archive_begins_empty_and_is_held_for_its_own_round_only(tmp_path: Path) -> None:
    """What an attempt that came to nothing left behind is not the next one's."""
    made = transcript(tmp_path)
    made.archive().put("site-01", WORDS)
    made.hold(3, 2, b"blob")
    held = made.held(3)
    assert held is not None and held[:2] == (2, b"blob") and held[2].sites() == {"site-01"}
    assert made.held(2) is made.held(4) is None
    assert made.archive().sites() == set()
    assert made.held(3) is None


def test_a_transcript_is_for_its_owner_only(tmp_path: Path) -> None:
    """Whatever the umask. It holds no update; who took part and with whom is nobody else's business."""
    before = os.umask(0)
    try:
        made = one_round(tmp_path)
        made.archive().put("site-02", WORDS)
        made.hold(2, 1, b"blob")
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
