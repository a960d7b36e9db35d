"""How numbers below 2^24 lie in bytes: 3 each, little-endian, without gaps (spec §13)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.params import RESIDUE_BYTES

_MASK: Final = (1 << (8 * RESIDUE_BYTES)) - 1


def split(octets: bytes | NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Every 3 bytes as one number; overlapping 4-byte reads are ten times faster than copies of 3 bytes each."""
    padded = bytes(octets) + bytes(1)
    numbers: NDArray[np.uint32] = np.ndarray((len(octets) // RESIDUE_BYTES,), "<u4", padded, strides=(RESIDUE_BYTES,))
    return np.bitwise_and(numbers, _MASK)


def join(numbers: NDArray[np.uint32], out: NDArray[np.uint8]) -> None:
    """Writes numbers below 2^24, (k,), over `out`, uint8 (3 k,), C-contiguous."""
    low: NDArray[np.uint16] = np.ndarray(numbers.shape, "<u2", out.data, strides=(RESIDUE_BYTES,))
    np.copyto(low, numbers, casting="unsafe")
    np.copyto(out[2::RESIDUE_BYTES], numbers >> 16, casting="unsafe")
