"""What quantising, masking and opening cost on one core, step by step; bench_masking.py has the whole stage.

Run: OPENBLAS_NUM_THREADS=1 python -m pytest benchmarks/bench_quantize.py --benchmark-columns=min,median
All figures are CPU seconds. No step uses a number of threads other than one.
"""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.records import Record, add
from secagg.lanes import BLOCK_WORDS, headroom
from secagg.masked.masks import Masks, unmask
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.quantize import Quantizer, QuantizerParams

SIZE = 4_000_000
NEIGHBOURS = 30
BITS = 8

pytestmark = pytest.mark.benchmark(timer=time.process_time, min_rounds=5, max_time=0.3, warmup=False)


def quantizer(bits: int = BITS, rotate: int = 1) -> Quantizer:
    """A quantiser for one site and its neighbours, whose range is six standard deviations."""
    sites = NEIGHBOURS + 1
    params = QuantizerParams(bits, headroom(bits, sites, 1), 1, rotate, 0)
    return Quantizer(params, sites, SIZE, round(0.06 * 2**40), bytes(SEED_BYTES))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(SIZE) * 0.01).astype(np.float32)


def seeds(count: int) -> list[bytes]:
    return [os.urandom(SEED_BYTES) for _ in range(count)]


def close(maker: Quantizer, values: np.ndarray) -> np.ndarray:
    """All words of one update, without masks."""
    words, start = np.empty(maker.words, np.uint64), 0
    for block in maker.blocks(values, 1, Stream(os.urandom(SEED_BYTES))):
        words[start : start + block.size] = block
        start += block.size
    return words


def keep(benchmark: BenchmarkFixture, stage: str, role: str, bits: int, rotate: int) -> None:
    """The fixture's own repetitions as a record; without the rotation a round has no such stage."""
    if rotate and benchmark.stats:  # none with --benchmark-disable
        taken = tuple(benchmark.stats.stats.data)
        record = Record(
            family="stage", scheme="masked", role=role, stage=stage, values=SIZE, sites=NEIGHBOURS + 1,
            neighbours=NEIGHBOURS, bits=bits, cpu_s=taken, note="the functions alone",
        )  # fmt: skip
        add(benchmark, record)


@pytest.mark.parametrize("rotate", [0, 1])
@pytest.mark.parametrize("bits", [8, 16, 20])
def test_quantise_and_pack(benchmark: BenchmarkFixture, values: np.ndarray, bits: int, rotate: int) -> None:
    benchmark(close, quantizer(bits, rotate), values)
    keep(benchmark, "quantise", "site", bits, rotate)


@pytest.mark.parametrize("rotate", [0, 1])
def test_open(benchmark: BenchmarkFixture, values: np.ndarray, rotate: int) -> None:
    maker = quantizer(rotate=rotate)
    benchmark(maker.open, close(maker, values), 1)
    keep(benchmark, "dequantise", "open", BITS, rotate)


def test_one_mask_on_8_megabytes(benchmark: BenchmarkFixture) -> None:
    words = np.zeros(SIZE // 4, np.uint64)
    benchmark(lambda: Masks(seeds(1), []).apply(words))


@pytest.mark.parametrize("threads", [1, 2])
def test_unmask_100_masks(benchmark: BenchmarkFixture, threads: int) -> None:
    words = np.zeros(8 * BLOCK_WORDS, np.uint64)
    benchmark(unmask, words, seeds(50), seeds(50), threads)
