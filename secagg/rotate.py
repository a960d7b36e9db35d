"""The randomised Hadamard rotation that spreads every entry over its block, exact on integers (spec §10.2).

Signs come from a public stream; blocks of 4,096 values are transformed in three passes of 16 x 16 matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from secagg.primitives.prg import Stream

BLOCK: Final = 1 << 12  # values per full rotation block
TILE: Final = 1 << 16  # values worked on at a time: fewer cost more calls, many more leave the L2 cache
_RADIX: Final = 16  # every matrix product stays below 2^18 multiplications, so OpenBLAS wakes no threads
_SIGN_BIT: Final = 31

Real = TypeVar("Real", np.float32, np.float64)


def spans(count: int, rotate: bool) -> Iterator[tuple[slice, int]]:
    """The runs of equal rotation blocks in a tile of `count` values, each with its block size.

    Full blocks first, then the powers of two of the rest, largest first. Not rotated: one run of blocks of 1.
    """
    if not rotate:
        yield slice(0, count), 1
        return
    start = count - count % BLOCK
    if start:
        yield slice(0, start), BLOCK
    for power in reversed(range(BLOCK.bit_length() - 1)):
        block = 1 << power
        if count & block:
            yield slice(start, start + block), block
            start += block


def transform(values: NDArray[Real], scratch: NDArray[Real], block: int) -> NDArray[Real]:
    """The Walsh-Hadamard transform of every run of `block` values, not normalised.

    Works in `values` and `scratch` (as long) and returns the one that holds the result. On float64 that holds
    integers below 2^53 / block every partial sum is exact, so no order of summation changes a bit.
    Each pass transforms the leading base-16 digit of the index and moves it to the end (Pease 1968).
    """
    source, target, left = values, scratch, block
    while left > 1:
        radix = min(_RADIX, left)
        rows = source.reshape(-1, radix, block // radix).transpose(0, 2, 1)
        np.matmul(rows, hadamard_matrix(radix, source.dtype), out=target.reshape(-1, block // radix, radix))
        source, target, left = target, source, left // radix
    return source


@cache
def hadamard_matrix(order: int, dtype: np.dtype[Real]) -> NDArray[Real]:
    """Sylvester's matrix: entry (i, j) is -1 to the number of ones in i AND j."""
    matrix = np.ones((1, 1), dtype)
    while matrix.shape[0] < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.ascontiguousarray(matrix)


def flip_signs(values: NDArray[np.float32], signs: Stream, out: NDArray[np.float32]) -> None:
    """Writes `values` to `out` (which may be the same array), each negated if its bit of `signs` is 1.

    Both (m,), C-contiguous, m <= TILE and a multiple of 8 in every call but the last: value j of the vector
    belongs to bit j of the stream, the least significant bit of every byte first.
    """
    octets = np.frombuffer(signs.read(-(-values.size // 8)), np.uint8)
    flips = np.unpackbits(octets, count=values.size, bitorder="little").astype(np.uint32)
    np.left_shift(flips, _SIGN_BIT, out=flips)
    np.bitwise_xor(values.view(np.uint32), flips, out=out.view(np.uint32))
