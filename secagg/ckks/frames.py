"""How residues travel: 3 bytes each, little-endian, block after block, as 8-byte words (spec §13).

A block's bytes are its residues prime by prime, coefficients ascending, and only those in use. Blocks follow each
other without gaps; zero bytes fill the last word. There is exactly one encoding, and nothing in it is parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.octets import join, split
from secagg.ckks.params import RESIDUE_BYTES, RingParams
from secagg.ckks.sampling import Residues
from secagg.errors import Malformed, Misuse
from secagg.session import Words


def write(params: RingParams, blocks: Iterable[Residues]) -> Words:
    """The words of a ciphertext, uint64 (params.words,), from its blocks in order. Raises Misuse for other blocks."""
    words = np.zeros(params.words, "<u8")
    octets = words.view(np.uint8)
    spans = _spans(params)
    for residues in blocks:
        start, stop, coefficients = next(spans, (0, 0, 0))
        if residues.dtype != np.uint32 or residues.shape != (len(params.primes), coefficients):
            raise Misuse("the blocks are not those of the parameters")
        join(residues.reshape(-1), octets[start:stop])
    if next(spans, None) is not None:
        raise Misuse("the blocks are not those of the parameters")
    return words.astype(np.uint64, copy=False)


def read(params: RingParams, words: Words | None) -> Iterator[Residues]:
    """The blocks of a ciphertext; length and padding are checked at once, each block's residues when it comes.

    Raises Malformed: another length, a byte behind the last residue, a residue not below its prime.
    """
    if words is None or words.dtype != np.uint64 or words.shape != (params.words,):
        raise Malformed(f"a ciphertext has {params.words} words")
    octets = np.ascontiguousarray(words, "<u8").view(np.uint8)
    if octets[params.residues * RESIDUE_BYTES :].any():
        raise Malformed("a byte behind the last residue is not zero")
    return _read(params, octets)


def _read(params: RingParams, octets: NDArray[np.uint8]) -> Iterator[Residues]:
    moduli = np.array(params.primes, np.uint32)
    for start, stop, coefficients in _spans(params):
        residues = split(octets[start:stop]).reshape(-1, coefficients)
        if (residues.max(axis=1) >= moduli).any():
            raise Malformed("a residue is not below its prime")
        yield residues


def _spans(params: RingParams) -> Iterator[tuple[int, int, int]]:
    """First byte, byte behind the last, and coefficients of every block."""
    stop = 0
    for block in range(params.blocks):
        coefficients = params.coefficients(block)
        start, stop = stop, stop + RESIDUE_BYTES * len(params.primes) * coefficients
        yield start, stop, coefficients
