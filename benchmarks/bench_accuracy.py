"""How far the aggregate is from the float mean, by bits and scheme, through whole rounds of real sessions.

The updates are normal, as those of LoRA factors nearly are after the rotation; the range is six standard deviations,
so that nothing is clipped. The error is that of stochastic rounding alone: the value is the root mean square of
(aggregate - float64 mean) over that of the mean.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.consortium import RANGE_Q40, update_of
from benchmarks.figures import tell
from benchmarks.profile import of_profile
from benchmarks.records import Record
from benchmarks.watched import play
from secagg.schemes import SCHEMES
from tests.sim import plain_mean

SITES = 5
BITS = of_profile((4, 6, 8, 10, 12, 16, 20), tuple(range(4, 21)))
# Rounding x steps up with probability frac(x) errs by at most 1/2 of a step in the root mean square, at frac = 1/2,
# and independently at every site; 2 % for the sample, and float32 of the mean and the rotation at the bottom.
SLACK, FLOAT = 1.02, 2.0**-22


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_error_by_bits(benchmark: BenchmarkFixture, scheme: str) -> None:
    size = of_profile(100_000, 1_000_000)
    updates = [update_of(size, seed) for seed in range(SITES)]
    exact = plain_mean({str(number): each for number, each in enumerate(updates)}, [str(n) for n in range(SITES)])

    def errors() -> dict[int, float]:
        means = {bits: play(scheme, SITES, size, bits, updates).mean for bits in BITS}
        assert not any(mean.totals.clipped for mean in means.values())
        return {bits: rms(mean.values - exact) for bits, mean in means.items()}

    found = benchmark.pedantic(errors, rounds=1)
    record = partial(
        Record, family="accuracy", scheme=scheme, values=size, sites=SITES, neighbours=SITES - 1, weight=1,
        unit="rms error / rms mean",
    )  # fmt: skip
    records = [record(bits=bits, value=error / rms(exact)) for bits, error in found.items()]
    shown = ", ".join(f"{each.bits} bits {each.value:.1e}" for each in records)
    tell(benchmark, f"error of the mean, {scheme}, d = {size:,}, {SITES} sites: {shown}", *records)
    for bits, error in found.items():
        step = 2 * RANGE_Q40 / 2.0**40 / ((1 << bits) - 1)
        assert error <= SLACK * step / 2 / math.sqrt(SITES) + FLOAT * rms(exact)


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
