"""One round's map between an update and words: what a session calls (spec §10)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyServer, Misuse
from secagg.lanes import BLOCK_WORDS, lanes_per_word, words_for
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.quantize.blocks import Blocks
from secagg.quantize.levels import Levels
from secagg.quantize.opening import Opened, Opening
from secagg.quantize.params import MAX_RANGE_Q40, QuantizerParams
from secagg.rotate import BLOCK
from secagg.session import Words
from secagg.vector import Vector
from secagg.wire import MAX_SITES


class Quantizer:
    """Makes words out of an update of `size` values, and the mean out of a sum of `words` words."""

    def __init__(self, params: QuantizerParams, sites: int, size: int, range_q40: int, rotation_seed: bytes) -> None:
        """sites: most that are summed. range_q40: R in units of 2^-40. rotation_seed: public, 48 bytes.

        Raises Misuse, also if a lane cannot hold the largest possible sum.
        """
        if not 1 <= sites <= MAX_SITES or size < 1 or not 1 <= range_q40 <= MAX_RANGE_Q40:
            raise Misuse("a quantiser takes 1..100 sites, at least one value and a range of 1..2^52 units")
        if len(rotation_seed) != SEED_BYTES:
            raise Misuse(f"a rotation seed has {SEED_BYTES} bytes")
        if sites * params.weight_cap * params.levels >> params.lane_bits:
            raise Misuse("the largest possible sum does not fit a lane")
        self.params = params
        self.sites = sites
        self.size = size
        self.range_q40 = range_q40
        self.rotation_seed = rotation_seed
        self.words = words_for(size, params.lane_bits)

    def levels(self, values: Vector, weight: int, dither: Stream) -> Levels:
        """The update's levels.

        values: finite float32 (size,), C-contiguous, left as it is. weight: 1..weight cap. dither: the site's
        private stream, never used before. Raises Misuse, before any level.
        """
        if values.dtype != np.float32 or values.shape != (self.size,) or not values.flags.c_contiguous:
            raise Misuse(f"expected contiguous float32 values of shape ({self.size},)")
        if not 1 <= weight <= self.params.weight_cap:
            raise Misuse(f"a weight lies in 1..{self.params.weight_cap}")
        signs = Stream(self.rotation_seed)
        return Levels(self.params, self.range_q40, signs, values=values, weight=weight, dither=dither)

    def blocks(self, values: Vector, weight: int, dither: Stream) -> Blocks:
        """The update in packed blocks of at most 32,768 words; arguments as for `levels`. Raises Misuse."""
        return Blocks(self.levels(values, weight, dither), self.size, self.params.lane_bits, weight)

    def open(self, sum_words: Words, total_weight: int) -> Opened:
        """The weighted mean of the updates that `sum_words` sums, bit-identical on every machine.

        sum_words: uint64 (words,), masks gone. total_weight: sum of the summed sites' weights.
        Raises Misuse for another shape, FaultyServer for what no updates sum to.
        """
        if sum_words.dtype != np.uint64 or sum_words.shape != (self.words,):
            raise Misuse(f"expected a sum of {self.words} uint64 words")
        opening = self._opening(total_weight)
        mean = np.empty(self.size, np.float32)
        lanes = lanes_per_word(self.params.lane_bits)
        for start in range(0, self.words, BLOCK_WORDS):
            words = sum_words[start : start + BLOCK_WORDS]
            opening.block(words, mean[start * lanes : (start + words.size) * lanes])
        return Opened(mean, opening.largest)

    def open_sums(self, sums: Iterable[NDArray[np.uint64]], total_weight: int) -> Opened:
        """As `open`, from the sums of the weighted levels themselves.

        sums: `size` in all, in pieces of a multiple of 4,096 up to the last. Raises Misuse for other pieces.
        """
        opening = self._opening(total_weight)
        mean = np.empty(self.size, np.float32)
        done = 0
        for piece in sums:
            if done % BLOCK or piece.size > self.size - done:
                raise Misuse(f"expected {self.size} sums in pieces of a multiple of {BLOCK}")
            opening.sums(piece, mean[done : done + piece.size])
            done += piece.size
        if done != self.size:
            raise Misuse(f"expected {self.size} sums in pieces of a multiple of {BLOCK}")
        return Opened(mean, opening.largest)

    def _opening(self, total_weight: int) -> Opening:
        if not 1 <= total_weight <= self.sites * self.params.weight_cap:
            raise FaultyServer("the total weight lies outside 1..sites x weight cap")
        signs = Stream(self.rotation_seed)
        return Opening(self.params, self.range_q40, signs, total_weight=total_weight, size=self.size)
