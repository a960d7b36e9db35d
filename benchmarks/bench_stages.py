"""What every stage of a round costs every role, scheme by scheme, and what a role's whole work is.

All figures come from whole rounds of real sessions in one process (`watched.py`): the schemes take turns, the sites'
time, the server's and the opening's are told apart, and inside them the stages (`stages.py`). Stages of a role add up
to its total, signatures and encoding included. Bytes are counted from the encoded messages of the middle site.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypedDict

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import Spread, in_turns, record_of, tell
from benchmarks.profile import of_profile
from benchmarks.records import STAGES, Against, Record
from benchmarks.stopwatch import Seconds
from benchmarks.watched import Played, play
from secagg.lanes import headroom, words_for
from secagg.masked.masks import Masks
from secagg.primitives.agreement import agree, derive, load, public_key
from secagg.primitives.prg import SEED_BYTES
from secagg.primitives.shamir import split
from secagg.schemes import SCHEMES

BITS = 12
QUICK = [(100_000, 3), (100_000, 10), (100_000, 30), (100_000, 100), (300_000, 30), (1_000_000, 3), (1_000_000, 30)]
FULL = [
    *((100_000, n) for n in (3, 10, 30, 100)),
    *((1_000_000, n) for n in (3, 30, 100)),  # bench_peers.py has the round of ten sites
    *((4_000_000, n) for n in (3, 10, 30)),
    *((40_000_000, n) for n in (3, 10)),
]
ROLES = ("site", "server", "open")
BEYOND = (300, 1000)  # sites; a session takes 100 of them

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.timeout(3600)]


def rounds_for(size: int, n: int) -> int:
    """Fewer where a round is long, for each gives three sites' figures."""
    return 1 if n >= 100 or size * n > 20_000_000 else 2 if n >= 30 else 3


@pytest.mark.parametrize(("size", "n"), of_profile(QUICK, FULL))
def test_stages_and_totals(benchmark: BenchmarkFixture, size: int, n: int) -> None:
    """The schemes' rounds follow each other; each round gives up to three sites, the server and one opening."""
    for scheme in SCHEMES:
        play(scheme, 3, 1000, BITS)  # what a process does once
    played: dict[str, list[Played]] = {scheme: [] for scheme in SCHEMES}

    def take_turns() -> None:
        for scheme, found in played.items():
            found.append(play(scheme, n, size, BITS))

    benchmark.pedantic(take_turns, rounds=rounds_for(size, n))
    for scheme, found in played.items():
        for role in ROLES:
            others = {other: wholes(theirs, role) for other, theirs in played.items() if other != scheme}
            keep(benchmark, scheme, role, size, n, found, others)


def wholes(played: Sequence[Played], role: str) -> list[Seconds]:
    """The role's whole work in every round, once for each party that was watched."""
    return [sum(stages.values(), Seconds()) for each in played for stages in each.of(role)]


def keep(
    benchmark: BenchmarkFixture, scheme: str, role: str, size: int, n: int, played: Sequence[Played],
    others: Mapping[str, Sequence[Seconds]],
) -> None:  # fmt: skip
    """The records of one role: a total with its bytes, beside what ran in turn with it, and its stages.

    others: one figure for each of ours, or one for each round.
    """
    record = partial(
        Record, scheme=scheme, role=role, values=size, sites=n, neighbours=n - 1, bits=BITS, dropped=0, weight=1
    )
    mine = wholes(played, role)
    against = []
    for other, theirs in others.items():
        each = [spent for spent in theirs for _ in range(len(mine) // len(theirs))]
        against.append(Against(other, tuple(own.cpu / spent.cpu for own, spent in zip(mine, each, strict=True))))
    up, down = (played[-1].up, played[-1].down) if role == "site" else (None, None)
    total = record(
        family="total", bytes_up=up, bytes_down=down, **seconds(mine), against=tuple(against),
        note="a whole round of real sessions in one process, each stage timed apart",
    )  # fmt: skip
    taken = [stages for each in played for stages in each.of(role)]
    stages = sorted({name for each in taken for name in each}, key=STAGES.index)
    parts = [
        record(family="stage", stage=stage, **seconds([each.get(stage, Seconds()) for each in taken]))
        for stage in stages
    ]
    spread = Spread.of([each.cpu for each in mine])
    line = f"{scheme}, {role}, whole round, d = {size:,}, {n} sites, {BITS} bits: {spread.show('ms', 1e3)}"
    tell(benchmark, line + (f", {up:,} bytes up" if up else ""), total, *parts)


class Times(TypedDict):
    """Fields of a record."""

    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]


def seconds(taken: Sequence[Seconds]) -> Times:
    """As a record has them; the clocks may go back by less than they resolve."""
    return {
        "cpu_s": tuple(max(each.cpu, 0.0) for each in taken),
        "wall_s": tuple(max(each.wall, 0.0) for each in taken),
    }


@pytest.mark.parametrize("n", BEYOND)
def test_a_sites_stages_that_grow_with_the_sites(benchmark: BenchmarkFixture, n: int) -> None:
    """The functions alone, without messages and signatures: beyond 100 sites no session can be had."""
    size = of_profile(100_000, 1_000_000)
    threshold = 2 * n // 3 + 1
    own, peers = os.urandom(32), [public_key(os.urandom(32)) for _ in range(n - 1)]
    words = np.zeros(words_for(size, headroom(BITS, n, 1)), np.uint64)
    seeds = [os.urandom(SEED_BYTES) for _ in range(n)]

    def keys() -> None:
        """One agreement to seal, one to open, one for the mask, each with its derivation."""
        for _ in range(3):
            secret = load(own)
            for peer in peers:
                derive(agree(secret, peer), bytes(32), b"benchmark", SEED_BYTES)

    found = in_turns(
        benchmark,
        {
            "keys": keys,
            "shares": lambda: [split(own, threshold, range(1, n + 1), os.urandom) for _ in range(2)],
            "protect": lambda: Masks(seeds, []).apply(words),
        },
    )
    record = partial(
        record_of, family="stage", scheme="masked", role="site", values=size, sites=n, neighbours=n - 1, bits=BITS,
        note="the stage's functions alone; a session takes at most 100 sites",
    )  # fmt: skip
    records = [record(taken, stage=stage) for stage, taken in found.items()]
    parts = ", ".join(f"{stage} {taken.cpu.show('ms', 1e3)}" for stage, taken in found.items())
    line = f"masked, a site's functions, d = {size:,}, {n} sites: {parts}"
    tell(benchmark, line, *records)
