"""A server that dies goes on from its checkpoint: what is committed stays, a broken attempt gets a new number."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from fedclient import transcript
from fedserver.checkpoint import Checkpoint
from fedserver.plan import ServerError
from secagg.session import Packet
from tests.federation.direct import PHASES, Bench, Killed, Where


def dies_when(bench: Bench, phase: str, round_: int, last: str = "site-03") -> None:
    """The server's process ends when the named site's answer in this phase arrives, once."""
    died: list[Where] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == last and not died and where.asks(phase, round_):
            died.append(where)
            raise Killed
        return packet

    bench.link.alter_reply = reply


def test_a_server_that_dies_between_rounds_goes_on_and_keeps_what_was_committed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Checkpoint.begin_attempt

    def dying(checkpoint: Checkpoint, round_: int) -> int:
        if round_ == 2:
            raise Killed
        return begin(checkpoint, round_)

    monkeypatch.setattr(Checkpoint, "begin_attempt", dying)
    with pytest.raises(Killed):
        bench.run()
    monkeypatch.undo()
    committed = Checkpoint(Path(bench.plan.out) / "state").aggregate(1)
    result = bench.run()
    assert Checkpoint(Path(bench.plan.out) / "state").aggregate(1).head == committed.head
    bench.assert_right(result, bench.names, bench.names)
    assert [each["rounds"] for each in bench.events("resumed")] == [1]
    assert all(learner.trained == [1, 2] for learner in bench.learners.values())


@pytest.mark.parametrize("phase", PHASES)
def test_a_server_that_dies_in_a_round_resumes_with_a_new_attempt_unless_shares_had_left(
    bench: Bench, phase: str
) -> None:
    dies_when(bench, phase, 2)
    with pytest.raises(Killed):
        bench.run()
    if phase == "unmask":
        with pytest.raises(ServerError) as ended:
            bench.run()
        assert "round 2 cannot be tried again: site-01, site-02, site-03 refuse it" in ended.value.problem
        assert bench.contributors() == [bench.names]
    else:
        bench.assert_right(bench.run(), bench.names, bench.names)
        assert [each["attempt"] for each in bench.events("aggregated")] == [1, 1 if phase == "check" else 2]
        assert all(learner.trained == [1, 2] for learner in bench.learners.values())


def test_a_server_and_all_sites_that_die_in_a_round_go_on(bench: Bench) -> None:
    dies_when(bench, "consent", 2)
    with pytest.raises(Killed):
        bench.run()
    bench.restart(*bench.names)
    bench.assert_right(bench.run(), bench.names, bench.names)


def test_a_resumed_session_does_not_wait_for_a_site_that_may_be_missing(bench: Bench) -> None:
    dies_when(bench, "mask", 2)
    with pytest.raises(Killed):
        bench.run()
    bench.link.offline.add("site-01")
    bench.assert_right(bench.run(), bench.names, bench.but("site-01"), saved_at=bench.but("site-01"))


def test_a_finished_session_can_be_resumed_and_changes_nothing(bench: Bench) -> None:
    first = bench.run()
    again = bench.run()
    assert first.adapter is not None and again.adapter is not None
    assert first.adapter.tobytes() == again.adapter.tobytes()
    assert all(learner.trained == [1, 2] for learner in bench.learners.values())


@pytest.mark.parametrize(
    "name", ["manifest.cbor", "rounds/000001/head.cbor", "rounds/000001/words.u64", "rounds/000001/round.json"]
)
def test_a_damaged_checkpoint_is_named_in_two_lines(bench: Bench, name: str) -> None:
    bench.run(rounds=1)
    file = Path(bench.plan.out) / "state" / name
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    ends_damaged(bench)


def test_a_round_that_is_damaged_before_a_site_that_lacks_it_is_back_is_named_in_two_lines(bench: Bench) -> None:
    bench.link.offline.add("site-05")
    head = Path(bench.plan.out) / "state" / "rounds" / "000001" / "head.cbor"

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("check", 2) and bench.link.offline:
            head.unlink()
            bench.link.offline.clear()
        return packet

    bench.link.alter_reply = reply
    with pytest.raises(ServerError) as ended:
        bench.run(rounds=3, min_sites=4)
    assert ended.value.problem == f"{head} is damaged or missing"
    assert ended.value.remedy == "restore it, then go on with fedserver --resume"


def test_a_damaged_list_of_attempts_is_named_in_two_lines(bench: Bench) -> None:
    dies_when(bench, "share", 1)
    with pytest.raises(Killed):
        bench.run()
    (Path(bench.plan.out) / "state" / "attempts.json").write_text("[1")
    ends_damaged(bench)


def ends_damaged(bench: Bench) -> None:
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "damaged" in ended.value.problem
    assert "\n" not in ended.value.problem + ended.value.remedy


class FullDisk:
    """An fsync that fails once, at the n-th file or folder of the checkpoint; it remembers which that was."""

    def __init__(self, folder: Path, nth: int) -> None:
        self.folder, self.left, self.failed_at = folder, nth, ""
        self._fsync = os.fsync

    def __call__(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if str(self.folder) in path and not self.failed_at:
            self.left -= 1
            if self.left < 0:
                self.failed_at = path
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


def test_a_full_disk_at_the_server_ends_the_run_and_loses_no_committed_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flush of the first round fails once; resuming goes on, also with the sum that shares had opened."""
    fsync, seen, nth = os.fsync, set[str](), 0
    while True:
        bench = Bench(tmp_path / f"at-{nth}")
        state = Path(bench.plan.out) / "state"
        disk = FullDisk(state, nth)
        monkeypatch.setattr(os, "fsync", disk)
        with pytest.raises(ServerError) as ended:
            bench.run()
        monkeypatch.setattr(os, "fsync", fsync)
        assert "cannot write" in ended.value.problem and "No space left" in ended.value.problem
        assert "--resume" in ended.value.remedy
        committed = Checkpoint(state).rounds()
        seen.add(Path(disk.failed_at).name)
        if committed:  # only the journal's line of round 1 is missing
            result = bench.run()
            assert result.adapter is not None and Checkpoint(state).rounds() == 2
            assert {learner.saved.tobytes() for learner in bench.learners.values()} == {result.adapter.tobytes()}
            break
        bench.assert_right(bench.run(), bench.names, bench.names)
        shutil.rmtree(bench.folder)
        nth += 1
    assert seen >= {".manifest.cbor.new", ".attempts.json.new", "held.json", "site-01.u64", "head.cbor", "words.u64"}


