"""128 inner products of a vector of words with random bits: how a sum is checked without its terms (spec §15.2).

A vector that is not zero mod 2^64 has a lowest bit position in which it is not zero; there the products are a
Toeplitz hash over GF(2), so all 128 vanish with probability 2^-128 over the bits.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from secagg.lanes import BLOCK_WORDS
from secagg.primitives.prg import Stream
from secagg.session import Words

PRODUCTS: Final = 128
_OVERLAP: Final = PRODUCTS - 1  # bits that two neighbouring words' windows do not share
_ROW: Final = 16  # words of one row of the matrix product; the window of a row has _ROW + _OVERLAP bits
_WINDOW: Final = _ROW + _OVERLAP
_ROWS: Final = 64  # of one matrix product: OpenBLAS shares larger ones out to threads that wait for each other busily
_DIAGONALS: Final = np.arange(PRODUCTS)[:, None] + (_WINDOW + 1) * np.arange(_ROW)  # entries (i, i + k), for every k
_HALF: Final = np.uint64(32)
_LOW: Final = np.uint64((1 << 32) - 1)


class Projector:
    """Takes a vector's words from the front, in pieces of any length; memory stays constant."""

    def __init__(self, seed: bytes) -> None:
        """seed: 48 bytes of a stream whose bits, least significant of each byte first, are s_0, s_1, ..."""
        self._stream = Stream(seed)
        self._bits: NDArray[np.float64] = np.empty(0)  # drawn and not passed yet
        self._values = np.zeros(PRODUCTS, np.uint64)

    def add(self, words: Words) -> None:
        """Goes on with the vector's next words, uint64."""
        for start in range(0, words.size, BLOCK_WORDS):
            piece = words[start : start + BLOCK_WORDS]
            bits = self._next_bits(piece.size)
            self._values += _products(bits, piece)
            self._bits = bits[piece.size :]

    @property
    def values(self) -> Words:
        """uint64 (128,): value k is the sum over words w so far of s_(w + k) y_w, mod 2^64."""
        return self._values.copy()

    def _next_bits(self, count: int) -> NDArray[np.float64]:
        """At least the bits of the windows of the next `count` words."""
        lacking = count + _OVERLAP - self._bits.size
        octets = np.frombuffer(self._stream.read(max(0, -(-lacking // 8))), np.uint8)
        return np.concatenate((self._bits, np.unpackbits(octets, bitorder="little").astype(np.float64)))


def project(seed: bytes, words: Words) -> Words:
    """The 128 values of a whole vector, uint64."""
    projector = Projector(seed)
    projector.add(words)
    return projector.values


def _products(bits: NDArray[np.float64], words: Words) -> Words:
    """The 128 values of at most BLOCK_WORDS words, as matrix products whose every partial sum is an exact float64.

    A half word is below 2^32, and at most 2^15 of them are added: below 2^47.
    """
    groups = -(-words.size // (_ROWS * _ROW))
    padded = np.zeros(groups * _ROWS * _ROW, np.uint64)
    padded[: words.size] = words
    known = np.zeros(padded.size + _OVERLAP)
    used = min(bits.size, known.size)
    known[:used] = bits[:used]
    windows = np.ascontiguousarray(sliding_window_view(known, _WINDOW)[::_ROW]).reshape(groups, _ROWS, _WINDOW)
    halves = (half.astype(np.float64).reshape(groups, _ROWS, _ROW) for half in (padded & _LOW, padded >> _HALF))
    low_sum, high_sum = (_diagonals((half.transpose(0, 2, 1) @ windows).sum(axis=0)) for half in halves)
    return low_sum + (high_sum << _HALF)


def _diagonals(product: NDArray[np.float64]) -> Words:
    """Value k of a row of words: what word i makes with bit i + k, summed over i."""
    sums: NDArray[np.float64] = product.ravel()[_DIAGONALS].sum(axis=1)
    return sums.astype(np.uint64)
