"""What the tests of this folder share: a quantiser, its words, deterministic randomness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secagg.lanes import headroom
from secagg.primitives.prg import Stream
from secagg.quantize import Quantizer, QuantizerParams

Q40 = 1 << 40
SEED = bytes(range(48))
LANES = {8: (4, 4), 10: (6, 10), 12: (8, 16), 16: (10, 20), 21: (16, 30), 32: (20, 100)}  # lane: bits, sites


def quantizer(
    size: int,
    *,
    bits: int = 8,
    sites: int = 4,
    cap: int = 1,
    rotate: int = 1,
    clip: int = 0,
    scale: float = 1.0,
) -> Quantizer:
    """A quantiser with the range `scale`."""
    params = QuantizerParams(bits, headroom(bits, sites, cap), cap, rotate, clip)
    return Quantizer(params, sites, size, round(scale * Q40), SEED)


def dither(number: int = 0) -> Stream:
    """A stream of its own for every number."""
    return Stream(number.to_bytes(48, "big"))


def words_of(maker: Quantizer, values: NDArray[np.float32], weight: int = 1, number: int = 0) -> NDArray[np.uint64]:
    """All words of one update."""
    return np.concatenate([block.copy() for block in maker.blocks(values, weight, dither(number))])


def normal(size: int, scale: float = 1.0, number: int = 0) -> NDArray[np.float32]:
    """Normal values, the same in every run."""
    return (np.random.default_rng(number).standard_normal(size) * scale).astype(np.float32)
