"""The seam: levels taken one by one are the lanes of masked mode, and their sums open to the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.ckks.params import choose
from secagg.errors import Misuse
from secagg.lanes import BLOCK_WORDS, lanes_per_word, unpack
from secagg.quantize import Quantizer
from tests.quantize.made import dither, normal, quantizer, words_of


def lanes(maker: Quantizer, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    width = maker.params.lane_bits
    blocks = [words[start : start + BLOCK_WORDS] for start in range(0, words.size, BLOCK_WORDS)]
    parts = [unpack(block, width, np.empty(block.size * lanes_per_word(width), np.uint64)) for block in blocks]
    return np.concatenate(parts)[: maker.size]


@pytest.mark.parametrize("rotate", [0, 1])
@pytest.mark.parametrize("size", [1, 4096, 8192 * 15, 300_001])
def test_weighted_levels_in_ring_blocks_are_the_lanes_of_the_packed_blocks(size: int, rotate: int) -> None:
    maker = quantizer(size, cap=3, rotate=rotate)
    values = normal(size)
    blocks = maker.levels(values, 3, dither()).weighted(choose(8, 10, 3, size).block_values)
    levels = np.concatenate([block.copy() for block in blocks])
    assert levels.dtype == np.uint32
    assert np.array_equal(levels, lanes(maker, words_of(maker, values, 3)))


@pytest.mark.parametrize("count", [4096, 4096 * 11, 1 << 20])
def test_sums_of_levels_open_to_the_same_bits_as_words(count: int) -> None:
    maker = quantizer(100_003, cap=3)
    words = words_of(maker, normal(100_003), 2) + words_of(maker, normal(100_003, number=1), 3, 1)
    sums = lanes(maker, words)
    opened = maker.open_sums((sums[start : start + count] for start in range(0, sums.size, count)), 5)
    expected = maker.open(words, 5)
    assert opened.values.tobytes() == expected.values.tobytes()
    assert opened.largest == expected.largest


def test_no_rotated_block_is_cut() -> None:
    levels = quantizer(10_000).levels(normal(10_000), 1, dither())
    with pytest.raises(Misuse, match="4096 at a time"):
        levels.take(np.empty(4095, np.uint32))


@pytest.mark.parametrize("sizes", [(4096,), (4096, 5905), (4095, 5905), (4096, 5904, 1)])
def test_sums_of_another_size_or_in_other_pieces_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(Misuse, match="expected 10000 sums"):
        quantizer(10_000).open_sums((np.zeros(size, np.uint64) for size in sizes), 1)


def test_levels_that_end_one_value_short_of_the_end_are_refused() -> None:
    levels = quantizer(10_000).levels(normal(10_000), 1, dither())
    with pytest.raises(Misuse, match="4096 at a time"):
        levels.take(np.empty(9_999, np.uint32))
