"""Ed25519 signatures under a domain label (RFC 8032; spec §5, §8)."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.primitives import known

PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def sign(key: Ed25519PrivateKey, label: bytes, *parts: bytes) -> bytes:
    """The 64-byte signature over label || parts; every part but the last has a fixed length."""
    return key.sign(label + b"".join(parts))


def is_signed(public: bytes, signature: bytes, label: bytes, *parts: bytes) -> bool:
    """Whether `signature` is `public`'s (32 bytes) over label || parts.

    A signature that was right is not checked again: adverts, for one, come back with every later request of a round.
    """
    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    message = label + b"".join(parts)
    name = b"signature" + hashlib.sha256(public + signature + message).digest()
    if name in known.RIGHT:
        return True
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    known.RIGHT.add(name)
    return True
