"""Neither the files nor the memory of a server that reads no sum hold any of the adapter, to the session's last moment.

A server that may read the sum is looked at in the same way, and so is a site: there it is found.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.memory import WINDOWS, found_in_files, found_in_process, held_by_server, learnt_at
from tests.processes.running import Running, running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SITES = tuple(f"site-{i}" for i in range(1, 4))
DONE, LAST = SITES[0], SITES[-1]
OPTIONS = ("--secagg", "ckks", "--model", "toy", "--first-range", "1.0", "--rounds", "2")
READABLE = "--server-reads-sum"


def at_the_end(folder: Path, *more: str) -> Iterator[Running]:
    """A session whose last site has still to answer that it is finished: every process is there yet."""
    with running(folder, *SITES) as federation:
        policy = "server_reads_sum = true\n" if READABLE in more else ""
        for home in federation.consortium.homes.values():
            (home / "policy.toml").write_text(policy)
        federation.start_server(*OPTIONS, *more)
        federation.start_toys(*SITES[:-1], train_s=0.0)
        federation.start_toy(LAST, "hold:finish:2", train_s=0.0)
        for round_ in (1, 2):
            federation.await_one("aggregated", round=round_)
        federation.await_sign(LAST, "hold:finish:2")
        federation.await_file(federation.folder / f"{DONE}.f32")
        yield federation


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    yield from at_the_end(tmp_path_factory.mktemp("blind"))


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    yield from at_the_end(tmp_path_factory.mktemp("readable"), READABLE)


def test_no_process_of_a_blind_server_holds_any_of_the_adapter(blind: Running) -> None:
    pieces = learnt_at(blind, DONE)
    held = held_by_server(blind, pieces)
    assert set(held.values()) == {0}, held


def test_no_file_of_a_blind_server_holds_any_of_the_adapter(blind: Running) -> None:
    assert found_in_files(blind.results, learnt_at(blind, DONE)) == []


def test_looked_at_in_the_same_way_a_server_that_reads_the_sum_holds_it(readable: Running) -> None:
    pieces = learnt_at(readable, DONE)
    held = held_by_server(readable, pieces)
    assert max(held.values()) >= WINDOWS, held


def test_looked_at_in_the_same_way_a_process_that_was_given_it_holds_all_of_it(blind: Running) -> None:
    pieces = learnt_at(blind, DONE)
    hold = "import sys; held = sys.stdin.buffer.read(int(sys.argv[1])); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(sum(len(piece) for piece in pieces))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdin.write(b"".join(pieces))
        child.stdin.flush()
        child.stdout.readline()
        found = found_in_process(child.pid, pieces)
        child.stdin.close()
    assert found == sorted(set(pieces))


def test_looked_at_in_the_same_way_a_finished_site_has_it_on_disk(blind: Running) -> None:
    final = learnt_at(blind, DONE)[-WINDOWS:]
    assert found_in_files(blind.folder / "consortium" / "sites" / DONE, final)
