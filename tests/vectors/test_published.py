"""The primitives are the ones that the RFCs and NIST describe, and refuse what those forbid (published/)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secagg.identity import public_bytes
from secagg.primitives.aead import seal, unseal
from secagg.primitives.agreement import agree, derive, public_key, require_public
from secagg.primitives.prg import Stream
from secagg.primitives.signature import is_signed, sign
from tests.vectors import form
from tests.vectors.form import Json
from tests.vectors.replay import private, refused, unhex

BASE = (9).to_bytes(32, "little")
OUR_NONCE = bytes(12)


def x25519(case: Json, inputs: Json) -> None:
    public = unhex(inputs["public"])
    if "secret" not in inputs:
        if "error" in case:
            refused(case, lambda: require_public(public))
        else:
            require_public(public)
        return
    k, u = unhex(inputs["secret"]), public
    for _ in range(inputs.get("times", 1)):
        k, u = agree(k, u), k
    assert k.hex() == case["outputs"]["shared"]
    if public == BASE and "times" not in inputs:
        assert public_key(unhex(inputs["secret"])) == k


def ed25519(case: Json, inputs: Json) -> None:
    message = unhex(inputs["message"])
    if "seed" not in inputs:
        valid = is_signed(unhex(inputs["public"]), unhex(inputs["signature"]), message)
        assert valid == case["outputs"]["valid"]
        return
    key = private(inputs["seed"])
    found = {"public": public_bytes(key).hex(), "signature": sign(key, message).hex()}
    assert found == case["outputs"]
    assert is_signed(unhex(found["public"]), unhex(found["signature"]), message)


def hkdf(case: Json, inputs: Json) -> None:
    found = derive(unhex(inputs["ikm"]), unhex(inputs["salt"]), unhex(inputs["info"]), inputs["length"])
    assert found.hex() == case["outputs"]["okm"]


def aead(case: Json, inputs: Json) -> None:
    """Under another nonce than ours, the library below is what the published answer is of."""
    key, aad, nonce = (unhex(inputs[name]) for name in ("key", "aad", "nonce"))
    if "error" in case:
        assert nonce == OUR_NONCE
        refused(case, lambda: unseal(key, unhex(inputs["sealed"]), aad))
        return
    plaintext, outputs = unhex(inputs["plaintext"]), case["outputs"]
    sealed = ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)
    assert sealed.hex() == outputs.get("sealed", sealed.hex())
    assert sealed.hex().startswith(outputs.get("sealed_begins", ""))
    assert sealed[64:].hex().startswith(outputs.get("sealed_from_64", ""))
    if nonce == OUR_NONCE:
        assert seal(key, plaintext, aad) == sealed
        assert unseal(key, sealed, aad) == plaintext


def aes_256_ctr(case: Json, inputs: Json) -> None:
    seed, plaintext = unhex(inputs["key"] + inputs["counter"]), unhex(inputs["plaintext"])
    pad = Stream(seed).read(len(plaintext))
    assert bytes(a ^ b for a, b in zip(plaintext, pad, strict=True)).hex() == case["outputs"]["ciphertext"]


FORMS: dict[str, Callable[[Json, Json], None]] = {
    "x25519": x25519, "ed25519": ed25519, "hkdf": hkdf, "aead": aead, "aes-256-ctr": aes_256_ctr,
}  # fmt: skip


def every_case() -> Iterator[object]:
    for path in sorted((form.FOLDER / "published").glob("*.json")):
        content = form.read(f"published/{path.name}")
        for case, inputs in form.cases(content):
            yield pytest.param(content["form"], case, inputs, id=f"{path.stem}: {case['source']}: {case['name']}")


@pytest.mark.parametrize(("form_name", "case", "inputs"), every_case())
def test_the_primitives_do_what_is_published(form_name: str, case: Json, inputs: Json) -> None:
    FORMS[form_name](case, inputs)


def test_every_primitive_of_the_suite_has_published_vectors() -> None:
    sources = {case["source"].partition(" section")[0] for each in FORMS for case in _of(each)}
    assert sources == {"RFC 7748", "RFC 8032", "RFC 5869", "RFC 8439", "NIST SP 800-38A", "ours"}


def _of(form_name: str) -> list[Json]:
    files = (form.read(f"published/{path.name}") for path in (form.FOLDER / "published").glob("*.json"))
    return [case for content in files if content["form"] == form_name for case in content["cases"]]
