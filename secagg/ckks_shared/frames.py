"""Ciphertexts as words: 60-bit residues of two polynomials each, no header, and their sums (spec §21.5).

A ciphertext has 8,192 residues mod q: c0, then c1, in the order in which SEAL keeps them. Cut into 16 rows of 512, they
are 15 rows of words: the first 15 rows in the low 60 bits, and in the top 4 bits of row p bits 4p..4p+3 of the 16th.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.ckks_shared.params import CIPHERTEXT_WORDS, PRIME, RING_SIZE
from secagg.errors import Malformed, Misuse
from secagg.session import Words

RESIDUES: Final = 2 * RING_SIZE  # of one ciphertext
_ROWS: Final = 15
_COLUMNS: Final = RESIDUES // 16
GROUP: Final = 64  # ciphertexts worked on at a time: 4 MiB of residues
_LOW: Final = np.uint64((1 << 60) - 1)

Residues = NDArray[np.uint64]  # (ciphertexts, 8192)


def pack(residues: Residues) -> Words:
    """The words of some ciphertexts, (7680 * count,). residues: uint64 (count, 8192), below 2^60."""
    rows = residues.reshape(-1, 16, _COLUMNS)
    words = rows[:, :_ROWS].copy()
    for row in range(_ROWS):
        words[:, row] |= (rows[:, _ROWS] >> np.uint64(4 * row)) << np.uint64(60)  # bits above the low 4 fall off
    return words.reshape(-1)


def unpack(words: Words) -> Residues:
    """The residues of some ciphertexts, uint64 (count, 8192). Raises Malformed unless each is below q."""
    rows = words.reshape(-1, _ROWS, _COLUMNS)
    residues = np.empty((len(rows), 16, _COLUMNS), np.uint64)
    np.bitwise_and(rows, _LOW, out=residues[:, :_ROWS])
    last = residues[:, _ROWS]
    last[:] = 0
    for row in range(_ROWS):
        last |= (rows[:, row] >> np.uint64(60)) << np.uint64(4 * row)
    if int(residues.max(initial=0)) >= PRIME:
        raise Malformed("a residue is not below the modulus")
    return residues.reshape(-1, RESIDUES)


def groups(words: Words) -> Iterator[Words]:
    """The words of up to 64 ciphertexts at a time, views. Raises Misuse for a part of a ciphertext."""
    if words.dtype != np.uint64 or words.ndim != 1 or words.size % CIPHERTEXT_WORDS:
        raise Misuse(f"a ciphertext has {CIPHERTEXT_WORDS} words")
    step = GROUP * CIPHERTEXT_WORDS
    return (words[start : start + step] for start in range(0, words.size, step))


def require_residues(words: Words) -> None:
    """Raises Malformed unless every residue is below q."""
    for group in groups(words):
        unpack(group)


def add(total: Words, words: Words) -> None:
    """Adds ciphertexts to their sum, in place, as SEAL's evaluator does. Both have passed `require_residues`."""
    if total.shape != words.shape:
        raise Misuse("a sum of ciphertexts has as many words as each of them")
    for into, group in zip(groups(total), groups(words), strict=True):
        residues = unpack(into)
        np.add(residues, unpack(group), out=residues)
        np.minimum(residues, residues - np.uint64(PRIME), out=residues)  # what is below q wraps to something larger
        into[:] = pack(residues)
