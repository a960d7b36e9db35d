"""A site's disk is full, damaged, copied or torn: it refuses, nothing leaves, and it goes on when that is safe."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedclient.store import JoinedSessions, SessionStore, StoreError
from secagg.chain import Answer
from secagg.session import Packet
from tests.federation.direct import PHASES, Bench, Where
from tests.sim import Consortium, Dice

VICTIM = "site-02"


@dataclass
class Disk:
    """Everything that a site flushes, in order; the flush of number `full_at` fails and leaves its file torn."""

    home: Path
    full_at: int = -1
    flushed: list[str] = field(default_factory=list)
    fsync: Callable[[int], None] = os.fsync

    def __call__(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self.home):
            self.flushed.append(path.name)
            if len(self.flushed) == self.full_at + 1:
                if path.is_file():
                    os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 7))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync(descriptor)


def flushes_of_a_session(folder: Path, patch: pytest.MonkeyPatch) -> list[str]:
    bench = Bench(folder)
    disk = Disk(bench.folder / VICTIM)
    patch.setattr(os, "fsync", disk)
    bench.run()
    patch.setattr(os, "fsync", disk.fsync)
    return disk.flushed


def test_every_answer_is_flushed_before_it_leaves(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's line first, then the state, then the reply; and the folder of every file that is new."""
    disk, lines = Disk(bench.folder / VICTIM), []
    monkeypatch.setattr(os, "fsync", disk)

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == VICTIM and where.kind == "answer":
            lines.append(disk.flushed[-3:])
            log = (bench.session_folder(VICTIM) / "answers.log").read_bytes().splitlines()
            assert Answer.decode(bytes.fromhex(log[-1].decode())).stage == (len(lines) - 1) % 6 + 1
        return packet

    bench.link.alter_reply = reply
    bench.run()
    session = bench.session_folder(VICTIM).name
    assert lines == [["answers.log", ".client.sealed.new", session]] * 12


@pytest.mark.parametrize("restarts", [False, True])
def test_a_disk_that_is_full_at_any_flush_costs_at_most_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    """Every second flush of a session each: the site refuses with 'storage', and goes on once there is space."""
    names = flushes_of_a_session(tmp_path / "clean", monkeypatch)
    assert len(names) > 50
    for number in range(int(restarts), len(names), 2):
        bench = Bench(tmp_path / f"at-{number}")
        disk = Disk(bench.folder / VICTIM, number)
        monkeypatch.setattr(os, "fsync", disk)
        if restarts:
            bench.link.alter_request = restarting(bench)
        result = bench.run()
        monkeypatch.setattr(os, "fsync", disk.fsync)
        refused = [where for where, error in bench.link.refusals if isinstance(error, StoreError)]
        assert len(refused) == 1, (number, names[number])
        assert next(code for _, code in bench.codes(VICTIM)) == "storage"
        without = [each for each in bench.contributors() if VICTIM not in each]
        assert len(without) <= 1
        if refused[0].kind == "finish":
            bench.assert_result(result, bench.but(VICTIM))
            result = bench.run()
        bench.assert_result(result)
        shutil.rmtree(bench.folder)


@pytest.mark.parametrize("phase", PHASES)
def test_an_answer_that_a_full_disk_held_back_is_given_when_the_server_asks_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """Nothing had left, so the site works from what its disk says and not from what it has in memory."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.asks(phase):
            disk = Disk(bench.folder / VICTIM, 0)
            monkeypatch.setattr(os, "fsync", disk)
            with pytest.raises(StoreError):
                bench.link.members[VICTIM].handle(where.kind, packets)
            monkeypatch.setattr(os, "fsync", disk.fsync)
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert not bench.link.refusals


def restarting(bench: Bench) -> Callable[[Where, Sequence[Packet]], Sequence[Packet]]:
    """A fedclient that meets a full disk ends, and its operator starts it again."""
    known = [0]

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if len(bench.link.refusals) > known[0]:
            known[0] = len(bench.link.refusals)
            bench.restart(VICTIM)
        return packets

    return request


def test_a_file_that_cannot_be_made_or_read_is_a_refusal_in_two_lines(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(StoreError) as refusal:
        SessionStore(tmp_path, bytes(32), bytes(32))
    assert str(refusal.value) == "storage"
    assert "\n" not in refusal.value.problem + refusal.value.remedy


# ---------------------------------------------------------------------- torn and damaged files


def line(stage: int) -> Answer:
    return Answer(bytes(32), 1, 1, stage, bytes(32))


def test_a_last_line_that_was_cut_short_is_dropped_and_the_log_goes_on(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    for stage in (1, 2):
        store.record(line(stage))
    log = store.folder / "answers.log"
    whole = log.read_bytes()
    for torn in (whole[:-1], whole[:-5], whole + b"84", whole + b"84" * 300):
        log.write_bytes(torn)
        again = SessionStore(tmp_path, bytes(32), bytes(32))
        kept = 1 if len(torn) < len(whole) else 2
        assert again.ledger.last == line(kept)
        again.record(line(3))
        assert SessionStore(tmp_path, bytes(32), bytes(32)).ledger.last == line(3)


def test_a_line_that_was_written_but_not_flushed_leaves_no_rest_behind_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store, fsync = SessionStore(tmp_path, bytes(32), bytes(32)), os.fsync
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError):
        store.record(Answer(bytes(32), 1, 1000, 1, bytes(32)))
    monkeypatch.setattr(os, "fsync", fsync)
    store.record(line(1))
    assert SessionStore(tmp_path, bytes(32), bytes(32)).ledger.last == line(1)


def test_a_log_that_was_never_begun_whole_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(tmp_path, 0)
    monkeypatch.setattr(os, "fsync", disk)
    with pytest.raises(StoreError):
        SessionStore(tmp_path, bytes(32), bytes(32))
    SessionStore(tmp_path, bytes(32), bytes(32)).record(line(1))
    assert SessionStore(tmp_path, bytes(32), bytes(32)).ledger.last == line(1)


def test_a_damaged_line_in_the_middle_of_the_log_is_refused(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, bytes(32), bytes(32))
    for stage in (1, 2):
        store.record(line(stage))
    log = store.folder / "answers.log"
    first, second, third = log.read_bytes().splitlines(keepends=True)
    for damaged in (b"zz" + second[2:], b"\xff" * 10 + b"\n", b"\n", second[:-3] + b"\n"):
        log.write_bytes(first + damaged + third)
        with pytest.raises(StoreError) as refusal:
            SessionStore(tmp_path, bytes(32), bytes(32))
        assert "is damaged" in refusal.value.problem


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("how", [damage, cut])
@pytest.mark.parametrize(
    ("name", "phase", "code"),
    [
        ("client.sealed", "mask", "storage"),
        ("position.cbor", "advertise", None),  # where the damage leaves a valid position, it is another one
        ("adapter-1.f32", "advertise", None),
        ("manifest.cbor", "share", None),
    ],
)
def test_a_site_with_a_damaged_file_takes_no_part_and_the_others_go_on(
    bench: Bench, name: str, phase: str, code: str | None, how: Callable[[Path], None]
) -> None:
    done: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.asks(phase, 2) and not done:
            how(bench.session_folder(VICTIM) / name)
            bench.restart(VICTIM)
            done.append(name)
        return packets

    bench.link.alter_request = request
    result = bench.run()
    bench.assert_right(result, bench.names, bench.but(VICTIM), saved_at=bench.but(VICTIM))
    refused = bench.codes(VICTIM)[0]
    assert refused[0] == phase
    assert refused[1] in (("storage", "refused", "faulty-server") if code is None else (code,))


@pytest.mark.parametrize("how", [damage, cut])
def test_a_damaged_update_is_not_sent(bench: Bench, how: Callable[[Path], None]) -> None:
    """Cut short it is noticed; a flipped bit in it is not, and is the site's own (spec §16.2)."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.asks("advertise", 1) and how is cut:
            cut(bench.session_folder(VICTIM) / "update-1.f32")
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.but(VICTIM) if how is cut else bench.names, bench.names)


