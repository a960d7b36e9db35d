"""A masked-mode site written from protocol_spec.md alone: it imports nothing of the code it is compared with.

Slow and without defences: it shows that the document determines every byte, and is no model of a real site.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

P = 2**256 + 297
MASK = 2**64 - 1
ROUND_OPEN, KEY_ADVERT, KEY_ROSTER, SEALED_SHARES, BUNDLE = 10, 11, 12, 13, 14
MASKED_VECTOR, SURVIVOR_SET, SURVIVOR_SIGNATURE, PROOF, UNMASK_SHARES, STATEMENT = 15, 16, 17, 18, 19, 20
RECORD, PROJECTIONS = 21, 22


def label(purpose: str) -> bytes:
    """Section 8.1."""
    return b"secagg-lora/v1 " + purpose.encode() + b"\x00"


def cbor(value: Any) -> bytes:
    """Section 4.2."""
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    return _head(4, len(value)) + b"".join(cbor(each) for each in value)


def _head(major: int, count: int) -> bytes:
    if count < 24:
        return bytes([major << 5 | count])
    size = next(power for power in range(4) if count < 1 << (8 << power))
    return bytes([major << 5 | 24 + size]) + count.to_bytes(1 << size, "big")


def parse(data: bytes) -> Any:
    """The value in `data`, which is well-formed: this site trusts its test."""
    value, rest = _item(data)
    assert not rest
    return value


def _item(data: bytes) -> tuple[Any, bytes]:
    major, low, rest = data[0] >> 5, data[0] & 31, data[1:]
    if low >= 24:
        size = 1 << (low - 24)
        low, rest = int.from_bytes(rest[:size], "big"), rest[size:]
    if major == 0:
        return low, rest
    if major in (2, 3):
        return (rest[:low] if major == 2 else rest[:low].decode()), rest[low:]
    items = []
    for _ in range(low):
        value, rest = _item(rest)
        items.append(value)
    return items, rest


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)


def x25519(secret: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def stream(seed: bytes, count: int) -> bytes:
    """Section 9.3."""
    return Cipher(AES(seed[:32]), CTR(seed[32:])).encryptor().update(bytes(count))


def words_of_stream(seed: bytes, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}Q", stream(seed, 8 * count)))


def transform(values: list[Any]) -> list[Any]:
    """Section 10.2, without the factor."""
    if len(values) == 1:
        return values
    half = len(values) // 2
    pairs = list(zip(values[:half], values[half:], strict=True))
    return transform([a + b for a, b in pairs]) + transform([a - b for a, b in pairs])


def rotation_blocks(values: list[Any]) -> list[list[Any]]:
    """Section 10.2."""
    blocks, left = [], values
    while left:
        block = min(4096, 1 << (len(left).bit_length() - 1))
        blocks.append(left[:block])
        left = left[block:]
    return blocks


def open_mean(parameters: Parameters, size: int, words: list[int], total_weight: int) -> bytes:
    """The mean as little-endian binary32, of a rotated sum of value words (section 10.5)."""
    full, bits = (2**parameters.bits - 1) * total_weight, parameters.lane_bits
    lanes, sums = 64 // bits, []
    for start in range(0, len(words), 32_768):
        block = words[start : start + 32_768]
        sums += [word >> bits * lane & (1 << bits) - 1 for lane in range(lanes) for word in block]
    signs, mean = parameters.signs(size), []
    for part in rotation_blocks([2 * each - full for each in sums[:size]]):
        factor = (parameters.range_q40 / 2**40) / (float(full) * math.sqrt(len(part)))
        mean += [float(each) * factor for each in transform(part)]
    return struct.pack(f"<{size}f", *(-y if sign else y for y, sign in zip(mean, signs, strict=True)))


BASE = (9).to_bytes(32, "little")


@dataclass
class Parameters:
    """Manifest and header as this site needs them, by the names of sections 7.1 and 7.6."""

    places: dict[str, int]
    threshold: int
    bits: int
    lane_bits: int
    rotate: bool
    range_q40: int
    header: list[Any]

    @property
    def h0(self) -> bytes:
        """Section 8.3."""
        return sha(label("round header"), cbor([3, *self.header]))

    def signs(self, size: int) -> list[int]:
        """Section 10.2: 1 where a value is negated."""
        octets = stream(hkdf(self.h0, b"", label("rotation signs"), 48), -(-size // 8))
        return [octets[j // 8] >> j % 8 & 1 for j in range(size)]


@dataclass
class IndependentSite:
    """Answers the six requests of one attempt with (head, words)."""

    name: str
    identity: Ed25519PrivateKey
    parameters: Parameters
    values: Sequence[float]
    weight: int
    metrics: tuple[int, float, int, float]  # examples, training loss, held-out tokens, held-out loss
    random: Callable[[int], bytes]
    kept: dict[str, Any] = field(default_factory=dict)

    def answer(self, head: bytes) -> tuple[bytes, list[int] | None]:
        """Section 11.4."""
        tag, *fields = parse(head)
        steps = {
            ROUND_OPEN: self._advertise, KEY_ROSTER: self._share, BUNDLE: self._mask, SURVIVOR_SET: self._consent,
            PROOF: self._unmask, RECORD: self._check,
        }  # fmt: skip
        return steps[tag](*fields)

    def _signed(self, purpose: str, tag: int, *fields: Any) -> list[Any]:
        signature = self.identity.sign(label(purpose) + self.parameters.h0 + cbor([tag, *fields]))
        return [*fields, signature]

    def _place(self, site: str) -> bytes:
        return struct.pack(">I", self.parameters.places[site])

    def _advertise(self, header: list[Any], cohort: list[str], signature: bytes) -> tuple[bytes, None]:
        assert header == self.parameters.header and self.name in cohort and len(signature) == 64
        self.share, self.mask, self.seed = (self.random(32) for _ in range(3))
        commitment = sha(label("self-mask seed commitment"), self.parameters.h0, self.seed)
        advert = [self.name, x25519(self.share, BASE), x25519(self.mask, BASE), commitment]
        return cbor([KEY_ADVERT, *self._signed("sig key advert", KEY_ADVERT, *advert)]), None

    def _box(self, sender: str, receiver: str, peer: str) -> tuple[ChaCha20Poly1305, bytes]:
        both = self._place(sender) + self._place(receiver)
        h0 = self.parameters.h0
        key = hkdf(x25519(self.share, self.adverts[peer][1]), h0, label("share key") + both, 32)
        return ChaCha20Poly1305(key), label("share aad") + h0 + self.h1 + both

    def _share(self, adverts: list[list[Any]]) -> tuple[bytes, None]:
        self.adverts = {advert[0]: advert for advert in adverts}
        self.h1 = sha(label("key roster"), self.parameters.h0, cbor(adverts))
        dealt = [self._deal(secret) for secret in (self.mask, self.seed)]
        self.own = [shares[self.name] for shares in dealt]
        boxes = []
        for peer in (name for name in self.adverts if name != self.name):
            cipher, aad = self._box(self.name, peer, peer)
            boxes.append([peer, cipher.encrypt(bytes(12), dealt[0][peer] + dealt[1][peer], aad)])
        digest = sha(label("share boxes"), cbor(boxes))
        statement = self._signed("sig sealed shares", STATEMENT, self.name, self.h1, digest)
        return cbor([SEALED_SHARES, statement, boxes]), None

    def _deal(self, secret: bytes) -> dict[str, bytes]:
        """Section 5.6."""
        higher = [int.from_bytes(self.random(64), "big") % P for _ in range(self.parameters.threshold - 1)]
        coefficients = [int.from_bytes(secret, "big"), *higher]
        points = {name: self.parameters.places[name] for name in self.adverts}
        values = {n: sum(a * x**i for i, a in enumerate(coefficients)) % P for n, x in points.items()}
        return {name: value.to_bytes(33, "big") for name, value in values.items()}

    def _mask(self, statements: list[list[Any]], boxes: list[list[Any]]) -> tuple[bytes, list[int]]:
        self.held = {self.name: self.own}
        for sender, ciphertext in boxes:
            cipher, aad = self._box(sender, self.name, sender)
            plaintext = cipher.decrypt(bytes(12), ciphertext, aad)
            self.held[sender] = [plaintext[:33], plaintext[33:]]
        h0 = self.parameters.h0
        self.h2 = sha(label("share set"), h0, cbor(statements))
        words = self.sent = self._masked(self._words())
        digest = sha(label("masked words"), h0, struct.pack(f"<{len(words)}Q", *words))
        vector = self._signed("sig masked vector", MASKED_VECTOR, self.name, self.h2, digest)
        return cbor([MASKED_VECTOR, *vector]), words

    def _masked(self, words: list[int]) -> list[int]:
        """Section 9.4."""
        h0, tail = self.parameters.h0, self.h2 + label("vector update")
        own = self._place(self.name)
        masks = [(1, hkdf(self.seed, h0, label("self mask") + own + tail, 48))]
        for peer in self.held.keys() - {self.name}:
            low, high = sorted((own, self._place(peer)))
            agreed = x25519(self.mask, self.adverts[peer][2])
            seed = hkdf(agreed, h0, label("pair mask") + low + high + tail, 48)
            masks.append((1 if own == low else -1, seed))
        for sign, seed in masks:
            words = [(w + sign * m) & MASK for w, m in zip(words, words_of_stream(seed, len(words)), strict=True)]
        return words

    def _words(self) -> list[int]:
        """Section 10."""
        parameters = self.parameters
        levels, scale = 2**parameters.bits - 1, parameters.range_q40 / 2**40
        rotated = self._rotated()
        peak = max(abs(v) for v in rotated)
        inside = [min(max(v, -scale), scale) for v in rotated]
        fraction = min(16, 30 - parameters.bits)
        bound = levels << (fraction - 1)
        dither = struct.unpack(f"<{len(inside)}H", stream(self.random(48), 2 * len(inside)))
        levels_of = [
            (round(v * (bound / scale)) + bound + (u >> (16 - fraction))) >> fraction
            for v, u in zip(inside, dither, strict=True)
        ]
        examples, train_loss, tokens, eval_loss = self.metrics
        tally = [
            1, self.weight, examples, round(train_loss * examples * 2**16), tokens, round(eval_loss * tokens * 2**16),
            sum(abs(v) > scale for v in rotated), min(2**52, math.ceil(peak * 2**40)),
        ]  # fmt: skip
        return [self.weight * word for word in self._packed(levels_of)] + tally

    def _rotated(self) -> list[float]:
        """Section 10.2."""
        if not self.parameters.rotate:
            return list(self.values)
        signs = self.parameters.signs(len(self.values))
        flipped = [-v if sign else v for v, sign in zip(self.values, signs, strict=True)]
        blocks = [(transform(part), math.sqrt(len(part))) for part in rotation_blocks(flipped)]
        return [value / root for part, root in blocks for value in part]

    def _packed(self, levels_of: list[int]) -> list[int]:
        """Section 10.4."""
        bits = self.parameters.lane_bits
        lanes, words = 64 // bits, []
        for start in range(0, len(levels_of), 32_768 * lanes):
            block = levels_of[start : start + 32_768 * lanes]
            count = -(-len(block) // lanes)
            words += [
                sum(level << bits * (index // count) for index, level in enumerate(block) if index % count == k)
                for k in range(count)
            ]
        return words

    def _consent(self, vectors: list[list[Any]]) -> tuple[bytes, None]:
        self.survivors = [vector[0] for vector in vectors]
        self.h3 = sha(label("survivor set"), self.parameters.h0, cbor(vectors))
        signature = self._signed("sig survivors", SURVIVOR_SIGNATURE, self.name, self.h3)
        return cbor([SURVIVOR_SIGNATURE, *signature]), None

    def _unmask(self, signatures: list[list[Any]]) -> tuple[bytes, None]:
        assert all(each[1] == self.h3 for each in signatures)
        seeds = [[name, self.held[name][1]] for name in sorted(self.held) if name in self.survivors]
        keys = [[name, self.held[name][0]] for name in sorted(self.held) if name not in self.survivors]
        shares = self._signed("sig unmask shares", UNMASK_SHARES, self.name, self.h3, seeds, keys)
        return cbor([UNMASK_SHARES, *shares]), None

    def _check(self, header: list[Any], *lists: Any) -> tuple[bytes, None]:
        """Section 15.2."""
        assert header == self.parameters.header and [vector[0] for vector in lists[2]] == self.survivors
        record = sha(label("transcript"), cbor([RECORD, header, *lists]))
        seed = hkdf(record, self.parameters.h0, label("challenge"), 48)
        octets = stream(seed, -(-(len(self.sent) + 127) // 8))
        bits = [octets[i // 8] >> i % 8 & 1 for i in range(len(self.sent) + 127)]
        values = [sum(bits[w + k] * y for w, y in enumerate(self.sent)) & MASK for k in range(128)]
        return cbor(
            [
                PROJECTIONS,
                *self._signed("sig projections", PROJECTIONS, self.name, record, struct.pack("<128Q", *values)),
            ]
        ), None
