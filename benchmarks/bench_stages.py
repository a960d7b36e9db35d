"""What every stage of a round costs every role, scheme by scheme, and what a role's whole work is.

All figures come from whole rounds of real sessions in one process (`watched.py`): the schemes take turns, the sites'
time, the server's and the opening's are told apart, and inside them the stages (`stages.py`). Stages of a role add up
to its total, signatures and encoding included. Bytes are counted from the encoded messages of the middle site.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import Taken, in_turns, record_of, tell
from benchmarks.profile import of_profile
from benchmarks.records import STAGES, Against, Record, add
from benchmarks.stopwatch import Seconds
from benchmarks.watched import Played, play
from secagg.masked.masks import Masks
from secagg.primitives.agreement import agree, derive, load, public_key
from secagg.primitives.prg import SEED_BYTES
from secagg.primitives.shamir import split
from secagg.schemes import SCHEMES

BITS = 12
QUICK = [(100_000, 3), (100_000, 10), (100_000, 30), (100_000, 100), (1_000_000, 3), (1_000_000, 10), (1_000_000, 30)]
FULL = [
    *((size, n) for size in (100_000, 1_000_000) for n in (3, 10, 30, 100)),
    *((4_000_000, n) for n in (3, 10, 30)),
    *((40_000_000, n) for n in (3, 10)),
]
ROLES = ("site", "server", "open")
BEYOND = (100, 300, 1000)  # sites; a session takes 100 of them

pytestmark = [pytest.mark.benchmark(timer=time.process_time), pytest.mark.timeout(3600)]


def rounds_for(size: int, n: int) -> int:
    """Fewer where a round is long, for each gives three sites' figures."""
    return 1 if n >= 100 or size > 4_000_000 else 2 if n >= 30 else 3


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
            taken = [stages for each in found for stages in each.of(role)]
            others = {other: played[other] for other in SCHEMES if other != scheme}
            keep(benchmark, scheme, role, size, n, taken, found[-1], others)
            whole = [sum(stages.values(), Seconds()).cpu for stages in taken]
            middle = float(np.median(whole)) * 1e3
            line = f"{scheme}, {role}, whole round, d = {size:,}, {n} sites, {BITS} bits: {middle:,.1f} ms CPU"
            tell(benchmark, line if role != "site" else f"{line}, {found[-1].up:,} bytes up")


def keep(
    benchmark: BenchmarkFixture, scheme: str, role: str, size: int, n: int, taken: Sequence[dict[str, Seconds]],
    last: Played, others: dict[str, list[Played]],
) -> None:  # fmt: skip
    """The records of one role: a total with the bytes and what it is beside the other schemes, and its stages."""
    setting = {"scheme": scheme, "role": role, "values": size, "sites": n, "neighbours": n - 1, "bits": BITS}
    wholes = [sum(stages.values(), Seconds()) for stages in taken]
    against = []
    for other, found in others.items():
        theirs = [sum(stages.values(), Seconds()) for each in found for stages in each.of(role)]
        ratios = tuple(mine.cpu / their.cpu for mine, their in zip(wholes, theirs, strict=True))
        against.append(Against(other, ratios))
    sent = {"bytes_up": last.up, "bytes_down": last.down} if role == "site" else {}
    note = "a whole round of real sessions in one process, each stage timed apart"
    add(
        benchmark,
        Record(
            family="total", **setting, **sent, **seconds(wholes), dropped=0, weight=1, against=tuple(against), note=note
        ),
    )
    for stage in sorted({name for stages in taken for name in stages}, key=STAGES.index):
        each = [stages.get(stage, Seconds()) for stages in taken]
        add(benchmark, Record(family="stage", stage=stage, **setting, **seconds(each), dropped=0, weight=1))


def seconds(taken: Sequence[Seconds]) -> dict[str, tuple[float, ...]]:
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
    words = np.zeros(size // 3, np.uint64)  # three lanes of 21 bits: 1,000 sites of 11 bits
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
            "protect": partial(mask, seeds, words),
        },
    )
    note = "the stage's functions alone; a session takes at most 100 sites"
    for stage, taken in found.items():
        setting = {"scheme": "masked", "role": "site", "stage": stage, "values": size, "sites": n, "neighbours": n - 1}
        if n > 100:  # up to there test_stages_and_totals has the whole stage
            add(benchmark, record_of(taken, family="stage", **setting, note=note))
    parts = ", ".join(f"{stage} {taken.cpu.show('ms', 1e3)}" for stage, taken in found.items())
    tell(benchmark, f"masked, a site's functions, d = {size:,}, {n} sites: {parts}", **plain(found))


def mask(seeds: Sequence[bytes], words: np.ndarray) -> None:
    Masks(seeds, []).apply(words)


def plain(found: dict[str, Taken]) -> dict[str, object]:
    return {name: list(taken.cpu_s) for name, taken in found.items()}
