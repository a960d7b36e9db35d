"""How levels become packed words, times the site's weight (spec §10.4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secagg.lanes import BLOCK_WORDS, lanes_per_word, pack
from secagg.quantize.levels import Levels
from secagg.session import Words


class Blocks(Iterator[Words]):
    """The packed blocks of one update, in order; each is a view of one buffer, overwritten by the next."""

    def __init__(self, levels: Levels, size: int, lane_bits: int, weight: int) -> None:
        """levels: none taken yet, `size` in all."""
        self._source, self._lane_bits, self._weight, self._size = levels, lane_bits, weight, size
        lanes = lanes_per_word(lane_bits)
        words = min(BLOCK_WORDS, -(-size // lanes))
        self._words = np.empty(words, np.uint64)
        self._levels = np.empty(words * lanes, np.uint32)

    def __repr__(self) -> str:
        return f"Blocks(size={self._size})"

    @property
    def clipped(self) -> int:
        """After the last block: how many values lay outside the range; private."""
        return self._source.clipped

    @property
    def peak_q40(self) -> int:
        """After the last block: the largest |rotated value| in units of 2^-40, rounded up; private."""
        return self._source.peak_q40

    def __next__(self) -> Words:
        count = self._source.take(self._levels)
        if not count:
            raise StopIteration
        words = -(-count // lanes_per_word(self._lane_bits))
        used = self._levels[: words * lanes_per_word(self._lane_bits)]
        used[count:] = 0
        block = pack(used, self._lane_bits, self._words)
        return np.multiply(block, self._weight, out=block)
