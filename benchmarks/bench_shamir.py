"""Sharing one 32-byte secret among 100 sites and giving it back from 67 shares, beside Flower's functions."""

from __future__ import annotations

import os
import time

import pytest
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import Pair, in_turn, records_of, tell_pair
from benchmarks.records import Record
from secagg.primitives import shamir

SITES, THRESHOLD = 100, 67
LEAST_RATIO = 100.0
SECRET = os.urandom(32)
POINTS = range(1, SITES + 1)

pytestmark = pytest.mark.benchmark(timer=time.process_time)


def sharing(pair: Pair, stage: str) -> tuple[Record, Record]:
    """One secret of 32 bytes."""
    return records_of(pair, ("masked", "flower-secagg+"), family="peer", stage=stage, sites=SITES)


def test_share(benchmark: BenchmarkFixture) -> None:
    def ours() -> object:
        return shamir.split(SECRET, THRESHOLD, POINTS, os.urandom)

    pair = in_turn(benchmark, ours, lambda: create_shares(SECRET, THRESHOLD, SITES), rounds=7)
    tell_pair(benchmark, f"Shamir share, {THRESHOLD} of {SITES}", pair, LEAST_RATIO, *sharing(pair, "share a secret"))


@pytest.mark.parametrize("known", [False, True], ids=["first", "next"])
def test_reconstruct(benchmark: BenchmarkFixture, known: bool) -> None:
    """Of the givers' first secret, Lagrange coefficients included, and of the next ones, which reuse them."""
    ours = shamir.split(SECRET, THRESHOLD, POINTS, os.urandom)
    given = {x: ours[x] for x in POINTS[:THRESHOLD]}
    theirs = create_shares(SECRET, THRESHOLD, SITES)[:THRESHOLD]
    assert shamir.combine(given, THRESHOLD) == SECRET == combine_shares(theirs)

    def combine() -> object:
        if not known:
            shamir._weights.cache_clear()
        return shamir.combine(given, THRESHOLD)

    pair = in_turn(benchmark, combine, lambda: combine_shares(theirs), rounds=7)
    which = "next secret of the same givers" if known else "first secret"
    name = f"Shamir reconstruct, {THRESHOLD} of {SITES}, {which}"
    tell_pair(benchmark, name, pair, LEAST_RATIO, *sharing(pair, f"restore the {which}"))
