"""Spec §10 a second time, slowly: Python integers and floats only, one value at a time."""

from __future__ import annotations

import math
import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

BLOCK_WORDS = 32768


def lanes_of(words: list[int], lane_bits: int, size: int) -> list[int]:
    """The first `size` lanes of planar blocks."""
    lanes, values = 64 // lane_bits, []
    for start in range(0, len(words), BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS]
        for lane in range(lanes):
            values += [(word >> (lane * lane_bits)) % (1 << lane_bits) for word in block]
    return values[:size]


def rotation_blocks(size: int, rotate: bool) -> list[int]:
    """Sizes of the rotation blocks, in order."""
    if not rotate:
        return [1] * size
    rest = size % 4096
    return [4096] * (size // 4096) + [1 << k for k in reversed(range(12)) if rest >> k & 1]


def hadamard(values: list[int]) -> list[int]:
    """Sylvester's Walsh-Hadamard transform by butterflies."""
    if len(values) == 1:
        return values
    half = len(values) // 2
    low, high = values[:half], values[half:]
    return hadamard([a + b for a, b in zip(low, high, strict=True)]) + hadamard(
        [a - b for a, b in zip(low, high, strict=True)]
    )


def signs(seed: bytes, size: int) -> list[int]:
    """+1 or -1 per value."""
    stream = Cipher(AES(seed[:32]), CTR(seed[32:])).encryptor().update(bytes(size // 8 + 1))
    return [-1 if stream[j // 8] >> (j % 8) & 1 else 1 for j in range(size)]


def mean_of(
    words: list[int],
    *,
    bits: int,
    lane_bits: int,
    rotate: bool,
    range_q40: int,
    weight: int,
    size: int,
    seed: bytes,
) -> bytes:
    """The mean's float32 values as little-endian bytes."""
    full = (2**bits - 1) * weight
    c = [2 * s - full for s in lanes_of(words, lane_bits, size)]
    flips = signs(seed, size) if rotate else [1] * size
    mean, start = [], 0
    for block in rotation_blocks(size, rotate):
        factor = (range_q40 / 2**40) / (full * math.sqrt(block))
        mean += [z * factor for z in hadamard(c[start : start + block])]
        start += block
    return struct.pack(f"<{size}f", *(sign * value for sign, value in zip(flips, mean, strict=True)))
