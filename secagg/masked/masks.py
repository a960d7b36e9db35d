"""How masks are added to a vector and taken away again: expand a block, add it mod 2^64 (spec §9.3, §11).

The add has to be one of 64 bits: lanes of the sum carry into each other until the last mask is gone, so a
32-bit add corrupts them without any sign of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from secagg.errors import Misuse
from secagg.lanes import BLOCK_WORDS
from secagg.primitives.prg import Stream
from secagg.session import Words

_WORD_BYTES = 8


class Masks:
    """All masks of one vector, expanded together from the front, a block at a time."""

    def __init__(self, plus: Sequence[bytes], minus: Sequence[bytes], start_word: int = 0) -> None:
        """plus, minus: 48-byte seeds of the masks to add and to subtract. start_word: words to skip, even.

        Raises Misuse.
        """
        self._plus = [Stream(seed, start_word * _WORD_BYTES) for seed in plus]
        self._minus = [Stream(seed, start_word * _WORD_BYTES) for seed in minus]
        self._pad = np.empty(0, np.uint64)

    def apply(self, block: Words) -> None:
        """Adds the masks' next words to `block` in place: uint64, C-contiguous, of any length."""
        require_vector(block)
        for start in range(0, block.size, BLOCK_WORDS):
            self._apply_piece(block[start : start + BLOCK_WORDS])

    def _apply_piece(self, piece: Words) -> None:
        if self._pad.size < piece.size:
            self._pad = np.empty(piece.size, np.uint64)
        pad = self._pad[: piece.size]
        for stream in self._plus:
            stream.fill(pad)
            np.add(piece, pad, out=piece)
        for stream in self._minus:
            stream.fill(pad)
            np.subtract(piece, pad, out=piece)


def unmask(words: Words, plus: Sequence[bytes], minus: Sequence[bytes], threads: int = 1) -> None:
    """Does `Masks(plus, minus).apply(words)`, each thread on its own slice of `words`.

    plus, minus: 48-byte seeds of the masks to add and to subtract so that none is left. Raises Misuse.
    """
    require_vector(words)
    if threads < 1:
        raise Misuse("unmasking takes at least one thread")
    blocks = -(-words.size // BLOCK_WORDS)
    slice_words = max(1, -(-blocks // threads)) * BLOCK_WORDS  # even, so that slices start at an AES block

    def unmask_slice(start: int) -> None:
        Masks(plus, minus, start).apply(words[start : start + slice_words])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(unmask_slice, range(0, words.size, slice_words)))


def require_vector(words: Words) -> None:
    """Raises Misuse unless `words` is a C-contiguous uint64 vector, in which masks can be added in place."""
    if words.dtype != np.uint64 or words.ndim != 1 or not words.flags.c_contiguous:
        raise Misuse("masks are added to a contiguous vector of uint64 words")
