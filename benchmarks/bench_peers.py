"""Whole rounds side by side: ours, other packages' protected sums, plain averaging, and what the machine can do at all.

All of one table takes turns in one process, and every ratio is of two neighbouring runs. A role's figure is its whole
work in one round over the same updates, from float32 values to the float32 mean, keys that last longer than a round
left out. Peers that are not installed are left out with a message (`pip install 'secagg-lora[peers]'`).

Floors: the mean of plaintext float32 vectors by numpy; AES-256-CTR through `cryptography` over as many bytes as the
site's masks have; a copy of the update's bytes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_stages import BITS, ROLES, keep, seconds, wholes
from benchmarks.consortium import update_of
from benchmarks.figures import Spread, in_turns, record_of, tell
from benchmarks.profile import of_profile
from benchmarks.records import Against, Record
from benchmarks.stopwatch import Part, Seconds, Stopwatch
from benchmarks.tenseal_round import OneVector, SharedKeyRound, with_flares_settings
from benchmarks.watched import Played, play
from secagg.lanes import headroom, words_for
from secagg.masked.masks import Masks
from secagg.primitives.prg import SEED_BYTES
from secagg.schemes import SCHEMES

CASES = of_profile([(1_000_000, 10)], [(1_000_000, 10), (1_000_000, 30), (4_000_000, 10)])
ROUNDS = 3
PIECE = 1 << 18
_T = TypeVar("_T")

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.timeout(3600)]


class Peer:
    """One row of the table. `turn` plays a round and gives each role's seconds."""

    def __init__(self, scheme: str, family: str, note: str, turn: Callable[[], dict[str, Seconds]]) -> None:
        self.scheme, self.family, self.note, self.turn = scheme, family, note, turn
        self.spent: dict[str, list[Seconds]] = {}
        self.sent: dict[str, int] = {}
        self.is_whole = True  # a whole round's work, which ours is divided by

    def play(self) -> None:
        """One more repetition."""
        for role, spent in self.turn().items():
            self.spent.setdefault(role, []).append(spent)


def timed(work: Callable[[], _T]) -> tuple[_T, Seconds]:
    """What it gives and what it took."""
    watch = Stopwatch()
    with watch.at(Part("one", "", "whole")):
        result = work()
    return result, watch.of("one")["whole"]


def flower(n: int, update: np.ndarray) -> Peer:
    """Flower's SecAgg+ with its workflow and mod, defaults, complete graph."""
    from benchmarks.flower_round import play as play_flower

    def turn() -> dict[str, Seconds]:
        spent, up, down, mean = play_flower(n, update)
        assert float(np.abs(mean - update).max()) < 1e-3
        peer.sent = {"bytes_up": up, "bytes_down": down}
        return spent

    peer = Peer("flower-secagg+", "peer", "Flower's own workflow and mod, 22 bits; the server opens the sum", turn)
    return peer


def shared_key(scheme: str, make: Callable[[], SharedKeyRound], n: int, update: np.ndarray) -> Peer:
    """A sum under one CKKS key that all sites hold."""
    round_ = make()

    def turn() -> dict[str, Seconds]:
        message, site = timed(lambda: round_.protect(update))
        total, server = timed(lambda: round_.add([message] * n))
        mean, opened = timed(lambda: round_.open(total, n))
        assert float(np.abs(mean - update).max()) < 1e-3
        peer.sent = {"bytes_up": sum(map(len, message)), "bytes_down": sum(map(len, total))}
        return {"site": site, "server": server, "open": opened}

    peer = Peer(scheme, "peer", f"{round_.name}; all sites share one secret key", turn)
    return peer


def plain_mean(n: int, update: np.ndarray) -> Peer:
    """numpy alone."""

    def average(messages: list[bytes]) -> bytes:
        total = np.zeros(update.size, np.float32)
        for each in messages:
            np.add(total, np.frombuffer(each, np.float32), out=total)
        return np.divide(total, n, out=total).tobytes()

    def turn() -> dict[str, Seconds]:
        message, site = timed(update.tobytes)
        mean, server = timed(lambda: average([message] * n))
        peer.sent = {"bytes_up": len(message), "bytes_down": len(mean)}
        return {"site": site, "server": server}

    peer = Peer("fedavg", "floor", "the mean of plaintext float32 vectors, numpy; nothing is protected", turn)
    return peer


