"""Bytes that one site sends up in one round, per value of its update, beside Flower's and plaintext bfloat16.

Counted from encoded messages: the heads of all six replies and 8 bytes for each masked word. "As a message" is
the protobuf in which Flower would carry them, for both. Plaintext bfloat16 is 2 bytes per value, Flower's SecAgg+
an int64 each.
"""

from __future__ import annotations

from functools import cache

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.consortium import SessionRound, update_of
from benchmarks.figures import tell
from benchmarks.flower_secagg import FlowerSite, content_bytes, message_bytes, parameters_of
from benchmarks.records import Record
from fedclient.packets import encode_packet
from fedserver.round import size_of
from secagg.session import Packet

LEAST_FLOWER = 8.0  # bytes per value
CASES = {  # (bits, sites, weight cap) -> most bytes per value; 100 sites of weight 5 fill lanes as 500 of weight 1
    (8, 16, 1): 1.61,
    (12, 100, 5): 2.7,
}
SIZES = (1_000_000, 4_000_000)


def replies_of(bits: int, sites: int, weight_cap: int, size: int) -> list[Packet]:
    """The six replies of the middle site of a whole round.

    The other sites run the same round over 1,000 values, so the replies that hold no vector, which do not depend on
    the number of values, come from there.
    """
    small = small_round(bits, sites, weight_cap)
    large = SessionRound(sites, size, bits, weight_cap).until("mask")
    site = large.middle
    vector = large.give(site, update_of(size, weight=weight_cap)).handle(large.server.requests()[site])
    replies = small.replies[site]
    assert len(replies) == 6 and len(replies[2].head) == len(vector.head)
    return [*replies[:2], vector, *replies[3:]]


@cache
def small_round(bits: int, sites: int, weight_cap: int) -> SessionRound:
    """A whole round over 1,000 values."""
    small = SessionRound(sites, 1000, bits, weight_cap).until("mask")
    for site in small.names:
        small.clients[site] = small.give(site, update_of(1000, weight=weight_cap))
    return small.until("done")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("bits", "sites", "weight_cap"), CASES)
def test_bytes_up_per_value(benchmark: BenchmarkFixture, bits: int, sites: int, weight_cap: int, size: int) -> None:
    arguments = (bits, sites, weight_cap, size)
    replies = benchmark.pedantic(replies_of, args=arguments, rounds=1)
    counted = sum(map(size_of, replies)) / size
    carried = sum(content_bytes(encode_packet(each)) for each in replies) / size
    most = CASES[bits, sites, weight_cap]
    weighed = f", weight cap {weight_cap}" if weight_cap > 1 else ""
    line = f"bytes up per value, {bits} bits, {sites} sites{weighed}, d = {size:,}: {counted:.4f}"
    line += f", as a message {carried:.4f}; bfloat16 2; claim: at most {most}"
    sent = Record(
        family="total", scheme="masked", role="site", values=size, sites=sites, neighbours=sites - 1, bits=bits,
        weight=weight_cap, bytes_up=round(counted * size), note="bytes alone; all six replies of the middle site",
    )  # fmt: skip
    tell(benchmark, line, sent, bytes_per_value=counted, message_bytes_per_value=carried, claimed_bytes=most)
    assert counted <= most


@pytest.mark.parametrize("size", SIZES)
def test_flowers_bytes_up_per_value(benchmark: BenchmarkFixture, size: int) -> None:
    sites = 16

    def replies() -> list[dict[str, object]]:
        flower = FlowerSite(sites, threshold=11)
        return [*flower.replies, flower.mask(parameters_of(update_of(size).values)), flower.unmask(sites)]

    total = sum(map(message_bytes, benchmark.pedantic(replies, rounds=1)))
    sent = total / size
    record = Record(
        family="peer", scheme="flower-secagg+", role="site", values=size, sites=sites, neighbours=sites - 1,
        bytes_up=total, note="bytes alone; all four replies of a site",
    )  # fmt: skip
    line = f"bytes up per value, Flower SecAgg+, {sites} sites, d = {size:,}: {sent:.4f}"
    tell(benchmark, line, record, bytes_per_value=sent)
    assert sent > LEAST_FLOWER