# ---------------------------------------------------------------------- copies


def copied_file(folder: Path) -> None:
    shutil.copy(folder / "answers.log", folder / "copy")
    (folder / "copy").replace(folder / "answers.log")


def copied_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "copy")
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)


def without_log(folder: Path) -> None:
    (folder / "answers.log").unlink()


@pytest.mark.parametrize("how", [copied_file, copied_folder, without_log])
def test_a_log_that_is_not_the_one_begun_here_is_refused_for_good(bench: Bench, how: Callable[[Path], None]) -> None:
    """Restored from a backup it may lack answers that have left: the site never answers from it again."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.kind == "start" and len(packets) == 2 and not bench.codes(VICTIM):
            how(bench.session_folder(VICTIM))
            bench.restart(VICTIM)
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.but(VICTIM), saved_at=bench.but(VICTIM))
    assert {code for _, code in bench.codes(VICTIM)} == {"refused" if how is without_log else "storage"}


def test_a_state_folder_that_was_deleted_does_not_let_the_session_begin_anew(bench: Bench) -> None:
    """Neither within the server's life nor after it is resumed and asks for consent once more."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.site == VICTIM and where.kind == "start" and len(packets) == 2 and not bench.codes(VICTIM):
            shutil.rmtree(bench.session_folder(VICTIM))
            bench.restart(VICTIM)
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.but(VICTIM), saved_at=bench.but(VICTIM))
    bench.run()
    assert {code for _, code in bench.codes(VICTIM)} == {"refused"}
    assert ("consent", "refused") in bench.codes(VICTIM)
    assert bench.learners[VICTIM].trained == [1]


# ---------------------------------------------------------------------- the list of sessions


def test_a_damaged_list_of_sessions_is_refused_and_a_full_disk_does_not_damage_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(5)
    first, second = (consortium.manifest(8, nonce=Dice(each)(32)) for each in "ab")
    joined = JoinedSessions(tmp_path)
    joined.note(first)
    disk = Disk(tmp_path, 0)
    monkeypatch.setattr(os, "fsync", disk)
    with pytest.raises(StoreError):
        joined.note(second)
    joined.require_new_or_whole(second)
    joined.note(second)
    assert len((tmp_path / "sessions.log").read_text().splitlines()) == 2
    (tmp_path / "sessions.log").write_bytes(b"\xff")
    with pytest.raises(StoreError):
        joined.require_new_or_whole(first)


# ---------------------------------------------------------------------- who may read it


def test_what_a_site_keeps_is_for_its_owner_only(bench: Bench) -> None:
    """Whatever the umask: files 0600, folders 0700, in the middle of a round and after it."""
    looked: list[str] = []

    def look(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        home = bench.folder / VICTIM
        for path in [home / "sessions.log", home / "state", *(home / "state").rglob("*")]:
            if path.exists():
                mode = stat.S_IMODE(path.stat().st_mode)
                assert mode == (0o700 if path.is_dir() else 0o600), path
                looked.append(path.name)
        return packets

    bench.link.alter_request = look
    before = os.umask(0)
    try:
        bench.run()
    finally:
        os.umask(before)
    assert {"answers.log", "client.sealed", "manifest.cbor", "position.cbor", "sessions.log", "update-2.f32",
            "update-2.meta", "adapter-1.f32", "state"} <= set(looked)  # fmt: skip
