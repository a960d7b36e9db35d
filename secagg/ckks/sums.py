"""How the server adds ciphertexts: residue by residue, each site's whole or not at all (spec §13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from secagg.ckks.frames import read
from secagg.ckks.params import PRIME_BITS, RingParams
from secagg.ckks.sampling import Residues, residue_mask
from secagg.session import Words

_MOST_TERMS: Final = (1 << (32 - PRIME_BITS)) - 1  # residues that a 32-bit accumulator holds before it is reduced


class ResidueSum:
    """The running sum mod q of the sites' ciphertexts, 4 bytes for a residue."""

    def __init__(self, params: RingParams) -> None:
        self._params = params
        self._moduli = np.array(params.primes, np.uint32)[:, None]
        shape = len(params.primes)
        self._blocks = [np.zeros((shape, params.coefficients(block)), np.uint32) for block in range(params.blocks)]
        self._terms = 0

    def __repr__(self) -> str:
        return f"ResidueSum(size={self._params.size})"

    def add(self, words: Words | None) -> None:
        """Adds one site's ciphertext, all of it or, raising Malformed, nothing of it."""
        for _ in read(self._params, words):  # the last residue is checked before the first is added
            pass
        self._make_room()
        for total, residues in zip(self._blocks, read(self._params, words), strict=True):
            np.add(total, residues, out=total)

    def remove_mask(self, seed: bytes) -> None:
        """Subtracts the self-mask of a 48-byte seed."""
        self._make_room()
        for block, total in enumerate(self._blocks):
            np.add(total, self._moduli - residue_mask(self._params, seed, block), out=total)

    def blocks(self) -> Iterator[Residues]:
        """The sum, reduced, block by block."""
        for total in self._blocks:
            yield total % self._moduli

    def unreduced(self) -> Iterator[Residues]:
        """The blocks as they were added up, not mod q: exact for up to 255 terms and no mask removed."""
        yield from self._blocks

    def _make_room(self) -> None:
        """Keeps every accumulator below 2^32."""
        if self._terms == _MOST_TERMS:
            for total in self._blocks:
                np.remainder(total, self._moduli, out=total)
            self._terms = 1
        self._terms += 1
