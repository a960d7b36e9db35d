"""The primitives are the ones the RFCs describe."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from secagg.errors import Malformed
from secagg.identity import public_bytes
from secagg.primitives.aead import OVERHEAD, seal, unseal
from secagg.primitives.agreement import agree, derive, public_key, require_public
from secagg.primitives.signature import is_signed, sign

key32 = st.binary(min_size=32, max_size=32)


def test_x25519_rfc_7748_section_5_2() -> None:
    vectors = [
        ("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
         "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
         "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"),
    ]  # fmt: skip
    for secret, peer, shared in vectors:
        assert agree(bytes.fromhex(secret), bytes.fromhex(peer)).hex() == shared


def test_x25519_iterated_a_thousand_times_rfc_7748_section_5_2() -> None:
    k = u = (9).to_bytes(32, "little")
    for times in range(1000):
        k, u = agree(k, u), k
        if times == 0:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@given(key32, key32)
def test_both_sides_agree_and_fresh_public_keys_pass_the_check(a: bytes, b: bytes) -> None:
    assert agree(a, public_key(b)) == agree(b, public_key(a))
    require_public(public_key(a))


@pytest.mark.parametrize("number", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18])
def test_a_key_of_low_order_agrees_with_nobody(number: int) -> None:
    bad = number.to_bytes(32, "little")
    with pytest.raises(Malformed, match="low order"):
        agree(bytes(range(32)), bad)
    with pytest.raises(Malformed):
        require_public(bad)


@given(key32)
def test_a_key_has_one_encoding(secret: bytes) -> None:
    """X25519 ignores the top bit: the same point under another name would pass for another key."""
    key = public_key(secret)
    alias = key[:31] + bytes([key[31] | 0x80])
    assert agree(secret, alias) == agree(secret, key)
    with pytest.raises(Malformed, match="one encoding"):
        require_public(alias)


def test_ed25519_rfc_8032_section_7_1() -> None:
    vectors = [
        ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
         "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
         "d25bf5f0595bbe24655141438e7a100b"),
        ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
         "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
         "387b2eaeb4302aeeb00d291612bb0c00"),
    ]  # fmt: skip
    for secret, public, message, signature in vectors:
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))
        assert public_bytes(key).hex() == public
        assert sign(key, bytes.fromhex(message)).hex() == signature
        assert is_signed(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message))


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


def test_hkdf_rfc_5869_appendix_a_1() -> None:
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert derive(secret, salt, info, 42).hex() == expected


def test_hkdf_rfc_5869_appendix_a_3_without_salt_and_info() -> None:
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert derive(b"\x0b" * 22, b"", b"", 42).hex() == expected


@given(key32, st.binary(max_size=100), st.binary(max_size=50))
def test_sealing_is_chacha20_poly1305_as_libsodium_has_it(key: bytes, plaintext: bytes, aad: bytes) -> None:
    """RFC 8439's own vector has another nonce than ours, so an independent implementation stands in for it."""
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
