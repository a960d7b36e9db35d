"""How small integers share 64-bit words, so that sums of words are sums of every lane (spec §10.4).

A vector is cut into blocks of 32,768 words; inside a block the lanes are planar: value l * K + k of a block
of K words lies in lane l of word k. Only the last block may be shorter.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyServer, Misuse
from secagg.session import Words

WORD_BITS: Final = 64
LANE_BITS: Final = (8, 10, 12, 16, 21, 32)  # 8, 6, 5, 4, 3, 2 lanes per word
BLOCK_WORDS: Final = 1 << 15


def headroom(bits: int, sites: int, weight_cap: int) -> int:
    """The least lane width, in bits, that holds the sum of `sites` values of `bits` bits times their weights.

    Raises Misuse if even the widest lane is too narrow.
    """
    largest = sites * weight_cap * ((1 << bits) - 1)
    for lane_bits in LANE_BITS:
        if largest < 1 << lane_bits:
            return lane_bits
    raise Misuse(
        f"{sites} sites x weight cap {weight_cap} x {(1 << bits) - 1} levels exceed the widest lane, "
        f"{LANE_BITS[-1]} bits; lower the weight cap or the bits"
    )


def lanes_per_word(lane_bits: int) -> int:
    """Number of values that share a word. Raises Misuse for a width that is not in LANE_BITS."""
    if lane_bits not in LANE_BITS:
        raise Misuse(f"a lane has one of {LANE_BITS} bits")
    return WORD_BITS // lane_bits


def words_for(size: int, lane_bits: int) -> int:
    """Number of words that `size` values take."""
    return -(-size // lanes_per_word(lane_bits))


def pack(values: NDArray[np.uint32], lane_bits: int, out: Words) -> Words:
    """The words of one block, written to the front of `out` and returned as a view of it.

    values: (K * lanes,), each below 2^lane_bits, filled up with zeros. Raises Misuse.
    """
    lanes = lanes_per_word(lane_bits)
    if values.size % lanes or values.size // lanes > out.size:
        raise Misuse("a block is packed from a whole number of words, no more than fit")
    planes = values.reshape(lanes, -1)
    words = out[: planes.shape[1]]
    np.copyto(words, planes[-1])
    for plane in planes[-2::-1]:
        np.left_shift(words, lane_bits, out=words)
        np.add(words, plane, out=words)
    return words


def unpack(words: Words, lane_bits: int, out: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The lanes of one block in the order of its values: a view of `out`'s front, (K * lanes,).

    Raises FaultyServer if a bit above the lanes is set.
    """
    lanes = lanes_per_word(lane_bits)
    if int(words.max(initial=0)) >> (lanes * lane_bits):
        raise FaultyServer("a sum word has a bit above its lanes")
    planes = out[: lanes * words.size].reshape(lanes, words.size)
    mask = (1 << lane_bits) - 1
    for lane, plane in enumerate(planes):
        np.right_shift(words, lane * lane_bits, out=plane)
        np.bitwise_and(plane, mask, out=plane)
    return planes.reshape(-1)
