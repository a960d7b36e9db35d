"""The public key that a site shows to Flower: which ones are allowed, and the form that Flower reads."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from secagg.errors import Malformed


def node_public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half: DER SubjectPublicKeyInfo, 120 bytes."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def require_node_key(der: bytes) -> ec.EllipticCurvePublicKey:
    """The key in `der`. Raises Malformed unless it is P-384 in its one DER encoding."""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("a node key is not a public key in DER") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Malformed("a node key is not a P-384 key")
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != der:
        raise Malformed("a node key is not in its one encoding")
    return key


def openssh_node_key(der: bytes, comment: str = "") -> str:
    """The line that `flwr supernode register` reads: ecdsa-sha2-nistp384 AAAA... Raises Malformed."""
    line = require_node_key(der).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    return f"{line} {comment}".rstrip() + "\n"
