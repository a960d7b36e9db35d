"""X25519 agreements and the keys derived from them by HKDF-SHA256 (RFC 7748, RFC 5869; spec §5, §9)."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secagg.errors import Malformed
from secagg.primitives import known

_P: Final = (1 << 255) - 19  # the field of Curve25519
_PROBE: Final = X25519PrivateKey.from_private_bytes(bytes(32))  # clamping makes any secret a multiple of 8

Loaded = X25519PrivateKey  # a secret that `load` has read


def public_key(secret: bytes) -> bytes:
    """The 32-byte public key of a 32-byte X25519 secret."""
    key = load(secret).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def require_public(key: bytes) -> None:
    """Raises Malformed unless the 32 bytes are a public key of full order in its one encoding."""
    name = b"public key" + key
    if name in known.RIGHT:
        return
    if int.from_bytes(key, "little") >= _P:
        raise Malformed("a public key is not in its one encoding")
    _exchange(_PROBE, key)
    known.RIGHT.add(name)


def load(secret: bytes) -> Loaded:
    """The 32-byte secret, ready for many agreements: reading it takes as long as one of them."""
    return X25519PrivateKey.from_private_bytes(secret)


def agree(secret: bytes | Loaded, peer: bytes) -> bytes:
    """The 32-byte shared secret. Raises Malformed if `peer` has low order (RFC 7748 §6.1)."""
    return _exchange(load(secret) if isinstance(secret, bytes) else secret, peer)


def _exchange(secret: Loaded, peer: bytes) -> bytes:
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        raise Malformed("a public key has low order") from error


def derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """`length` bytes of HKDF-SHA256 output."""
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)
