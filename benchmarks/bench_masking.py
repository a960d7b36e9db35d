"""A site's whole masking stage beside Flower's own SecAgg+ client, in one process, on the CPU clock.

Ours is `MaskedClient.handle` of the ShareBundle, then the encoding as a Flower message: every signature of the
share set verified, k agreements and boxes opened, the update rotated, rounded and packed, k + 1 masks added, the
words hashed and signed. Flower's is `_collect_masked_vectors` of its client mod, which also ends in bytes.
"""

from __future__ import annotations

import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.consortium import masking_stage, update_of
from benchmarks.figures import in_turn, records_of, tell_pair
from benchmarks.flower_secagg import FlowerSite, parameters_of
from fedclient.packets import encode_packet
from secagg.session import ClientSession

CLAIMS = {(4_000_000, 30): 8.0}  # (values, neighbours) -> least ratio
CASES = [(1_000_000, 10), (1_000_000, 30), (1_000_000, 99), (4_000_000, 30)]  # a complete graph has 100 sites

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("size", "neighbours"), CASES)
def test_the_masking_stage_beside_flowers(benchmark: BenchmarkFixture, size: int, neighbours: int) -> None:
    stage, site, bundle = masking_stage(neighbours + 1, size)
    update = update_of(size)
    flower = FlowerSite(neighbours + 1, stage.context.manifest.threshold)
    parameters = parameters_of(update.values)

    def mask(client: ClientSession) -> object:
        return encode_packet(client.handle(bundle))

    pair = in_turn(
        benchmark, mask, lambda: flower.mask(parameters), prepare=lambda: (stage.give(site, update),), rounds=7
    )
    name = f"masking stage, d = {size:,}, {neighbours} neighbours"
    setting = {"role": "site", "values": size, "sites": neighbours + 1, "neighbours": neighbours}
    note = "one stage: boxes opened, update quantised and masked, encoded; ours at 8 bits, Flower's at 22"
    records = records_of(pair, ("masked", "flower-secagg+"), family="peer", stage="masking", **setting, note=note)
    tell_pair(benchmark, name, pair, CLAIMS.get((size, neighbours)), *records)
