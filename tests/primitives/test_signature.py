"""A signature or public key that was found right is remembered, and nothing else is taken for it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.errors import Malformed
from secagg.primitives import agreement, known, signature
from secagg.primitives.agreement import public_key, require_public
from secagg.primitives.signature import is_signed, sign

LABEL = b"label"
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
PUBLIC, STRANGER = (key.public_key().public_bytes_raw() for key in (KEY, OTHER))
SIGNED = sign(KEY, LABEL, b"con", b"text")


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "RIGHT", known.Known())


def test_what_was_right_is_right_again_and_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_signed(PUBLIC, SIGNED, LABEL, b"con", b"text")
    monkeypatch.setattr(signature, "Ed25519PublicKey", None)
    assert is_signed(PUBLIC, SIGNED, LABEL, b"con", b"text")


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "changed",
    [
        (STRANGER, SIGNED, LABEL, b"con", b"text"),
        (PUBLIC, sign(OTHER, LABEL, b"context"), LABEL, b"con", b"text"),
        (PUBLIC, SIGNED, b"Label", b"con", b"text"),
        (PUBLIC, SIGNED, LABEL, b"con", b"text\0"),
        (PUBLIC, SIGNED + LABEL[:1], LABEL[1:], b"con", b"text"),  # the same bytes, cut elsewhere
        (PUBLIC + SIGNED[:1], SIGNED[1:], LABEL, b"con", b"text"),
        (PUBLIC[:-1], PUBLIC[-1:] + SIGNED, LABEL, b"con", b"text"),
        (b"", SIGNED, LABEL, b"con", b"text"),
        (PUBLIC, b"", LABEL, b"con", b"text"),
    ],
)
def test_after_a_right_one_any_other_is_wrong_however_often_it_comes(
    changed: tuple[bytes, bytes, bytes, bytes, bytes], times: int
) -> None:
    assert is_signed(PUBLIC, SIGNED, LABEL, b"con", b"text")
    public, other, label, *parts = changed
    assert [is_signed(public, other, label, *parts) for _ in range(times)] == [False] * times


def test_the_memory_is_bounded_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "RIGHT", known.Known(3))
    for number in range(5):
        assert is_signed(PUBLIC, sign(KEY, LABEL, bytes([number])), LABEL, bytes([number]))
    assert len(known.RIGHT) == 3
    monkeypatch.setattr(signature, "Ed25519PublicKey", None)
    assert is_signed(PUBLIC, sign(KEY, LABEL, bytes([4])), LABEL, bytes([4]))
    with pytest.raises(AttributeError):
        is_signed(PUBLIC, sign(KEY, LABEL, bytes([0])), LABEL, bytes([0]))


def test_a_public_key_that_was_right_is_tried_once_and_a_wrong_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = public_key(bytes(range(32)))
    require_public(right)
    with monkeypatch.context() as patched:
        patched.setattr(agreement, "_exchange", None)
        require_public(right)
    for _ in range(2):
        with pytest.raises(Malformed):
            require_public(bytes(32))
        with pytest.raises(Malformed):
            require_public(b"\xff" * 32)
    assert len(known.RIGHT) == 1


def test_a_right_public_key_is_no_right_signature() -> None:
    known.RIGHT.add(b"public key" + PUBLIC)
    assert not is_signed(PUBLIC, sign(OTHER, LABEL), LABEL)