def key_stream(n: int, size: int) -> Peer:
    """AES alone, for the bytes of a site's n masks; one piece of 256 KiB is overwritten again and again."""
    count = 8 * words_for(size, headroom(BITS, n, 1)) * n
    zeros, room = bytes(PIECE), bytearray(PIECE)

    def work() -> None:
        context = Cipher(AES(bytes(32)), CTR(bytes(16))).encryptor()
        for _ in range(count // PIECE):
            context.update_into(zeros, room)
        context.update(zeros[: count % PIECE])

    return part(Peer("aes-ctr", "floor", f"AES-256-CTR of {count:,} bytes", lambda: {"site": timed(work)[1]}))


def copy(update: np.ndarray) -> Peer:
    """The update, copied once."""
    room = np.zeros_like(update)
    note = "one copy of the float32 update"
    return part(Peer("memcpy", "floor", note, lambda: {"site": timed(lambda: np.copyto(room, update))[1]}))


def part(peer: Peer) -> Peer:
    """Less than a round's work: it stands beside it and nothing is divided by it."""
    peer.is_whole = False
    return peer


def installed(benchmark: BenchmarkFixture, package: str, make: Callable[[], Peer]) -> list[Peer]:
    """The peer, or a line that says that it is missing."""
    if find_spec(package):
        return [make()]
    tell(benchmark, f"{package} is not installed; pip install 'secagg-lora[peers]' to be compared with it")
    return []


@pytest.mark.parametrize(("size", "n"), CASES)
def test_whole_rounds_side_by_side(benchmark: BenchmarkFixture, size: int, n: int) -> None:
    update = update_of(size).values
    peers = [
        *installed(benchmark, "flwr", lambda: flower(n, update)),
        *installed(benchmark, "tenseal", lambda: shared_key("tenseal-4096", OneVector, n, update)),
        *installed(benchmark, "tenseal", lambda: shared_key("tenseal-8192-each", with_flares_settings, n, update)),
        plain_mean(n, update), key_stream(n, size), copy(update),
    ]  # fmt: skip
    if not find_spec("nvflare"):
        tell(benchmark, "nvflare is not installed: FLARE's settings are run through TenSEAL alone")
    played: dict[str, list[Played]] = {scheme: [] for scheme in SCHEMES}

    def take_turns() -> None:
        for scheme, found in played.items():
            found.append(play(scheme, n, size, BITS))
        for peer in peers:
            peer.play()

    for scheme in SCHEMES:
        play(scheme, 3, 1000, BITS)  # what a process does once
    benchmark.pedantic(take_turns, rounds=ROUNDS)
    for scheme, found in played.items():
        for role in ROLES:
            others = {other: wholes(theirs, role) for other, theirs in played.items() if other != scheme}
            others |= {peer.scheme: peer.spent[role] for peer in peers if role in peer.spent and peer.is_whole}
            keep(benchmark, scheme, role, size, n, found, others)
    for peer in peers:
        tell_peer(benchmark, peer, size, n, played)


def tell_peer(benchmark: BenchmarkFixture, peer: Peer, size: int, n: int, played: dict[str, list[Played]]) -> None:
    """Its records, and lines with its CPU time as a multiple of each of our schemes'."""
    for role, spent in peer.spent.items():
        against = []
        for scheme, found in played.items() if peer.is_whole else ():
            ours = [wholes([each], role) for each in found]
            middle = [float(np.median([party.cpu for party in each])) for each in ours]
            ratios = tuple(theirs.cpu / mine for theirs, mine in zip(spent, middle, strict=True))
            against.append(Against(scheme, ratios))
        sent = peer.sent if role == "site" else {}
        record = Record(
            family=peer.family, scheme=peer.scheme, role=role, values=size, sites=n, neighbours=n - 1, dropped=0,
            against=tuple(against), note=peer.note, **seconds(spent), bytes_up=sent.get("bytes_up"),
            bytes_down=sent.get("bytes_down"),
        )  # fmt: skip
        times = ", ".join(f"{Spread.of(each.ratios).show('x', digits=3)} of {each.scheme}" for each in against)
        took = Spread.of([each.cpu for each in spent]).show("ms", 1e3)
        line = f"{peer.scheme}, {role}, d = {size:,}, {n} sites: {took}" + (f": {times}" if times else "")
        tell(benchmark, line + (f", {sent['bytes_up']:,} bytes up" if sent else ""), record)


@pytest.mark.parametrize("n", of_profile([11, 31], [11, 31, 100]))
def test_masks_beside_aes_alone(benchmark: BenchmarkFixture, n: int) -> None:
    """A site's masks, expanded and added, over AES-256-CTR of the same bytes."""
    size = 1_000_000
    words = np.zeros(words_for(size, headroom(BITS, n, 1)), np.uint64)
    seeds = [os.urandom(SEED_BYTES) for _ in range(n)]
    floor = key_stream(n, size)
    ways = {"masked": lambda: Masks(seeds, []).apply(words), "aes-ctr": floor.play}
    found = in_turns(benchmark, ways, rounds=9)
    ratio = Spread.of(found["masked"].against(found["aes-ctr"]))
    setting = {"role": "site", "values": size, "sites": n, "neighbours": n - 1, "bits": BITS}
    masks = record_of(
        found["masked"], {"aes-ctr": found["aes-ctr"]}, family="stage", scheme="masked", stage="protect", **setting,
        note="masks expanded and added, over AES-256-CTR of the same bytes",
    )  # fmt: skip
    alone = record_of(
        found["aes-ctr"], {"masked": found["masked"]}, family="floor", scheme="aes-ctr", **setting, note=floor.note
    )
    line = f"masks of {n - 1} neighbours and one's own, d = {size:,}: {found['masked'].cpu.show('ms', 1e3)}"
    tell(benchmark, f"{line}, {ratio.show('x', digits=2)} of AES-256-CTR alone", masks, alone)
