"""The expansion of a 48-byte seed into a stream of bytes: plain AES-256-CTR (SP 800-38A; spec §9.3)."""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from secagg.errors import Misuse

SEED_BYTES: Final = 48  # 32 of key, then 16 of initial counter block
_AES_BLOCK: Final = 16
_ZEROS: Final = bytes(1 << 18)  # plaintext; 256 KiB with a pad and an accumulator as long still fit in L2


class Stream:
    """AES-256-CTR keystream, read from the front in pieces of any length."""

    __slots__ = ("_context",)

    def __init__(self, seed: bytes, start: int = 0) -> None:
        """seed: 48 bytes. start: bytes to skip, a multiple of 16. Raises Misuse."""
        if len(seed) != SEED_BYTES or start % _AES_BLOCK or start < 0:
            raise Misuse("a stream takes a 48-byte seed and starts at a multiple of 16 bytes")
        counter = (int.from_bytes(seed[32:], "big") + start // _AES_BLOCK) % (1 << 128)
        mode = CTR(counter.to_bytes(_AES_BLOCK, "big"))
        self._context: CipherContext = Cipher(AES(seed[:32]), mode).encryptor()

    def __repr__(self) -> str:
        return "Stream()"

    def fill(self, out: NDArray[np.uint64] | NDArray[np.uint16]) -> None:
        """Writes the next bytes of the stream over `out`, C-contiguous, as little-endian integers."""
        octets = out.data.cast("B")
        for start in range(0, len(octets), len(_ZEROS)):
            piece = octets[start : start + len(_ZEROS)]
            self._context.update_into(_ZEROS if len(piece) == len(_ZEROS) else bytes(len(piece)), piece)

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        return self._context.update(bytes(count))
