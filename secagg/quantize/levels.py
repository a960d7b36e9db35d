"""How an update becomes levels: clip, rotate, round stochastically (spec §10.2, §10.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.errors import Misuse
from secagg.primitives.prg import Stream
from secagg.quantize.params import (
    MAX_RANGE_Q40,
    MAX_VALUE,
    NOISE_BITS,
    NORM_BITS,
    RANGE_BITS,
    QuantizerParams,
)
from secagg.rotate import BLOCK, TILE, flip_signs, spans, transform
from secagg.vector import Vector


class Levels:
    """The quantised values of one update, 0..2^bits - 1, taken from the front.

    After the last: `clipped`, how many values lay outside the range, and `peak_q40`, the largest |rotated value| in
    units of 2^-40, rounded up, at most 2^52. Both are private: only their sums may leave.
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
        """As `Quantizer.levels`. Raises Misuse for a value that is not finite or absurdly large."""
        _require_finite(values)
        self.clipped = 0
        self.peak_q40 = 0
        self._params, self._range_q40, self._weight = params, range_q40, weight
        self._values, self._signs, self._dither = values, signs, dither
        self._done = 0
        self._bound = params.levels << (params.dither_bits - 1)  # what R becomes before the dither is added
        factor = _clip_factor(values, params.clip_norm_q20)
        self._scale = factor * self._bound * 2.0**RANGE_BITS / range_q40
        tile = min(TILE, values.size)
        self._tile, self._scratch = np.empty((2, tile), np.float32)
        self._noise = np.empty(tile, np.uint16)

    def __repr__(self) -> str:
        return f"Levels(size={self._values.size})"

    def take(self, out: NDArray[np.uint32]) -> int:
        """Writes the next levels to the front of `out`, all that are left if fewer, and returns how many.

        out: a multiple of 4,096 long, so that no rotated block is cut, unless the rest fits. Raises Misuse.
        """
        values = self._values[self._done : self._done + out.size]
        self._done += values.size
        if values.size % BLOCK and self._done < self._values.size:
            raise Misuse(f"levels are taken {BLOCK} at a time, or to the end")
        for start in range(0, values.size, TILE):
            self._quantise(values[start : start + TILE], out[start : start + TILE])
        return values.size

    def weighted(self, count: int) -> Iterator[NDArray[np.uint32]]:
        """Levels times the weight, `count` at a time; each is a view of one buffer, overwritten by the next."""
        buffer = np.empty(min(count, self._values.size), np.uint32)
        while taken := self.take(buffer):
            block = buffer[:taken]
            yield np.multiply(block, np.uint32(self._weight), out=block)

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
