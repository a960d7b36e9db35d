"""A full disk at a site and at the server: nothing wrong leaves, two lines say what to do, and it goes on after that.

Anywhere: RLIMIT_FSIZE, with which the kernel refuses to let any file of the process grow, as a full disk does, only
with the words "File too large". Where a file system can be mounted: a real one of some KiB, filled to its last byte.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fedserver.journal import Journal, read_events
from tests.processes.checking import assert_all_is_well, assert_still_committed, committed
from tests.processes.running import running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "20", "--train-timeout", "20")
AT = (("train", 1), ("mask", 3), ("unmask", 5))  # a round between them, for the last site to come back
ROUNDS = 6
FULL = FIVE[2:]  # the sites whose disk is full, in that order


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A session in which the disk of another site is full in each round, and free again when it is started again."""
    with running(tmp_path_factory.mktemp("full-site"), *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", str(ROUNDS))
        federation.start_toy(FIVE[0], train_s=0.0)
        federation.start_toy(FIVE[1], *(f"hold:train:{round_ + 1}" for _, round_ in AT), train_s=0.0)
        for site, (phase, round_) in zip(FULL, AT, strict=True):
            federation.start_toy(site, f"full:{phase}:{round_}", train_s=0.0)
        ends = {}
        for site, at in zip(FULL, AT, strict=True):
            ends[at] = federation.wait(site), federation.log(site).splitlines()[-2:]
            federation.start_toy(site, train_s=0.0)
            federation.await_sign(FIVE[1], f"hold:train:{at[1] + 1}")
            federation.await_words(site, "connected to", 2)
            federation.let_go(FIVE[1])
        codes = {name: federation.wait(name) for name in ("server", *FIVE)}
        yield federation, ends, codes


@pytest.mark.slow
@pytest.mark.parametrize("at", AT, ids=lambda at: at[0])
def test_a_site_with_a_full_disk_answers_nothing_and_says_why_in_two_lines(story, at):
    federation, ends, _ = story
    code, (problem, remedy) = ends[at]
    assert code == 1
    assert problem.startswith("error: cannot ") and problem.endswith("File too large")
    assert remedy == "free or repair the disk, then start fedclient again"
    site = FULL[AT.index(at)]
    refused = [each for each in federation.events("refused") if each["site"] == site]
    assert (refused[0]["round"], refused[0]["phase"], refused[0]["code"]) == (at[1], at[0], "storage")
    [event] = [each for each in federation.events("aggregated") if each["round"] == at[1]]
    assert event["dropouts"] == ([] if at[0] == "unmask" else [site])  # its vector was in before


@pytest.mark.slow
def test_sites_whose_disk_was_full_take_part_again_once_there_is_room(story):
    federation, _, codes = story
    assert set(codes.values()) == {0}, federation.logs()
    assert_all_is_well(federation, ROUNDS)
    assert "refused: storage" in federation.log("server")


def test_a_server_whose_files_cannot_grow_says_so_and_goes_on_with_resume(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "2")
        federation.start_toys(*FIVE[:-1], train_s=0.0)
        federation.start_toy(FIVE[-1], "hold:mask:2", train_s=0.0)
        federation.await_sign(FIVE[-1], "hold:mask:2")
        before = committed(federation)
        app = federation.part_of_server("flwr-serverapp")
        app.rlimit(psutil.RLIMIT_FSIZE, (0, app.rlimit(psutil.RLIMIT_FSIZE)[1]))
        federation.let_go(FIVE[-1])
        assert federation.wait("server") == 1
        problem, remedy = federation.log("server").splitlines()[-2:]
        assert "cannot write" in problem and problem.endswith(
            "File too large; free some space, then go on with fedserver --resume"
        )
        assert "fedserver --resume" in remedy
        federation.start_server("--resume")
        assert {federation.wait(name) for name in ("server", *FIVE)} == {0}
        assert_still_committed(federation, before)
        assert_all_is_well(federation, 2)


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[tuple[tuple[str, ...], Path]]:
    """A file system of this size on `folder`, in a mount namespace of its own: what to put before a command that
    shall see it, and the folder under which it is seen from here. Skips where nobody may mount one.
    """
    folder.mkdir()
    script = f"mount -t tmpfs -o size={size_kib}k none {folder} && echo mounted && exec sleep 600"
    holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip("no file system can be mounted here")
        yield ("nsenter", "-U", "-m", "--preserve-credentials", "-t", str(holder.pid)), Path(f"/proc/{holder.pid}/root")
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("nsenter")), reason="needs util-linux")
def test_a_server_whose_disk_is_full_to_the_last_byte_keeps_what_is_committed_and_goes_on_with_resume(tmp_path):
    with running(tmp_path, *FIVE) as federation, small_disk(federation.out, 1024) as (inside, root):
        federation.seen_at = root / federation.out.relative_to("/")
        federation.start_server(*OPTIONS, "--rounds", "2", prefix=inside)
        federation.start_toys(*FIVE[:-1], train_s=0.0)
        federation.start_toy(FIVE[-1], "hold:mask:2", train_s=0.0)
        federation.await_sign(FIVE[-1], "hold:mask:2")
        before = committed(federation)
        ballast = federation.seen_at / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        federation.let_go(FIVE[-1])
        assert federation.wait("server") == 1
        said = " ".join(federation.log("server").splitlines()[-2:])
        assert "cannot write" in said and "No space left on device" in said
        assert "go on with fedserver --resume" in said
        ballast.unlink()
        federation.start_server("--resume", prefix=inside)
        assert {federation.wait(name) for name in ("server", *FIVE)} == {0}
        assert_still_committed(federation, before)
        assert_all_is_well(federation, 2)


def test_a_journal_whose_last_line_was_torn_by_a_full_disk_is_readable_after_the_next_event(tmp_path):
    path = tmp_path / "events.jsonl"
    Journal(path).write("round", round=1)
    with path.open("ab") as file:
        file.write(b'{"time": 1.0, "event": "agg')
    Journal(path).write("resumed", rounds=1)
    assert [each["event"] for each in read_events(path)[0]] == ["round", "resumed"]
