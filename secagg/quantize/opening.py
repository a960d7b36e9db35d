"""How a sum of words becomes the mean, with the same bits on every machine (spec §10.5).

Lanes are integers, the inverse rotation adds and subtracts integers below 2^53, and then there is one
multiplication in float64 and one rounding to float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyServer
from secagg.lanes import BLOCK_WORDS, lanes_per_word, unpack
from secagg.primitives.prg import Stream
from secagg.quantize.params import RANGE_BITS, QuantizerParams
from secagg.rotate import TILE, flip_signs, spans, transform
from secagg.session import Words
from secagg.vector import Vector


@dataclass(frozen=True, slots=True)
class Opened:
    """The weighted mean and `largest`, its largest |rotated entry| in units of range / (levels * weight).

    values: float32 (size,). largest: the exact integer max |C| of spec §10.5.
    """

    values: Vector = field(repr=False)
    largest: int


class Opening:
    """Opens a sum block by block."""

    def __init__(self, params: QuantizerParams, range_q40: int, signs: Stream, *, total_weight: int, size: int) -> None:
        self.largest = 0
        self._params, self._signs = params, signs
        self._range = range_q40 / (1 << RANGE_BITS)  # exact
        self._full = params.levels * total_weight  # the sum's largest possible lane; below 2^32
        words = min(BLOCK_WORDS, -(-size // lanes_per_word(params.lane_bits)))
        self._lanes = np.empty(words * lanes_per_word(params.lane_bits), np.uint64)
        self._tile, self._scratch = np.empty((2, min(TILE, size)), np.float64)

    def block(self, words: Words, out: Vector) -> None:
        """Writes the mean of one block's values to `out`. Raises FaultyServer for what no updates sum to."""
        sums = unpack(words, self._params.lane_bits, self._lanes)
        if sums[out.size :].any():
            raise FaultyServer("an unused lane of the sum is not zero")
        self.sums(sums[: out.size], out)

    def sums(self, sums: NDArray[np.uint64], out: Vector) -> None:
        """Writes the mean of the next sums of levels to `out`, as long. Raises FaultyServer as `block` does."""
        low, high = int(sums.min()), int(sums.max())
        if high > self._full:
            raise FaultyServer("a lane of the sum exceeds the total weight times the levels")
        self.largest = max(self.largest, 2 * high - self._full, self._full - 2 * low)
        for start in range(0, out.size, TILE):
            self._open(sums[start : start + TILE], out[start : start + TILE])

    def _open(self, sums: NDArray[np.uint64], out: Vector) -> None:
        """The mean of one tile. The order of operations is normative: spec §10.5."""
        tile, scratch = self._tile[: out.size], self._scratch[: out.size]
        np.copyto(tile, sums)
        np.multiply(tile, 2.0, out=tile)
        np.subtract(tile, float(self._full), out=tile)
        for span, block in spans(out.size, bool(self._params.rotate)):
            whole = transform(tile[span], scratch[span], block)
            np.multiply(whole, self._range / (self._full * math.sqrt(block)), out=whole)
            np.copyto(out[span], whole, casting="same_kind")
        if self._params.rotate:
            flip_signs(out, self._signs, out)
