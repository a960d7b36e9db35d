"""Neither the files nor the memory of a server that reads no sum hold any of the adapter, to the session's last moment.

A server that may read the sum is looked at in the same way, and so is a site: there it is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedclient.audit import read_fixed, unwritable
from fedclient.store import STATE, KeptSession
from fedclient.transcript import Transcript
from keys.store import load_site
from secagg.chain import Position
from secagg.config import RoundContext
from secagg.initial import initial_adapter
from secagg.schemes import scheme_named
from secagg.vector import adapter_digest
from tests.processes.memory import WINDOWS, found_in_files, found_in_process, windows
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


def secrets(federation: Running) -> list[bytes]:
    """Pieces of each round's mean and of the adapter after it, as a site that is done reads them from its own store."""
    home = load_site(federation.consortium.homes[DONE])
    (folder,) = (home.home / STATE).iterdir()
    transcript, kept = Transcript(folder, unwritable), KeptSession(folder, home.state_key)
    fixed = read_fixed(transcript)
    manifest, position, pieces = fixed.manifest, Position.start(fixed.manifest), list[bytes]()
    adapter = initial_adapter(fixed.layout, manifest.nonce)
    for round_ in (1, 2):
        attempt = transcript.attempt(round_)
        context = RoundContext(manifest, fixed.roster, position.header(manifest, attempt))
        opening = kept.opening(round_, attempt) or b""
        mean = scheme_named(manifest.scheme).open(context, transcript.aggregate(round_), opening)
        adapter = np.add(adapter, mean.values, dtype=np.float32)
        position = position.after(mean, adapter_digest(fixed.layout, adapter))
        pieces += [*windows(mean.values), *windows(adapter)]
    return pieces


def in_memory(federation: Running, pieces: list[bytes]) -> dict[str, int]:
    """How many of the pieces each process of the server holds, by its command line."""
    return {
        " ".join(process.cmdline()): len(found_in_process(process.pid, pieces))
        for process in federation.server_processes()
    }


def test_no_process_of_a_blind_server_holds_any_of_the_adapter(blind: Running) -> None:
    pieces = secrets(blind)
    held = in_memory(blind, pieces)
    for part in ("fedserver.cli", "superlink", "serverapp"):
        assert any(part in command for command in held), held
    assert set(held.values()) == {0}, held


def test_no_file_of_a_blind_server_holds_any_of_the_adapter(blind: Running) -> None:
    assert found_in_files(blind.results, secrets(blind)) == []


def test_looked_at_in_the_same_way_a_server_that_reads_the_sum_holds_it(readable: Running) -> None:
    pieces = secrets(readable)
    held = in_memory(readable, pieces)
    assert max(held.values()) >= WINDOWS, held


def test_looked_at_in_the_same_way_this_process_holds_what_a_site_read(blind: Running) -> None:
    pieces = secrets(blind)
    assert found_in_process(os.getpid(), pieces) == sorted(pieces)


def test_looked_at_in_the_same_way_a_finished_site_has_it_on_disk(blind: Running) -> None:
    final = secrets(blind)[-WINDOWS:]
    assert found_in_files(blind.folder / "consortium" / "sites" / DONE, final)