def test_a_server_that_dies_while_the_sum_is_checked_ends_the_round_when_it_comes_back(bench: Bench) -> None:
    """No site gives a secret again; those that had given projections, or restarted, have their words travel."""
    dies_when(bench, "check", 2)
    with pytest.raises(Killed):
        bench.run()
    bench.restart("site-05")
    bench.link.alter_request = lambda where, packets: packets
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert [each["attempt"] for each in bench.events("aggregated")] == [1, 1]
    assert all(learner.trained == [1, 2] for learner in bench.learners.values())


@pytest.mark.parametrize("name", ["held.json", "vectors/site-01.u64"])
def test_what_a_dead_server_held_is_not_used_when_it_is_damaged(bench: Bench, name: str) -> None:
    dies_when(bench, "check", 2)
    with pytest.raises(Killed):
        bench.run()
    file = Path(bench.plan.out) / "state" / "rounds" / ".next" / name
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "round 2 cannot be tried again" in ended.value.problem


def test_an_attempt_number_is_never_used_twice(tmp_path: Path) -> None:
    numbers: list[int] = []
    for _ in range(3):
        checkpoint = Checkpoint(tmp_path)
        numbers += [checkpoint.begin_attempt(1), checkpoint.begin_attempt(1)]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert Checkpoint(tmp_path).begin_attempt(2) == 1


def test_a_round_that_was_half_written_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write = transcript._write

    def dying(path: Path, content: bytes) -> None:
        if path.name == "words.u64":
            raise Killed
        write(path, content)

    monkeypatch.setattr(transcript, "_write", dying)
    with pytest.raises(Killed):
        bench.run()
    assert Checkpoint(Path(bench.plan.out) / "state").rounds() == 0
