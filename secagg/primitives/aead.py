"""ChaCha20-Poly1305 under keys that encrypt once (RFC 8439; spec §5)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secagg.errors import Malformed

_NONCE = bytes(12)  # each key is derived for one direction of one attempt and encrypts one message
OVERHEAD = 16


def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """The ciphertext, 16 bytes longer than the plaintext. `key` must never seal twice."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, aad)


def unseal(key: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """The plaintext. Raises Malformed if key, ciphertext or aad is not the one sealed with."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, ciphertext, aad)
    except InvalidTag as error:
        raise Malformed("a sealed share does not open") from error
