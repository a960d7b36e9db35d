"""What is opened is the mean, with the same bits everywhere, and a sum that no updates have is refused."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import FaultyServer, Misuse
from secagg.lanes import LANE_BITS
from tests.quantize import reference
from tests.quantize.made import LANES, SEED, dither, normal, quantizer, words_of

MIB = 1 << 20


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_sum_of_words_is_the_sum_of_every_lane(lane_bits: int, data: st.DataObject) -> None:
    bits, sites = LANES[lane_bits]
    size, cap = data.draw(st.integers(1, 500)), 1
    maker = quantizer(size, bits=bits, sites=sites, cap=cap)
    packed = [words_of(maker, normal(size, number=i), number=i) for i in range(sites)]
    lanes = [reference.lanes_of(words.tolist(), lane_bits, size) for words in packed]
    total = np.sum(packed, axis=0, dtype=np.uint64)
    assert reference.lanes_of(total.tolist(), lane_bits, size) == [sum(column) for column in zip(*lanes, strict=True)]


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_the_largest_possible_sum_opens_to_the_range(lane_bits: int) -> None:
    bits, sites = LANES[lane_bits]
    maker = quantizer(1000, bits=bits, sites=sites, rotate=0)
    top = np.sum([words_of(maker, np.full(1000, 9, np.float32))] * sites, axis=0, dtype=np.uint64)
    opened = maker.open(top, sites)
    assert (opened.values == 1.0).all()
    assert opened.largest == maker.params.levels * sites


def test_weights_weigh() -> None:
    maker = quantizer(5000, bits=16, sites=2, cap=7, scale=5)
    a, b = normal(5000, number=1), normal(5000, number=2)
    mean = maker.open(words_of(maker, a, 7) + words_of(maker, b, 2, 1), 9).values
    assert np.linalg.norm(mean - (7 * a + 2 * b) / 9) < 10 / maker.params.levels * np.sqrt(5000)


@pytest.mark.parametrize("rotate", [0, 1])
@pytest.mark.parametrize("size", [1, 7, 4095, 4096, 100_000])
def test_the_mean_is_off_by_less_than_a_step(size: int, rotate: int) -> None:
    """Each rounding moves a rotated value by less than a step 2R / levels, and the rotation keeps lengths;
    float32 arithmetic on the way in adds less than 1e-6 of a length."""
    maker = quantizer(size, sites=4, rotate=rotate, scale=6)
    updates = [normal(size, number=i) for i in range(4)]
    mean = maker.open(sum(words_of(maker, each, number=i) for i, each in enumerate(updates)), 4).values
    error = mean - np.mean(updates, axis=0, dtype=np.float64)
    step = 2 * 6 / maker.params.levels
    assert np.linalg.norm(error) < step * np.sqrt(size) + 1e-6 * np.linalg.norm(updates)
    if not rotate:
        assert np.abs(error).max() < step * (1 + 1e-4)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_opening_gives_the_bits_of_the_slow_reference(data: st.DataObject) -> None:
    lane_bits = data.draw(st.sampled_from(LANE_BITS))
    bits, sites = LANES[lane_bits]
    size = data.draw(st.integers(1, 9000))
    rotate = data.draw(st.integers(0, 1))
    scale = data.draw(st.integers(1, 1 << 52)) / 2**40
    maker = quantizer(size, bits=bits, sites=sites, rotate=rotate, scale=scale)
    updates = [normal(size, scale=scale / 3, number=i) for i in range(2)]
    total = words_of(maker, updates[0]) + words_of(maker, updates[1], number=1)
    expected = reference.mean_of(
        total.tolist(), bits=bits, lane_bits=lane_bits, rotate=bool(rotate), range_q40=maker.range_q40,
        weight=2, size=size, seed=SEED,
    )  # fmt: skip
    opened = maker.open(total, 2)
    assert opened.values.tobytes() == expected
    full = 2 * maker.params.levels
    assert opened.largest == max(abs(2 * s - full) for s in reference.lanes_of(total.tolist(), lane_bits, size))


PROGRAM = """
import hashlib, numpy as np
from tests.quantize.made import quantizer
maker = quantizer(300_001, bits=20, sites=100)
words = np.random.default_rng(5).integers(0, 100 * (2**20 - 1), (2, maker.words), np.uint64)
words[0, -1:] = 0
total = words[1] + (words[0] << np.uint64(32))
print(hashlib.sha256(maker.open(total, 100).values.tobytes()).hexdigest())
"""


def test_the_bits_do_not_depend_on_threads_or_kernels_of_the_matrix_library() -> None:
    """OPENBLAS_CORETYPE picks kernels with other orders of summation, with and without fused multiply-add."""
    root = Path(__file__).parents[2]
    settings_tried = [("1", "Haswell"), ("2", "Haswell"), ("1", "Nehalem"), ("2", "SkylakeX")]
    digests = set()
    for threads, core in settings_tried:
        env = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": threads,
            "OPENBLAS_CORETYPE": core,
            "PYTHONPATH": str(root),
        }
        run = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, check=False)
        if run.returncode >= 0:  # a kernel this processor lacks dies of a signal
            assert run.returncode == 0, run.stderr.decode()
            digests.add(run.stdout)
    assert len(digests) == 1


def test_a_lane_above_what_the_weights_allow_blames_the_server() -> None:
    maker = quantizer(1000, rotate=0)
    words = words_of(maker, np.full(1000, 9, np.float32))
    maker.open(words, 1)
    words[10] += np.uint64(1)
    with pytest.raises(FaultyServer, match="exceeds"):
        maker.open(words, 1)


@pytest.mark.parametrize("lane_bits", [lane for lane in LANE_BITS if lane < 32])
def test_an_unused_lane_that_is_not_zero_blames_the_server(lane_bits: int) -> None:
    bits, sites = LANES[lane_bits]
    lanes = 64 // lane_bits
    maker = quantizer(10 * lanes - 1, bits=bits, sites=sites)
    words = words_of(maker, normal(10 * lanes - 1))
    words[-1] |= np.uint64(1 << (lane_bits * (lanes - 1)))
    with pytest.raises(FaultyServer, match="unused"):
        maker.open(words, 1)


@pytest.mark.parametrize("weight", [0, -1, 9])
def test_a_total_weight_that_no_sites_have_blames_the_server(weight: int) -> None:
    maker = quantizer(10, sites=4, cap=2)
    with pytest.raises(FaultyServer):
        maker.open(np.zeros(maker.words, np.uint64), weight)


@pytest.mark.parametrize("words", [np.zeros(99, np.uint64), np.zeros(4, np.int64)])
def test_a_sum_of_another_shape_is_refused(words: np.ndarray) -> None:
    with pytest.raises(Misuse):
        quantizer(10, bits=8, sites=100).open(words, 1)


def test_memory_does_not_grow_with_the_vector() -> None:
    """Closing needs the same few buffers for 1 and 4 million values; opening needs the mean besides."""
    closing, opening = zip(*(_peaks(size) for size in (1_000_000, 4_000_000)), strict=True)
    assert max(closing) < 4 * MIB
    assert abs(closing[1] - closing[0]) < MIB / 8
    assert max(opening) < 6 * MIB
    assert abs(opening[1] - opening[0]) < MIB / 8


def _peaks(size: int) -> tuple[int, int]:
    """Peak bytes while closing, and while opening beyond the mean itself."""
    maker, values = quantizer(size, clip=1 << 20), normal(size)
    words = words_of(maker, values)
    tracemalloc.start()
    for _ in maker.blocks(values, 1, dither()):
        pass
    closing = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    maker.open(words, 1)
    opening = tracemalloc.get_traced_memory()[1] - before - 4 * size
    tracemalloc.stop()
    return closing, opening


def test_equal_sums_in_another_order_open_to_equal_bits() -> None:
    maker = quantizer(20_000, sites=3)
    packed = [words_of(maker, normal(20_000, number=i), number=i) for i in range(3)]
    means = [sum(packed[i] for i in order) for order in ((0, 1, 2), (2, 0, 1))]
    digests = {hashlib.sha256(maker.open(total, 3).values.tobytes()).digest() for total in means}
    assert len(digests) == 1
