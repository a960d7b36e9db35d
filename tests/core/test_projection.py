"""The products that prove a sum are those of the spec, whatever pieces a vector comes in (spec §15.2)."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.lanes import BLOCK_WORDS
from secagg.primitives.prg import Stream
from secagg.projection import PRODUCTS, Projector, project
from tests.sim import Dice


def words_of(count: int) -> np.ndarray:
    return np.frombuffer(Dice(("words", count))(8 * count), "<u8").astype(np.uint64)


def written_out(seed: bytes, words: np.ndarray) -> list[int]:
    """Value k is the sum of s_(w + k) y_w, mod 2^64: one bit and one word after the other."""
    octets = np.frombuffer(Stream(seed).read((words.size + PRODUCTS) // 8 + 1), np.uint8)
    bits = np.unpackbits(octets, bitorder="little").astype(np.uint64)
    return [int((bits[k : k + words.size] * words).sum(dtype=np.uint64)) for k in range(PRODUCTS)]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, BLOCK_WORDS - 1, BLOCK_WORDS, BLOCK_WORDS + 1, 70_001])
def test_the_values_are_the_inner_products_with_the_streams_bits(count: int) -> None:
    seed = Dice("seed")(48)
    assert project(seed, words_of(count)).tolist() == written_out(seed, words_of(count))


@pytest.mark.parametrize("pieces", [(1, 2, 997), (500, 500), (64, 936), (1000,)])
def test_pieces_of_any_length_join_to_the_whole(pieces: tuple[int, ...]) -> None:
    seed, words, start = Dice("seed")(48), words_of(1000), 0
    projector = Projector(seed)
    for length in pieces:
        projector.add(words[start : start + length])
        start += length
    assert projector.values.tolist() == project(seed, words).tolist()


def test_the_largest_words_do_not_round() -> None:
    """Half words of 2^32 - 1 in a full block: every partial sum has to be exact in float64."""
    seed, words = Dice("seed")(48), np.full(BLOCK_WORDS, 2**64 - 1, np.uint64)
    assert project(seed, words).tolist() == written_out(seed, words)
