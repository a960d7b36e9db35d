"""How an update becomes packed words: clip, rotate, round stochastically, weigh, pack (spec §10.2-10.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.errors import Misuse
from secagg.lanes import BLOCK_WORDS, lanes_per_word, pack
from secagg.primitives.prg import Stream
from secagg.quantize.params import (
    MAX_RANGE_Q40,
    MAX_VALUE,
    NOISE_BITS,
    NORM_BITS,
    RANGE_BITS,
    QuantizerParams,
)
from secagg.rotate import TILE, flip_signs, spans, transform
from secagg.session import Words
from secagg.vector import Vector


class Blocks(Iterator[Words]):
    """The packed blocks of one update, in order; each is a view of one buffer, overwritten by the next.

    After the last block: `clipped`, how many values lay outside the range, and `peak_q40`, the largest
    |rotated value| in units of 2^-40, rounded up, at most 2^52. Both are private: only their sums may leave.
    """

    def __init__(
        self,
        params: QuantizerParams,
        range_q40: int,
        signs: Stream,
        *,
        values: Vector,
        weight: int,
        dither: Stream,
    ) -> None:
        """As `Quantizer.blocks`. Raises Misuse for a value that is not finite or absurdly large."""
        _require_finite(values)
        self.clipped = 0
        self.peak_q40 = 0
        self._params, self._range_q40, self._weight = params, range_q40, weight
        self._values, self._signs, self._dither = values, signs, dither
        self._done = 0
        self._lanes = lanes_per_word(params.lane_bits)
        self._bound = params.levels << (params.dither_bits - 1)  # what R becomes before the dither is added
        factor = _clip_factor(values, params.clip_norm_q20)
        self._scale = factor * self._bound * 2.0**RANGE_BITS / range_q40
        words = min(BLOCK_WORDS, -(-values.size // self._lanes))
        self._words = np.empty(words, np.uint64)
        self._levels = np.empty(words * self._lanes, np.uint32)
        tile = min(TILE, values.size)
        self._tile, self._scratch = np.empty((2, tile), np.float32)
        self._noise = np.empty(tile, np.uint16)

    def __repr__(self) -> str:
        return f"Blocks(size={self._values.size})"

    def __next__(self) -> Words:
        values = self._values[self._done : self._done + BLOCK_WORDS * self._lanes]
        if not values.size:
            raise StopIteration
        self._done += values.size
        for start in range(0, values.size, TILE):
            self._quantise(values[start : start + TILE], self._levels[start : start + TILE])
        words = -(-values.size // self._lanes)
        self._levels[values.size : words * self._lanes] = 0
        block = pack(self._levels[: words * self._lanes], self._params.lane_bits, self._words)
        return np.multiply(block, self._weight, out=block)

    def _quantise(self, values: Vector, out: NDArray[np.uint32]) -> None:
        """Writes one tile, rotated and rounded to 0..levels, to the front of `out`."""
        tile, scratch = self._tile[: values.size], self._scratch[: values.size]
        if self._params.rotate:
            flip_signs(values, self._signs, tile)
        else:
            np.copyto(tile, values)
        noise = self._noise[: values.size]
        self._dither.fill(noise)
        np.right_shift(noise, NOISE_BITS - self._params.dither_bits, out=noise)
        for span, block in spans(values.size, bool(self._params.rotate)):
            scaled = self._scale_and_clip(transform(tile[span], scratch[span], block), block)
            self._round(scaled, noise[span], out[span])

    def _scale_and_clip(self, rotated: Vector, block: int) -> Vector:
        """The normalised values in units of 2^-dither_bits steps, within -bound..bound, in place."""
        with np.errstate(over="ignore"):  # what overflows is clipped
            scaled = np.multiply(rotated, np.float32(self._scale / math.sqrt(block)), out=rotated)
        peak = max(float(scaled.max()), -float(scaled.min()))
        self._note_peak(peak)
        if peak > self._bound:
            self.clipped += int(np.count_nonzero(np.abs(scaled) > self._bound))
            np.clip(scaled, -self._bound, self._bound, out=scaled)
        return scaled

    def _note_peak(self, peak: float) -> None:
        units = min(peak / self._bound * self._range_q40, float(MAX_RANGE_Q40))
        self.peak_q40 = max(self.peak_q40, math.ceil(units))

    def _round(self, scaled: Vector, noise: NDArray[np.uint16], out: NDArray[np.uint32]) -> None:
        """Writes floor((value + bound + noise) / 2^dither_bits), all in integers, to `out`."""
        np.rint(scaled, out=scaled)
        np.copyto(out.view(np.int32), scaled, casting="unsafe")
        np.add(out, np.uint32(self._bound), out=out)  # mod 2^32, so that negative values come out right
        np.add(out, noise, out=out)
        np.right_shift(out, self._params.dither_bits, out=out)


def _require_finite(values: Vector) -> None:
    largest = max(float(values.max()), -float(values.min()))  # NaN if any value is
    if not math.isfinite(largest):
        raise Misuse("the update is not finite")
    if largest > MAX_VALUE:
        raise Misuse("the update has a value beyond 2^64")


def _clip_factor(values: Vector, clip_norm_q20: int) -> float:
    """What brings the L2 norm down to the bound: at most 1, and 1 if there is no bound."""
    if not clip_norm_q20:
        return 1.0
    square = 0.0
    for start in range(0, values.size, TILE):
        tile = values[start : start + TILE].astype(np.float64)
        square += float(np.dot(tile, tile))
    bound = clip_norm_q20 / (1 << NORM_BITS)
    return min(1.0, bound / math.sqrt(square)) if square else 1.0
