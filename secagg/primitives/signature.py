"""Ed25519 signatures under a domain label (RFC 8032; spec §5, §8)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def sign(key: Ed25519PrivateKey, label: bytes, *parts: bytes) -> bytes:
    """The 64-byte signature over label || parts; every part but the last has a fixed length."""
    return key.sign(label + b"".join(parts))


def is_signed(public: bytes, signature: bytes, label: bytes, *parts: bytes) -> bool:
    """Whether `signature` is `public`'s (32 bytes) over label || parts."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, label + b"".join(parts))
    except (InvalidSignature, ValueError):
        return False
    return True
