"""The primitives have the properties that the protocol rests on; published answers are in tests/vectors/published."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from secagg.errors import Malformed
from secagg.identity import public_bytes
from secagg.primitives.aead import OVERHEAD, seal, unseal
from secagg.primitives.agreement import agree, public_key, require_public
from secagg.primitives.signature import is_signed, sign

key32 = st.binary(min_size=32, max_size=32)


@given(key32, key32)
def test_both_sides_agree_and_fresh_public_keys_pass_the_check(a: bytes, b: bytes) -> None:
    assert agree(a, public_key(b)) == agree(b, public_key(a))
    require_public(public_key(a))


@given(key32)
def test_a_key_has_one_encoding(secret: bytes) -> None:
    """X25519 ignores the top bit: the same point under another name would pass for another key."""
    key = public_key(secret)
    alias = key[:31] + bytes([key[31] | 0x80])
    assert agree(secret, alias) == agree(secret, key)
    with pytest.raises(Malformed, match="one encoding"):
        require_public(alias)


def test_a_signature_is_bound_to_label_parts_and_key_and_has_one_form() -> None:
    key, other = (Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2))
    public, signature = public_bytes(key), sign(key, b"label\x00", b"header", b"message")
    assert is_signed(public, signature, b"label\x00", b"header", b"message")
    assert not is_signed(public, signature, b"lbel\x00", b"header", b"message")
    assert not is_signed(public, signature, b"label\x00", b"headeR", b"message")
    assert not is_signed(public, signature, b"label\x00", b"header", b"messagE")
    assert not is_signed(public_bytes(other), signature, b"label\x00", b"header", b"message")
    assert not is_signed(b"\xff" * 32, signature, b"label\x00", b"header", b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    shifted = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not is_signed(public, signature[:32] + shifted, b"label\x00", b"header", b"message")


@given(key32, st.binary(max_size=100), st.binary(max_size=50))
def test_sealing_is_chacha20_poly1305_as_libsodium_has_it(key: bytes, plaintext: bytes, aad: bytes) -> None:
    """RFC 8439's whole vectors have other nonces than ours, so an independent implementation stands in for them."""
    ciphertext = seal(key, plaintext, aad)
    assert ciphertext == crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, aad, bytes(12), key)
    assert len(ciphertext) == len(plaintext) + OVERHEAD
    assert unseal(key, ciphertext, aad) == plaintext


@given(st.data())
def test_nothing_opens_but_what_was_sealed(data: st.DataObject) -> None:
    key, aad = bytes(range(32)), b"sender, receiver"
    ciphertext = bytearray(seal(key, b"share", aad))
    ciphertext[data.draw(st.integers(0, len(ciphertext) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    for parts in ((key, bytes(ciphertext), aad), (key, seal(key, b"share", aad), aad + b"!"),
                  (bytes(32), seal(key, b"share", aad), aad), (key, b"", aad)):  # fmt: skip
        with pytest.raises(Malformed, match="does not open"):
            unseal(*parts)
