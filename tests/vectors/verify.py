"""Checks every vector of a folder with nothing but protocol_spec.md, the standard library and `cryptography`.

    python tests/vectors/verify.py [DIR]        DIR: where the JSON files are; without it, this file's folder

A second implementation of the protocol, which shares no code with secagg/: sites, server, opener and audit. It prints a
line per file and per case, and ends with 1 if a case fails, a file has a form that it does not know, or a field that it
did not look at. What it computes it computes slowly, word by word.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import sys
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, compress, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

WORD = (1 << 64) - 1
Words = list[int]
Random = Callable[[int], bytes]

# ---------------------------------------------------------------- errors, spec §3.4


class ProtocolError(Exception):
    """A failure with the code of the table; `site` where the code blames one."""

    code = "error"

    def __init__(self, rule: str, site: str = "") -> None:
        super().__init__(rule)
        self.site = site


class Misuse(ProtocolError):
    code = "misuse"


class Malformed(ProtocolError):
    code = "malformed"


class Refused(ProtocolError):
    code = "refused"


class FaultyServer(ProtocolError):
    code = "faulty-server"


class FaultySite(ProtocolError):
    code = "faulty-site"


class Sealed(ProtocolError):
    code = "sealed"


class FaultyPeerOrServer(ProtocolError):
    code = "faulty-peer-or-server"


class TooFewSites(ProtocolError):
    code = "too-few-sites"


def need(holds: bool, error: type[ProtocolError], rule: str, site: str = "") -> None:
    if not holds:
        raise error(rule, site)


# ---------------------------------------------------------------- encoding, spec §4

STRUCTS = """
RosterEntry 0: site name; identity_key bytes 32; node_key bytes 1..256; expires int 0..2^53-1
SitePublic 0: site name; identity_key bytes 32; node_key bytes 1..256; signature bytes 64
Roster 1: consortium name; epoch int 1..2^53-1; expires int 0..2^53-1; root_key bytes 32;\
 sites 1..100 of RosterEntry, ascending by site; revoked 0..1000 of bytes 32, ascending; signature bytes 64
Setting 0: name text 1..64; value text 0..512
QuantizerParams 0: bits int 4..20; lane_bits int 8..32; weight_cap int 1..2^28; rotate int 0..1;\
 clip_norm_q20 int 0..2^52
Manifest 2: version int 1; suite int 1; scheme name; nonce bytes 32; roster bytes 32; sites 3..100 of name, ascending;\
 colluders int 0..100; dropouts int 0..100; threshold int 1..100; quorum int 1..100; least_survivors int 3..100;\
 graph int 1; quantizer QuantizerParams; first_range_q40 int 1..2^52; size int 1..2^29; layout bytes 32;\
 base_model bytes 32; tokenizer bytes 32; lora_config bytes 32; initial_adapter bytes 32; rule int 1;\
 rounds int 1..100000; server_key bytes 32; settings 0..64 of Setting, ascending by name;\
 options 0..16 of Setting, ascending by name
RoundHeader 3: suite int 1; session bytes 32; round int 1..100000; attempt int 1..1000; scheme name; roster bytes 32;\
 adapter bytes 32; previous bytes 32; graph bytes 32; range_q40 int 1..2^52
Position 4: session bytes 32; round int 0..100000; adapter bytes 32; transcript bytes 32; range_q40 int 1..2^52
Answer 5: session bytes 32; round int 1..100000; attempt int 1..1000; stage int 1..6; evidence bytes 32
RoundOpen 10: header RoundHeader; cohort 1..100 of name, ascending; signature bytes 64
KeyAdvert 11: site name; share_key bytes 32; mask_key bytes 32; seed_commitment bytes 32; signature bytes 64
KeyRoster 12: adverts 1..100 of KeyAdvert, ascending by site
Box 0: site name; ciphertext bytes 82
ShareStatement 20: site name; key_roster bytes 32; boxes bytes 32; signature bytes 64
SealedShares 13: statement ShareStatement; boxes 0..100 of Box, ascending by site
ShareBundle 14: statements 1..100 of ShareStatement, ascending by site; boxes 0..100 of Box, ascending by site
MaskedVector 15: site name; share_set bytes 32; words bytes 32; signature bytes 64
SurvivorSet 16: vectors 1..100 of MaskedVector, ascending by site
SurvivorSignature 17: site name; survivor_set bytes 32; signature bytes 64
SurvivorProof 18: signatures 1..100 of SurvivorSignature, ascending by site
Share 0: site name; share bytes 33
UnmaskShares 19: site name; survivor_set bytes 32; seeds 1..100 of Share, ascending by site;\
 keys 0..100 of Share, ascending by site; signature bytes 64
Revealed 0: site name; secret bytes 32
RoundRecord 21: header RoundHeader; adverts 1..100 of KeyAdvert, ascending by site;\
 statements 1..100 of ShareStatement, ascending by site; vectors 1..100 of MaskedVector, ascending by site;\
 signatures 1..100 of SurvivorSignature, ascending by site; seeds 1..100 of Revealed, ascending by site;\
 keys 0..100 of Revealed, ascending by site; sum_words bytes 32
Projections 22: site name; record bytes 32; values bytes 1024; signature bytes 64
MaskedAggregate 23: record RoundRecord; projections 0..100 of Projections, ascending by site
Hello 40: nonce bytes 32
Here 41: site name; nonce bytes 32; signature bytes 64
Proposal 42: version int 1; scheme name; nonce bytes 32; roster bytes 32; settings 0..64 of Setting, ascending by name
Tensor 0: name text 1..512; rows int 1..2^29; columns int 1..2^29
ModelCard 43: site name; nonce bytes 32; tensors 1..20000 of Tensor, ascending by name; base_model bytes 32;\
 tokenizer bytes 32; lora_config bytes 32; initial_adapter bytes 32; signature bytes 64
Consent 44: site name; position Position; signature bytes 64
RoundStart 45: session bytes 32; round int 1..100000; attempts 0..63 of int 1..1000, any order
Ready 46: site name; position Position; signature bytes 64
AttemptRef 47: session bytes 32; round int 1..100000; attempt int 1..1000
Finish 48: session bytes 32; rounds int 0..100000; attempts 0..63 of int 1..1000, any order
OpeningRequest 49: session bytes 32; round int 1..100000; attempt int 1..1000
OpeningWanted 50: site name; session bytes 32; round int 1..100000; attempt int 1..1000; key bytes 32;\
 signature bytes 64
OpeningFor 51: site name; wanted bytes 32; sealed bytes 1..65536; signature bytes 64
BlindAdvert 60: site name; advert KeyAdvert; blind_key bytes 32; commitment bytes 32; signature bytes 64
BlindRoster 61: adverts 1..100 of BlindAdvert, ascending by site
BlindBox 0: site name; ciphertext bytes 48
BlindShares 62: shares SealedShares; boxes 0..100 of BlindBox, ascending by site
BlindBundle 63: bundle ShareBundle; boxes 0..100 of BlindBox, ascending by site
Blind 0: site name; seed bytes 32
Opening 71: seeds 1..100 of Blind, ascending by site
"""  # the tables of spec §6, §7, §11, §13 and §16, in their own words


@dataclass(frozen=True)
class Type:
    """One row's `holds`: "int", "bytes", "text", "name", "list" or a struct; its ends; a list's item and order."""

    what: str
    low: int = 0
    high: int = 0
    item: Type | None = None
    order: str = ""


def _number(text: str) -> int:
    power = re.fullmatch(r"2\^(\d+)(-1)?", text)
    return (1 << int(power[1])) - bool(power[2]) if power else int(text)


def _type(text: str) -> Type:
    if listed := re.fullmatch(r"(\d+)\.\.(\d+) of (.+), (ascending by \w+|ascending|any order)", text):
        return Type("list", int(listed[1]), int(listed[2]), _type(listed[3]), listed[4])
    what, _, ends = text.partition(" ")
    low, _, high = ends.partition("..")
    return Type(what, _number(low), _number(high or low)) if ends else Type(what)


TAGS: dict[str, int] = {}
FIELDS: dict[str, dict[str, Type]] = {}
for _line in STRUCTS.split("\n")[1:-1]:
    _head, _, _rows = _line.partition(": ")
    _kind, _tag = _head.split()
    TAGS[_kind] = int(_tag)
    FIELDS[_kind] = {row.split()[0]: _type(row.partition(" ")[2]) for row in _rows.split("; ")}
KINDS = {tag: kind for kind, tag in TAGS.items() if tag}


@dataclass(frozen=True, init=False)
class Struct:
    """A value of a struct of the tables: its fields in order, and as attributes."""

    kind: str
    values: tuple[Any, ...]

    def __init__(self, kind: str, *values: Any) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "values", values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in FIELDS[self.kind]:
            raise AttributeError(name)
        return self.values[list(FIELDS[self.kind]).index(name)]


def head(major: int, argument: int) -> bytes:
    """A head in its shortest form (spec §4.2)."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise Misuse("an integer of more than 64 bits")


def cbor(item: Any) -> bytes:
    """The encoding of an integer, bytes, a text, a list or a struct inside another (spec §4.2)."""
    if isinstance(item, int):
        return head(0, item)
    if isinstance(item, bytes):
        return head(2, len(item)) + item
    if isinstance(item, str):
        return head(3, len(item.encode())) + item.encode()
    items = item.values if isinstance(item, Struct) else item
    return head(4, len(items)) + b"".join(map(cbor, items))


def encode(value: Struct) -> bytes:
    """A struct on its own, with its tag if it has one."""
    return cbor([*([TAGS[value.kind]] if TAGS[value.kind] else []), *value.values])


def unsigned(value: Struct) -> bytes:
    """What of a signed struct is signed: the tag or 0, and all but the signature (spec §4.5)."""
    return cbor([TAGS[value.kind], *value.values[:-1]])


class Reader:
    """A strict decoder of the one struct that `data` must be (spec §4.4)."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        need(count <= len(self.data) - self.at, Malformed, "it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def head(self, major: int) -> int:
        first = self.take(1)[0]
        need(first >> 5 == major, Malformed, "another item than expected")
        info = first & 31
        if info < 24:
            return info
        need(info < 28, Malformed, "an indefinite or reserved length")
        size = 1 << info - 24
        argument = int.from_bytes(self.take(size), "big")
        need(argument >= (24 if size == 1 else 1 << 4 * size), Malformed, "a head that is not in its shortest form")
        return argument

    def value(self, of: Type) -> Any:
        if of.what == "int":
            number = self.head(0)
            need(of.low <= number <= of.high, Malformed, "an integer outside its limits")
            return number
        if of.what == "bytes":
            return self.take(self._length(2, of))
        if of.what == "text":
            return self._text(of)
        if of.what == "name":
            name = self._text(Type("text", 1, 32))
            need(bool(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)), Malformed, "not a name")
            return name
        if of.what == "list":
            return self._list(of)
        return self.struct(of.what)

    def _length(self, major: int, of: Type) -> int:
        length = self.head(major)
        need(of.low <= length <= of.high, Malformed, "a length outside its limits")
        return length

    def _text(self, of: Type) -> str:
        try:
            return self.take(self._length(3, of)).decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("not UTF-8") from None

    def _list(self, of: Type) -> tuple[Any, ...]:
        items = tuple(self.value(of.item) for _ in range(self._length(4, of)))  # type: ignore[arg-type]
        if of.order != "any order":
            by = of.order.removeprefix("ascending").removeprefix(" by ")
            orders = [getattr(item, by) if by else item for item in items]
            orders = [order.encode() if isinstance(order, str) else order for order in orders]
            need(all(a < b for a, b in pairwise(orders)), Malformed, "a list out of order")
        return items

    def struct(self, kind: str, tag: int = 0) -> Struct:
        need(self.head(4) == len(FIELDS[kind]) + bool(tag), Malformed, "another number of fields")
        if tag:
            need(self.head(0) == tag, Malformed, "another tag")
        value = Struct(kind, *map(self.value, FIELDS[kind].values()))
        RULES.get(kind, lambda _: None)(value)
        return value


def decode(kind: str, data: bytes) -> Struct:
    """Exactly one struct on its own."""
    need(len(data) <= (1 << 22 if kind == "ModelCard" else 1 << 20), Malformed, "longer than its limit")
    reader = Reader(data)
    value = reader.struct(kind, TAGS[kind])
    need(reader.at == len(data), Malformed, "bytes after the message")
    return value


def decode_one_of(kinds: Iterable[str], data: bytes) -> Struct:
    reader = Reader(data)
    reader.head(4)
    kind = KINDS.get(reader.head(0), "")
    need(kind in kinds, Malformed, "a message of another kind")
    return decode(kind, data)


WIDTHS = (8, 10, 12, 16, 21, 32)


def _quantizer_rules(it: Struct) -> None:  # spec §7.1
    fits = it.weight_cap * ((1 << it.bits) - 1) < 1 << it.lane_bits
    need(it.lane_bits in WIDTHS and fits, Malformed, "lanes that do not hold one site's largest value")


def _manifest_rules(it: Struct) -> None:  # spec §7.1, §7.2
    n, c, d, t, m = len(it.sites), it.colluders, it.dropouts, it.threshold, it.least_survivors
    need(c < n and d < n and (n > 3 or c <= 1), Malformed, "too many colluders or dropouts")
    need(2 * t > n + c and t <= n - d, Malformed, "the threshold")
    need(it.quorum == (n + c) // 2 + 1, Malformed, "the quorum")
    need((n if n == 3 else max(t, c + 3)) <= m <= n - d, Malformed, "the fewest survivors")
    largest = n * it.quantizer.weight_cap * ((1 << it.quantizer.bits) - 1)
    least = next((width for width in WIDTHS if largest < 1 << width), None)
    need(it.quantizer.lane_bits == least, Malformed, "lanes that are not the least for the session")


def _roster_rules(it: Struct) -> None:  # spec §6.4
    for keys in ([s.identity_key for s in it.sites], [s.node_key for s in it.sites]):
        need(len(set(keys)) == len(keys), Malformed, "two sites with one key")
    need(not {s.identity_key for s in it.sites} & set(it.revoked), Malformed, "a revoked key that is listed")


RULES = {"QuantizerParams": _quantizer_rules, "Manifest": _manifest_rules, "Roster": _roster_rules}

# ---------------------------------------------------------------- primitives, spec §5


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature verifies (spec §5.2)."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def raw_public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes) -> bytes:
    """X25519; malformed for a point of low order."""
    try:
        return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise Malformed("a point of low order") from None


def acceptable(public: bytes) -> bool:
    """Whether a public key may stand in an advert (spec §5.3)."""
    try:
        return int.from_bytes(public, "little") < 2**255 - 19 and bool(agree(bytes(32), public))
    except Malformed:
        return False


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int = 48) -> bytes:
    return HKDF(SHA256(), length, salt or bytes(32), info).derive(ikm)


def stream(seed: bytes, length: int, skip: int = 0) -> bytes:
    """Bytes of a stream (spec §9.3)."""
    need(len(seed) == 48, Misuse, "a seed has 48 bytes")
    cipher = Cipher(algorithms.AES(seed[:32]), modes.CTR(seed[32:])).encryptor()
    return cipher.update(bytes(skip + length))[skip:]


def to_words(data: bytes) -> Words:
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


def from_words(words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


def seal(key: bytes, data: bytes, aad: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), data, aad)


def unseal(key: bytes, sealed: bytes, aad: bytes, nonce: bytes = bytes(12)) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Malformed("a box that does not open") from None


P = 2**256 + 297


def draw_coefficients(threshold: int, random: Random) -> list[int]:
    """a_1 .. a_(t-1); 64 bytes each, the highest power first, as tests/vectors/README.md fixes (spec §5.6)."""
    return [int.from_bytes(random(64), "big") % P for _ in range(threshold - 1)][::-1]


def share_at(secret: bytes, coefficients: Sequence[int], point: int) -> bytes:
    powers = [int.from_bytes(secret, "big"), *coefficients]
    return (sum(a * pow(point, i, P) for i, a in enumerate(powers)) % P).to_bytes(33, "big")


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret of the t shares with the smallest points (spec §5.6)."""
    points = sorted(shares)[:threshold]
    need(len(points) == threshold, Misuse, "too few shares")
    need(all(len(share) == 33 for share in shares.values()), Malformed, "a share has 33 bytes")
    total = 0
    for x in points:
        value = int.from_bytes(shares[x], "big")
        need(value < P, Malformed, "a share of p or more")
        over = math.prod(x - y for y in points if y != x)
        total += value * math.prod(-y for y in points if y != x) * pow(over, -1, P)
    need(total % P < 1 << 256, Malformed, "a secret of 2^256 or more")
    return (total % P).to_bytes(32, "big")


# ---------------------------------------------------------------- labels and digests, spec §8

REGISTRY = """
LAYOUT=layout; ADAPTER=adapter; ROSTER=roster; MANIFEST=manifest; HEADER=round header; GRAPH=graph;
SEED_COMMITMENT=self-mask seed commitment; MASKED_WORDS=masked words; BOXES=share boxes; KEY_ROSTER=key roster;
SHARE_SET=share set; SURVIVOR_SET=survivor set; SUM_WORDS=sum words; TRANSCRIPT=transcript;
FINGERPRINT=fingerprint; BASE_MODEL=base model; TOKENIZER=tokenizer; LORA_CONFIG=lora config;
SIGN_ROSTER=sig roster; SIGN_SITE_PUBLIC=sig site public; SIGN_HELLO=sig hello; SIGN_MODEL_CARD=sig model card;
SIGN_CONSENT=sig consent; SIGN_READY=sig ready; SIGN_ROUND_OPEN=sig round open; SIGN_KEY_ADVERT=sig key advert;
SIGN_SEALED_SHARES=sig sealed shares; SIGN_MASKED_VECTOR=sig masked vector; SIGN_SURVIVORS=sig survivors;
SIGN_UNMASK_SHARES=sig unmask shares; SIGN_PROJECTIONS=sig projections; SHARE_KEY=share key; PAIR_MASK=pair mask;
SELF_MASK=self mask; SHARE_AAD=share aad; ROTATION=rotation signs; CHALLENGE=challenge;
INITIAL_VALUES=initial values; KEY_AT_REST=key at rest; KEY_CHECK=key check; VECTOR_UPDATE=vector update;
VECTOR_TAIL=vector tail; SIGN_OPENING_WANTED=sig opening wanted; SIGN_OPENING_FOR=sig opening for;
CKKS_UPDATE=ckks update; CKKS_SEED=ckks seed; CKKS_DITHER=ckks dither; CKKS_KEY=ckks key; CKKS_ERROR=ckks error;
CKKS_PUBLIC=ckks public element; BLIND_COMMITMENT=blind seed commitment; BLIND_ROSTER=blind roster;
BLIND_KEY=blind key; BLIND_AAD=blind aad; BLIND_PAD=blind pad; SIGN_BLIND_ADVERT=sig blind advert;
SHARED_KEY_NAME=shared key; SHARED_KEY_BOX=shared key box; SIGN_SHARED_KEYS=sig shared keys;
SIGN_CONTRIBUTION=sig contribution; CIPHERTEXTS=ciphertext words
"""  # the labels and purposes of spec §8.2
PURPOSES = {label: purpose for label, _, purpose in (row.partition("=") for row in re.split(r";\s", REGISTRY.strip()))}
LABELS = {name: f"secagg-lora/v1 {purpose}\0".encode() for name, purpose in PURPOSES.items()}
SIGNED = {
    "Roster": "SIGN_ROSTER", "SitePublic": "SIGN_SITE_PUBLIC", "Here": "SIGN_HELLO", "ModelCard": "SIGN_MODEL_CARD",
    "Consent": "SIGN_CONSENT", "Ready": "SIGN_READY", "OpeningWanted": "SIGN_OPENING_WANTED",
    "OpeningFor": "SIGN_OPENING_FOR", "RoundOpen": "SIGN_ROUND_OPEN", "KeyAdvert": "SIGN_KEY_ADVERT",
    "ShareStatement": "SIGN_SEALED_SHARES", "MaskedVector": "SIGN_MASKED_VECTOR",
    "SurvivorSignature": "SIGN_SURVIVORS", "UnmaskShares": "SIGN_UNMASK_SHARES", "Projections": "SIGN_PROJECTIONS",
    "BlindAdvert": "SIGN_BLIND_ADVERT",
}  # fmt: skip


def digest(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(LABELS[label] + b"".join(parts)).digest()


def sign(key: Ed25519PrivateKey, kind: str, *values: Any, h0: bytes = b"") -> Struct:
    """A signed struct of the fields before the signature (spec §4.5)."""
    draft = Struct(kind, *values, bytes(64))
    return Struct(kind, *values, key.sign(LABELS[SIGNED[kind]] + h0 + unsigned(draft)))


def layout_digest(tensors: Sequence[Sequence[Any]]) -> bytes:
    return digest("LAYOUT", cbor(tensors))


def adapter_digest(layout: bytes, values: Sequence[float]) -> bytes:
    return digest("ADAPTER", layout, to_binary32(values))


def session_id(manifest: Struct) -> bytes:
    return digest("MANIFEST", encode(manifest))


def roster_digest(roster: Struct) -> bytes:
    return digest("ROSTER", unsigned(roster))


def transcript_of(record: Struct) -> bytes:
    return digest("TRANSCRIPT", encode(record))


# ---------------------------------------------------------------- one attempt, spec §7.7, §9, §11.5


def place_bytes(*places: int) -> bytes:
    return struct.pack(f">{len(places)}I", *places)


def start(manifest: Struct) -> Struct:
    """The position before round 1 (spec §7.7)."""
    session = session_id(manifest)
    return Struct("Position", session, 0, manifest.initial_adapter, session, manifest.first_range_q40)


def header_at(manifest: Struct, position: Struct, attempt: int) -> Struct:
    """The only header that a site at this position accepts (spec §7.7)."""
    graph = digest("GRAPH", cbor([manifest.graph, list(manifest.sites)]))
    names = manifest.scheme, manifest.roster, position.adapter, position.transcript, graph, position.range_q40
    return Struct("RoundHeader", manifest.suite, session_id(manifest), position.round + 1, attempt, *names)


class Attempt:
    """What everybody knows of one attempt: manifest, roster and header, and what follows from them."""

    def __init__(self, manifest: Struct, roster: Struct, header: Struct) -> None:
        self.manifest, self.roster, self.header = manifest, roster, header
        self.h0 = digest("HEADER", encode(header))
        self.place = {entry.site: place for place, entry in enumerate(roster.sites, 1)}
        self.identity = {e.site: e.identity_key for e in roster.sites if e.site in manifest.sites}
        self.quantizer = Quantizer(manifest, header.range_q40, hkdf(self.h0, b"", LABELS["ROTATION"]))
        self.payload: Payload = (Ciphertexts if manifest.scheme == "ckks" else Payload)(self)

    # key schedule, spec §9.2

    def box_key(self, shared: bytes, sender: str, receiver: str) -> bytes:
        return hkdf(shared, self.h0, LABELS["SHARE_KEY"] + place_bytes(self.place[sender], self.place[receiver]), 32)

    def box_aad(self, h1: bytes, sender: str, receiver: str) -> bytes:
        return LABELS["SHARE_AAD"] + self.h0 + h1 + place_bytes(self.place[sender], self.place[receiver])

    def pair_seed(self, secret: bytes, public: bytes, u: str, v: str, h2: bytes) -> bytes:
        places = place_bytes(*sorted((self.place[u], self.place[v])))
        info = LABELS["PAIR_MASK"] + places + h2 + LABELS["VECTOR_UPDATE"]
        return hkdf(agree(secret, public), self.h0, info)

    def self_seed(self, seed: bytes, u: str, h2: bytes, vector: str = "VECTOR_UPDATE") -> bytes:
        info = LABELS["SELF_MASK"] + place_bytes(self.place[u]) + h2 + LABELS[vector]
        return hkdf(seed, self.h0, info)

    def commitment(self, seed: bytes) -> bytes:
        return digest("SEED_COMMITMENT", self.h0, seed)

    def set_digest(self, label: str, members: Iterable[Struct]) -> bytes:
        """h1, h2 or h3 (spec §8.3)."""
        return digest(label, self.h0, cbor(list(members)))

    # rules, spec §11.5

    def signed(self, message: Struct) -> None:
        site = message.site
        need(site in self.identity, Refused, "a signer that is no site of the session")
        signed_bytes = LABELS[SIGNED[message.kind]] + self.h0 + unsigned(message)
        good = verifies(self.identity[site], message.signature, signed_bytes)
        need(good, FaultyPeerOrServer, "a false signature", site)

    def check_adverts(self, adverts: Sequence[Struct]) -> bytes:
        """Rules for U1; gives h1."""
        for advert in adverts:
            self.signed(advert)
            own = advert.share_key, advert.mask_key
            need(all(map(acceptable, own)) and own[0] != own[1], FaultySite, "unacceptable keys", advert.site)
        keys = [key for advert in adverts for key in (advert.share_key, advert.mask_key)]
        need(len(set(keys)) == len(keys), FaultyServer, "one key in two adverts")
        return self.set_digest("KEY_ROSTER", adverts)

    def check_statements(self, statements: Sequence[Struct], u1: Iterable[str], h1: bytes) -> bytes:
        """Rules for U2; gives h2."""
        need({s.site for s in statements} <= set(u1), FaultyServer, "U2 is not within U1")
        for statement in statements:
            self.signed(statement)
            need(statement.key_roster == h1, FaultyPeerOrServer, "a statement on another h1", statement.site)
        return self.set_digest("SHARE_SET", statements)

    def check_vectors(self, vectors: Sequence[Struct], h2: bytes) -> bytes:
        """Rules for U3; gives h3."""
        for vector in vectors:
            self.signed(vector)
            need(vector.share_set == h2, FaultyPeerOrServer, "a vector on another h2", vector.site)
        return self.set_digest("SURVIVOR_SET", vectors)

    def check_quorum(self, signatures: Sequence[Struct], u3: Collection[str], h3: bytes) -> None:
        need(len(signatures) >= self.manifest.quorum, FaultyServer, "no quorum")
        for signature in signatures:
            need(signature.site in u3, FaultyServer, "a signer outside U3")
            need(signature.survivor_set == h3, FaultyServer, "a signature on another h3")
            self.signed(signature)

    def check_record(self, record: Struct) -> bytes:
        """The rules for a record, in their order; gives h3."""
        need(record.header == self.header, FaultyServer, "another header")
        adverts, statements, vectors = (by_site(x) for x in (record.adverts, record.statements, record.vectors))
        h1 = self.check_adverts(record.adverts)
        h2 = self.check_statements(record.statements, adverts, h1)
        h3 = self.check_vectors(record.vectors, h2)
        need(set(vectors) <= set(statements), FaultyServer, "U3 is not within U2")
        need(len(vectors) >= self.manifest.least_survivors, FaultyServer, "too few survivors")
        self.check_quorum(record.signatures, vectors, h3)
        named = set(by_site(record.seeds)) == set(vectors)
        named = named and set(by_site(record.keys)) == set(statements) - set(vectors)
        need(named, FaultyServer, "secrets of other sites")
        fits = all(self.commitment(r.secret) == adverts[r.site].seed_commitment for r in record.seeds)
        fits = fits and all(raw_public(r.secret) == adverts[r.site].mask_key for r in record.keys)
        need(fits, FaultyServer, "a secret that does not fit")
        return h3

    def masks_of(self, record: Struct) -> Words:
        """M: what the vectors of U3 add up to beside X (spec §11.6.5, §15.2)."""
        h2 = self.set_digest("SHARE_SET", record.statements)
        adverts, count = by_site(record.adverts), self.payload.masked
        total = [0] * count
        for seed in record.seeds:
            total = add(total, mask(self.self_seed(seed.secret, seed.site, h2), count))
        for gone in record.keys:
            for there in record.seeds:
                seed = self.pair_seed(gone.secret, adverts[there.site].mask_key, gone.site, there.site, h2)
                after = self.place[gone.site] > self.place[there.site]
                total = (add if after else subtract)(total, mask(seed, count))
        return total + [0] * self.payload.count  # the tail protects itself

    def challenge_seed(self, transcript: bytes) -> bytes:
        return hkdf(transcript, self.h0, LABELS["CHALLENGE"])

    def project(self, numbers: Sequence[int], transcript: bytes) -> Words:
        return project(numbers, self.challenge_seed(transcript))

    def check_sum(self, record: Struct, total: Words, given: Mapping[str, Words], others: Sequence[Words]) -> None:
        """That X is the sum of the survivors' vectors, less M (spec §15.2)."""
        vectors = add(self.payload.numbers_of_sum(total), self.masks_of(record))
        for other in others:
            vectors = subtract(vectors, self.payload.numbers_of_vector(other))
        claimed = [0] * 128
        for values in given.values():
            claimed = add(claimed, values)
        fits = claimed == self.project(vectors, transcript_of(record))
        need(fits, FaultyServer, "the sum is not that of the survivors' vectors")


def with_peak_signed(h0: bytes, y: Words, peak: int, signed: bytes) -> Words:
    """Masked words whose last, the peak, is moved by up to 1 part in 2^20 so that they have the digest signed."""
    prefix = hashlib.sha256(LABELS["MASKED_WORDS"] + h0 + from_words(y[:-1]))
    for distance in range((peak >> 20) + 1):
        for last in (y[-1] + distance & WORD, y[-1] - distance & WORD):
            whole = prefix.copy()
            whole.update(from_words([last]))
            if whole.digest() == signed:
                return [*y[:-1], last]
    return y


def by_site(members: Iterable[Struct]) -> dict[str, Struct]:
    return {member.site: member for member in members}


def mask(seed: bytes, count: int) -> Words:
    return to_words(stream(seed, 8 * count))


def add(a: Sequence[int], b: Sequence[int]) -> Words:
    return [x + y & WORD for x, y in zip(a, b, strict=True)]


def subtract(a: Sequence[int], b: Sequence[int]) -> Words:
    return [x - y & WORD for x, y in zip(a, b, strict=True)]


def sign_bits(seed: bytes, count: int) -> list[int]:
    """The first bits of a stream, the least significant of each byte first."""
    data = stream(seed, (count + 7) // 8)
    return [byte >> bit & 1 for byte in data for bit in range(8)][:count]


def project(words: Sequence[int], seed: bytes) -> Words:
    """128 sums over a vector (spec §15.2)."""
    bits = sign_bits(seed, len(words) + 127)
    return [sum(compress(words, bits[k : k + len(words)])) & WORD for k in range(128)]


# ---------------------------------------------------------------- updates and words, spec §10


def to_binary32(values: Iterable[float]) -> bytes:
    """Each rounded once to binary32, little-endian."""
    floats = array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tobytes()


def from_binary32(data: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def fl32(values: Iterable[float]) -> list[float]:
    return from_binary32(to_binary32(values))


def blocks_of(size: int, rotate: int) -> Iterator[slice]:
    """The rotation blocks (spec §10.2)."""
    sizes = [4096] * (size >> 12) + [1 << k for k in range(11, -1, -1) if size >> k & 1] if rotate else [1] * size
    at = 0
    for count in sizes:
        yield slice(at, at + count)
        at += count


def walsh_hadamard(values: list[Any]) -> list[Any]:
    """Sylvester's transform without its factor."""
    if len(values) == 1:
        return values
    half = len(values) // 2
    a, b = walsh_hadamard(values[:half]), walsh_hadamard(values[half:])
    return [x + y for x, y in zip(a, b, strict=True)] + [x - y for x, y in zip(a, b, strict=True)]


@dataclass
class Update:
    """A site's update, its weight and the counts and losses that go with it (spec §10.1, §10.6)."""

    values: list[float]
    weight: int
    examples: int
    train_loss: float
    eval_tokens: int
    eval_loss: float


TALLY = "sites", "weight", "examples", "train_loss", "eval_tokens", "eval_loss", "clipped", "peak"


def tally_words(update: Update, clipped: int, peak: int) -> Words:
    """A site's own tally (spec §10.6)."""
    tokens = update.eval_tokens
    need(1 <= update.examples <= 1 << 28 and 0 <= tokens <= 1 << 28, Misuse, "a count outside its limits")
    losses = (update.train_loss, update.examples), (update.eval_loss, tokens)
    need(all(0 <= loss <= 1024 for loss, _ in losses), Misuse, "a loss outside its limits")
    train, held_out = (round(loss * count * 65536.0) for loss, count in losses)
    return [1, update.weight, update.examples, train, tokens, held_out, clipped, min(peak, 1 << 52)]


def check_tally(words: Sequence[int], survivors: int, cap: int, size: int) -> dict[str, int]:
    k = survivors
    largest = k, k * cap, k << 28, k << 54, k << 28, k << 54, k * size, k << 52
    bounded = all(word <= bound for word, bound in zip(words, largest, strict=True))
    need(bounded and min(words[:3]) >= k, FaultyServer, "a tally word outside its bounds")
    return dict(zip(TALLY, words, strict=True))


def totals_of(tally: Mapping[str, int], size: int) -> dict[str, Any]:
    """What people are shown (spec §10.6)."""
    losses = {"train_loss": tally["examples"], "eval_loss": tally["eval_tokens"]}
    means = {name: tally[name] / 65536 / count if count else 0 for name, count in losses.items()}
    counts = {name: tally[name] for name in ("sites", "weight", "examples", "eval_tokens")}
    return {**counts, **means, "clipped": tally["clipped"] / (tally["sites"] * size)}


def next_range(range_q40: int, tally: Mapping[str, int], largest: int, size: int, levels: int) -> int:
    """Spec §10.7; -(-a // b) is ceil(a / b)."""
    of_mean = -(-largest * range_q40 // (levels * tally["weight"]))
    of_sites = -(-tally["peak"] // tally["sites"])
    wanted = -(-3 * max(of_mean, of_sites) // 2)
    if 1000 * tally["clipped"] > 10 * tally["sites"] * size:
        wanted = max(wanted, 2 * range_q40)
    return min(max(wanted, 1), 1 << 52)


def pack(values: Sequence[int], lane_bits: int, weight: int) -> Words:
    """Values to words, planar within a word block, times the weight (spec §10.4)."""
    lanes, words = 64 // lane_bits, []
    for at in range(0, len(values), 32768 * lanes):
        block = values[at : at + 32768 * lanes]
        count = -(-len(block) // lanes)
        for k in range(count):
            word = sum(value << lane_bits * lane for lane, value in enumerate(block[k::count]))
            words.append(word * weight & WORD)
    return words


def unpack(words: Sequence[int], size: int, lane_bits: int, most: int) -> list[int]:
    """The lanes of a sum, each at most `most` (spec §10.5, step 1)."""
    lanes, sums, at = 64 // lane_bits, [], 0
    for begin in range(0, size, 32768 * lanes):
        held = min(32768 * lanes, size - begin)
        block = words[at : at + -(-held // lanes)]
        at += len(block)
        need(all(word >> lanes * lane_bits == 0 for word in block), FaultyServer, "bits above the lanes")
        planar = [word >> lane_bits * lane & (1 << lane_bits) - 1 for lane in range(lanes) for word in block]
        need(not any(planar[held:]), FaultyServer, "an unused place that is not 0")
        sums += planar[:held]
    need(max(sums) <= most, FaultyServer, "a lane above levels x T")
    return sums


class Quantizer:
    """Updates to words and sums of words to means, with the parameters of one round (spec §10)."""

    def __init__(self, manifest: Any, range_q40: int, rotation_seed: bytes) -> None:
        self.params, self.size, self.sites = manifest.quantizer, manifest.size, len(manifest.sites)
        self.levels = (1 << self.params.bits) - 1
        self.range_q40, self.range, self.rotation_seed = range_q40, range_q40 / 2**40, rotation_seed
        value_words = -(-self.size // (64 // self.params.lane_bits))  # only the last word block is not full
        self.words = value_words + len(TALLY)

    @property
    def signs(self) -> list[int]:
        return sign_bits(self.rotation_seed, self.size) if self.params.rotate else [0] * self.size

    def check(self, update: Update) -> None:
        values = update.values
        finite = all(math.isfinite(value) and abs(value) <= 2.0**64 for value in values)
        need(len(values) == self.size and finite, Misuse, "an update that cannot be shared")
        need(1 <= update.weight <= self.params.weight_cap, Misuse, "a weight outside its limits")

    def rotated(self, values: Sequence[float]) -> list[float]:
        """Clip, signs and transform, in binary64 (spec §10.2)."""
        if self.params.clip_norm_q20 and (norm := math.sqrt(math.fsum(v * v for v in values))):
            factor = min(1.0, self.params.clip_norm_q20 / 2**20 / norm)
            values = [v * factor for v in values]
        flipped = [-v if bit else v for v, bit in zip(values, self.signs, strict=True)]
        out: list[float] = []
        for block in blocks_of(self.size, self.params.rotate):
            scale = 1 / math.sqrt(block.stop - block.start)
            out += [v * scale for v in walsh_hadamard(flipped[block])]
        return out

    def quantize(self, values: Sequence[float], dither_seed: bytes) -> tuple[list[int], int, int]:
        """The q_j, `clipped` and `peak` (spec §10.3)."""
        f = min(16, 30 - self.params.bits)
        bound = self.levels << f - 1
        rotated, scale = self.rotated(values), bound / self.range
        dither = struct.unpack(f"<{self.size}H", stream(dither_seed, 2 * self.size))
        scaled = [v * scale for v in rotated]
        clipped = (round(min(max(t, -bound), bound)) for t in scaled)
        q = [t + bound + (u >> 16 - f) >> f for t, u in zip(clipped, dither, strict=True)]
        peak = min(1 << 52, math.ceil(max(map(abs, rotated)) * 2**40))
        return q, sum(abs(t) > bound for t in scaled), peak

    def encode(self, update: Update, dither_seed: bytes) -> Words:
        """x_u: the words of the values, then the tally."""
        q, clipped, peak = self.quantize(update.values, dither_seed)
        return pack(q, self.params.lane_bits, update.weight) + tally_words(update, clipped, peak)

    def open(self, words: Sequence[int], weight: int) -> tuple[list[float], int, list[int]]:
        """The mean in binary32, `largest` and the lanes of a sum (spec §10.5)."""
        in_range = 1 <= weight <= self.sites * self.params.weight_cap
        need(in_range, FaultyServer, "a total weight outside its limits")
        sums = unpack(words, self.size, self.params.lane_bits, self.levels * weight)
        return *self.open_sums(sums, weight), sums

    def open_sums(self, sums: Sequence[int], weight: int) -> tuple[list[float], int]:
        """The mean and `largest` of the S_j (spec §10.5, from step 2)."""
        centred = [2 * s - self.levels * weight for s in sums]
        mean: list[float] = []
        for block in blocks_of(self.size, self.params.rotate):
            factor = self.range / (float(self.levels * weight) * math.sqrt(block.stop - block.start))
            mean += [z * factor for z in walsh_hadamard(centred[block])]
        rounded = fl32(mean)
        flipped = [-v if bit else v for v, bit in zip(rounded, self.signs, strict=True)]
        return flipped, max(map(abs, centred))


def initial_adapter(tensors: Sequence[Sequence[Any]], nonce: bytes) -> list[float]:
    """The adapter before round 1 (spec §10.1)."""
    seed, at, values = hkdf(nonce, b"", LABELS["INITIAL_VALUES"]), 0, []
    for name, extents in tensors:
        count = math.prod(extents)
        if name.endswith(".lora_B.weight"):
            values += [0.0] * count
            continue
        factor = 1.0 / math.sqrt(math.prod(extents[1:]))
        drawn = struct.unpack(f"<{count}I", stream(seed, 4 * count, at))
        values += [(2 * u + 1 - 2**32) / 2**32 * factor for u in drawn]
        at += 4 * count
    return fl32(values)


# ---------------------------------------------------------------- payloads, spec §11.8


class Payload:
    """What stands in a vector and in a sum, and how a sum opens: masked words and, in other schemes, a tail.

    masked: masked words; count: numbers of a tail; vector_words, sum_words: words of a vector and of a sum.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.attempt, self.quantizer = attempt, attempt.quantizer
        self.masked, self.count = self.quantizer.words, 0
        self.vector_words = self.sum_words = self.masked

    def numbers_of_vector(self, vector: Words) -> Words:
        """The masked words, then the numbers of the tail: what a projection runs over."""
        return vector

    def numbers_of_sum(self, total: Words) -> Words:
        return total

    def sum_of(self, numbers: Words) -> Words:
        """X with the sum of tails behind it."""
        return numbers

    def open(self, record: Struct, total: Words, opening: bytes) -> tuple[dict[str, int], list[float], int]:
        """Tally, mean and `largest` of a sum (spec §11.7)."""
        manifest, quantizer, at = self.attempt.manifest, self.quantizer, self.masked - len(TALLY)
        tally = check_tally(total[at:], len(record.vectors), quantizer.params.weight_cap, manifest.size)
        return tally, *quantizer.open(total[:at], tally["weight"])[:2]


# ---------------------------------------------------------------- ckks mode, spec §13

MOST_PRIMES = {4096: 3, 8192: 8, 16384: 17}
CHECKS = (1, 0, 0, 0, 0, 0, 0, 0)
KEY_WIDTHS = 8, 10, 12, 16
ZEROS = 8


def primes_of(degree: int, count: int) -> list[int]:
    """The largest primes below 2^24 that are 1 mod 2N, in descending order."""
    found, candidate = [], ((1 << 24) - 2) // (2 * degree) * 2 * degree + 1
    while len(found) < count:
        if all(candidate % divisor for divisor in range(3, math.isqrt(candidate) + 1, 2)):
            found.append(candidate)
        candidate -= 2 * degree
    return found


def error_bound(sites: int) -> int:
    return min(64 * sites, math.isqrt(64 * sites * 110) + 1)


@dataclass(frozen=True)
class Ring:
    """A session's ring, and how values lie in it (spec §13.4)."""

    degree: int
    primes: tuple[int, ...]
    sites: int
    width: int  # w
    fields: int  # F
    delta: int
    values: int  # d + C
    key_bits: int

    @property
    def q(self) -> int:
        return math.prod(self.primes)

    @property
    def coefficients(self) -> int:
        return -(-self.values // self.fields)

    @property
    def blocks(self) -> list[int]:
        """The coefficients of every block."""
        return [min(self.degree, self.coefficients - at) for at in range(0, self.coefficients, self.degree)]

    @property
    def key_words(self) -> int:
        return -(-self.degree // (64 // self.key_bits))

    @property
    def numbers(self) -> int:
        return len(self.primes) * self.coefficients

    @property
    def bytes(self) -> int:
        return 8 * (-(-3 * self.numbers // 8) + self.key_words)

    @property
    def cost(self) -> int:
        return self.bytes * (4 + self.degree.bit_length() - 1)

    def described(self) -> dict[str, Any]:
        return {
            "N": self.degree, "primes": list(self.primes), "q_bits": self.q.bit_length(), "w": self.width,
            "F": self.fields, "delta": self.delta, "coefficients": self.coefficients, "blocks": len(self.blocks),
            "bound": error_bound(self.sites), "key_bits": self.key_bits, "key_words": self.key_words,
            "bytes": self.bytes,
        }  # fmt: skip


def ring_with(degree: int, primes: Sequence[int], sites: int, cap: int, bits: int, size: int) -> Ring:
    """A candidate."""
    width = (sites * cap * ((1 << bits) - 1)).bit_length()
    room = math.prod(primes).bit_length() - 2
    fields = (room - error_bound(sites).bit_length() - 1) // width
    key_bits = next(each for each in KEY_WIDTHS if 128 * sites < 1 << each)
    delta = min(room - fields * width, 40)
    return Ring(degree, tuple(primes), sites, width, fields, delta, size + len(CHECKS), key_bits)


def ring_of(sites: int, cap: int, bits: int, size: int) -> Ring:
    """The candidate with the least bytes x (4 + log2 N)."""
    need(cap * ((1 << bits) - 1) < 1 << 30, Misuse, "levels times weight of 2^30 or more")
    largest = {degree: primes_of(degree, most) for degree, most in MOST_PRIMES.items()}
    candidates = [
        ring_with(degree, primes[:count], sites, cap, bits, size)
        for degree, primes in largest.items()
        for count in range(1, len(primes) + 1)
    ]
    return min(
        (ring for ring in candidates if ring.fields >= 1), key=lambda ring: (ring.cost, ring.degree, len(ring.primes))
    )


def values_at_powers(values: Sequence[int], root: int, q: int) -> list[int]:
    """The polynomial at root^0, root^1, ...; the root is one of unity, of the order of the number of values."""
    if len(values) == 1:
        return list(values)
    even, odd = (values_at_powers(values[at::2], root * root % q, q) for at in (0, 1))
    turned, power = [], 1
    for value in odd:
        turned.append(value * power % q)
        power = power * root % q
    pairs = list(zip(even, turned, strict=True))
    return [(a + b) % q for a, b in pairs] + [(a - b) % q for a, b in pairs]


def least_root(degree: int, q: int) -> int:
    """The least primitive 2N-th root of unity mod q."""
    tried = (pow(x, (q - 1) // (2 * degree), q) for x in range(2, q))
    some = next(root for root in tried if pow(root, degree, q) == q - 1)
    return min(pow(some, odd, q) for odd in range(1, 2 * degree, 2))


def bit_reversed(i: int, bits: int) -> int:
    return int(f"{i:0{bits}b}"[::-1], 2)


class Transform:
    """Products in Z_q[X] / (X^N + 1), one factor given by its values at psi^(2 bitrev(i) + 1) (spec §13.4)."""

    def __init__(self, degree: int, q: int) -> None:
        self.q, self.psi = q, least_root(degree, q)
        self.order = [bit_reversed(i, degree.bit_length() - 1) for i in range(degree)]
        self.powers = [1]
        for _ in range(1, degree):
            self.powers.append(self.powers[-1] * self.psi % q)

    def values(self, polynomial: Sequence[int]) -> list[int]:
        """At psi^1, psi^3, psi^5, ..."""
        twisted = [value * power % self.q for value, power in zip(polynomial, self.powers, strict=True)]
        return values_at_powers(twisted, self.psi**2 % self.q, self.q)

    def polynomial(self, values: Sequence[int]) -> list[int]:
        back = values_at_powers(values, pow(self.psi, -2, self.q), self.q)
        over = pow(len(back), -1, self.q)
        inverse = [over, *(-power * over % self.q for power in self.powers[:0:-1])]  # psi^-i is -psi^(N - i)
        return [value * factor % self.q for value, factor in zip(back, inverse, strict=True)]

    def product(self, public: Sequence[int], values: Sequence[int]) -> list[int]:
        """Coefficients of a s; values: those of s."""
        natural = [0] * len(values)
        for i, entry in zip(self.order, public, strict=True):
            natural[i] = entry
        return self.polynomial([a * b % self.q for a, b in zip(natural, values, strict=True)])


TRANSFORMS: dict[tuple[int, int], Transform] = {}


def transform_of(degree: int, q: int) -> Transform:
    if (degree, q) not in TRANSFORMS:
        TRANSFORMS[degree, q] = Transform(degree, q)
    return TRANSFORMS[degree, q]


def numbers_of_3_bytes(data: bytes) -> list[int]:
    return [int.from_bytes(data[at : at + 3], "little") for at in range(0, len(data), 3)]


def below(q: int, count: int, read: Callable[[int], bytes]) -> list[int]:
    """3-byte numbers of a stream of which those not below q are skipped; read: its first bytes, as many as asked."""
    length = 3 * (count + count // 16 + 64)
    while len(found := [x for x in numbers_of_3_bytes(read(length)) if x < q]) < count:
        length *= 2
    return found[:count]


def centred_binomial(label: str, seed: bytes, count: int, block: int | None = None) -> list[int]:
    """CBD(64) from SHAKE-256 (spec §13.4)."""
    number = b"" if block is None else block.to_bytes(4, "big")
    data = hashlib.shake_256(LABELS[label] + seed + number).digest(16 * count)
    ones = [int.from_bytes(data[at : at + 8], "big").bit_count() for at in range(0, len(data), 8)]
    return [ones[at] - ones[at + 1] for at in range(0, len(ones), 2)]


def public_element(h0: bytes, block: int, number: int, degree: int, q: int) -> list[int]:
    named = LABELS["CKKS_PUBLIC"] + h0 + block.to_bytes(4, "big") + number.to_bytes(2, "big")
    return below(q, degree, hashlib.shake_128(named).digest)


def hedged_seed(drawn: bytes, h0: bytes, place: int, update: Update) -> bytes:
    private = digest("CKKS_UPDATE", update.weight.to_bytes(8, "big"), to_binary32(update.values))
    return hashlib.sha512(LABELS["CKKS_SEED"] + drawn + h0 + place_bytes(place) + private).digest()


def dither_of(seed: bytes) -> bytes:
    return hashlib.shake_256(LABELS["CKKS_DITHER"] + seed).digest(48)


def in_fields(ring: Ring, values: Sequence[int]) -> list[list[int]]:
    """The coefficients of every block: value j M + i lies in field j of coefficient i."""
    blocks, at = [], 0
    for count in ring.blocks:
        held = values[at : at + ring.fields * count]
        at += len(held)
        held = [*held, *[0] * (ring.fields * count - len(held))]
        fields = [held[j * count : (j + 1) * count] for j in range(ring.fields)]
        blocks.append(
            [
                sum(v << ring.delta + j * ring.width for j, v in enumerate(column))
                for column in zip(*fields, strict=True)
            ]
        )
    return blocks


def from_fields(ring: Ring, blocks: Sequence[Sequence[int]]) -> list[int]:
    """The values, and the unused places behind them, of coefficients that are divided by 2^delta."""
    ones = (1 << ring.width) - 1
    return [y >> j * ring.width & ones for block in blocks for j in range(ring.fields) for y in block]


def encrypted(
    ring: Ring, h0: bytes, block: int, number: int, key_values: Sequence[int], errors: Sequence[int],
    plain: Sequence[int],
) -> list[int]:  # fmt: skip
    """c_k mod q_l, of the coefficients in use; key_values: those of s."""
    q = ring.primes[number]
    product = transform_of(ring.degree, q).product(public_element(h0, block, number, ring.degree, q), key_values)
    return [(a + e + m) % q for a, e, m in zip(product[: len(plain)], errors, plain, strict=True)]


def self_mask(seed: bytes, ring: Ring, block: int, number: int, count: int) -> list[int]:
    at = (block * len(ring.primes) + number) << 20
    counter = int.from_bytes(seed[32:], "big") + (at >> 4) & (1 << 128) - 1
    behind = seed[:32] + counter.to_bytes(16, "big")  # the stream from byte `at` on
    return below(ring.primes[number], count, lambda length: stream(behind, length))


def rows_of(ring: Ring) -> Iterator[tuple[int, int, int]]:
    """Block, prime and count of residues, in the order of a tail."""
    for block, count in enumerate(ring.blocks):
        for number in range(len(ring.primes)):
            yield block, number, count


def self_masks(seed: bytes, ring: Ring) -> list[int]:
    return [x for block, number, count in rows_of(ring) for x in self_mask(seed, ring, block, number, count)]


def moduli(ring: Ring) -> list[int]:
    """The prime of every number of a tail."""
    return [ring.primes[number] for _, number, count in rows_of(ring) for _ in range(count)]


def framed(numbers: Sequence[int], size: int) -> Words:
    """Numbers of 3 or 4 bytes each, filled up with zeros to whole words."""
    data = b"".join(number.to_bytes(size, "little") for number in numbers)
    return to_words(data + bytes(-len(data) % 8))


def unframed(words: Words, count: int, size: int) -> list[int]:
    data = from_words(words)
    need(len(data) == -(-size * count // 8) * 8, Malformed, "a tail of another length")
    need(not any(data[size * count :]), Malformed, "a byte behind the last number that is not zero")
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, size * count, size)]


def tail_numbers(ring: Ring, words: Words) -> list[int]:
    """The residues of a tail."""
    numbers = unframed(words, ring.numbers, 3)
    need(all(x < q for x, q in zip(numbers, moduli(ring), strict=True)), Malformed, "a residue not below its prime")
    return numbers


def key_sum(ring: Ring, words: Words, survivors: int) -> list[int]:
    """S, the sum of the survivors' keys, from key, zero and tally words (spec §13.6, step 1)."""
    words, zeros = words[: ring.key_words], words[ring.key_words : -len(TALLY)]
    need(not any(zeros), FaultyServer, "a zero word that is not zero")
    lanes = 64 // ring.key_bits
    need(all(word >> lanes * ring.key_bits == 0 for word in words), FaultyServer, "bits above the lanes")
    planar = [word >> ring.key_bits * lane & (1 << ring.key_bits) - 1 for lane in range(lanes) for word in words]
    need(not any(planar[ring.degree :]), FaultyServer, "an unused place that is not 0")
    need(max(planar) <= 128 * survivors, FaultyServer, "a lane above 128 times the survivors")
    return [lane - 64 * survivors for lane in planar[: ring.degree]]


def decrypted(
    ring: Ring, h0: bytes, numbers: Sequence[int], total_key: Sequence[int], survivors: int, weight: int, levels: int
) -> list[int]:  # fmt: skip
    """The S_j of a sum of ciphertexts (spec §13.6, step 3)."""
    residues: dict[int, list[list[int]]] = {}
    at = 0
    for block, number, count in rows_of(ring):
        q = ring.primes[number]
        transform = transform_of(ring.degree, q)
        public = public_element(h0, block, number, ring.degree, q)
        product = transform.product(public, transform.values([x % q for x in total_key]))
        residues.setdefault(block, []).append(
            [(c - a) % q for c, a in zip(numbers[at : at + count], product[:count], strict=True)]
        )
        at += count
    shifted = [[_rounded(ring, column, survivors) for column in zip(*rows, strict=True)] for rows in residues.values()]
    found = from_fields(ring, shifted)
    size = ring.values - len(CHECKS)
    sums, checks, rest = found[:size], found[size : ring.values], found[ring.values :]
    need(max(sums) <= levels * weight, FaultyServer, "a field above levels x T")
    need(checks == [survivors * value for value in CHECKS], FaultyServer, "the check values")
    need(not any(rest), FaultyServer, "an unused place that is not 0")
    return sums


def _rounded(ring: Ring, column: Sequence[int], survivors: int) -> int:
    """y of a coefficient y 2^delta + e, by its residues."""
    q = ring.q
    x = sum(r * (q // p) * pow(q // p, -1, p) for r, p in zip(column, ring.primes, strict=True)) % q
    y, half = divmod(x + (1 << ring.delta - 1), 1 << ring.delta)
    y, error = (y, half - (1 << ring.delta - 1)) if 2 * x < q else (0, x - q)
    within = abs(error) <= error_bound(survivors) and y < 1 << ring.fields * ring.width
    need(within, FaultyServer, "a coefficient that is no fields and a small error")
    return y


class Ciphertexts(Payload):
    """Keys in the masked words, ciphertexts in the tail (spec §13.4 to §13.6)."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(attempt)
        manifest = attempt.manifest
        params = manifest.quantizer
        self.ring = ring_of(len(manifest.sites), params.weight_cap, params.bits, manifest.size)
        self.masked = self.ring.key_words + ZEROS + len(TALLY)
        self.count = self.ring.numbers
        self.vector_words = self.masked + -(-3 * self.count // 8)
        self.sum_words = self.masked + -(-4 * self.count // 8)

    def numbers_of_vector(self, vector: Words) -> Words:
        return vector[: self.masked] + tail_numbers(self.ring, vector[self.masked :])

    def numbers_of_sum(self, total: Words) -> Words:
        return total[: self.masked] + unframed(total[self.masked :], self.count, 4)

    def sum_of(self, numbers: Words) -> Words:
        return numbers[: self.masked] + framed(numbers[self.masked :], 4)

    def pad_seed(self, seed: bytes, site: str) -> bytes:
        return hkdf(seed, self.attempt.h0, LABELS["BLIND_PAD"] + place_bytes(self.attempt.place[site]))

    def commitment(self, site: str, seed: bytes) -> bytes:
        return digest("BLIND_COMMITMENT", self.attempt.h0, place_bytes(self.attempt.place[site]), seed)

    def blind_roster(self, adverts: Iterable[Struct]) -> bytes:
        return self.attempt.set_digest("BLIND_ROSTER", adverts)

    def box_key(self, shared: bytes, sender: str, receiver: str) -> bytes:
        places = place_bytes(self.attempt.place[sender], self.attempt.place[receiver])
        return hkdf(shared, self.attempt.h0, LABELS["BLIND_KEY"] + places, 32)

    def box_aad(self, roster: bytes, sender: str, receiver: str) -> bytes:
        places = place_bytes(self.attempt.place[sender], self.attempt.place[receiver])
        return LABELS["BLIND_AAD"] + self.attempt.h0 + roster + places

    def open(self, record: Struct, total: Words, opening: bytes) -> tuple[dict[str, int], list[float], int]:
        """Spec §13.6."""
        attempt, ring, survivors = self.attempt, self.ring, by_site(record.vectors)
        seeds = {each.site: each.seed for each in decode("Opening", opening).seeds} if opening else {}
        need(set(survivors) <= set(seeds), Sealed, "the blind seed of a survivor is missing")
        numbers = self.numbers_of_sum(total)
        words, tails = numbers[: self.masked], numbers[self.masked :]
        for site in survivors:
            words = subtract(words, mask(self.pad_seed(seeds[site], site), self.masked))
        total_key = key_sum(ring, words, len(survivors))
        params, size = self.quantizer.params, attempt.manifest.size
        tally = check_tally(words[-len(TALLY) :], len(survivors), params.weight_cap, size)
        h2 = attempt.set_digest("SHARE_SET", record.statements)
        for seed in record.seeds:
            masks = self_masks(attempt.self_seed(seed.secret, seed.site, h2, "VECTOR_TAIL"), ring)
            tails = [x - m for x, m in zip(tails, masks, strict=True)]
        reduced = [x % q for x, q in zip(tails, moduli(ring), strict=True)]
        levels = self.quantizer.levels
        sums = decrypted(ring, attempt.h0, reduced, total_key, len(survivors), tally["weight"], levels)
        return tally, *self.quantizer.open_sums(sums, tally["weight"])


# ---------------------------------------------------------------- opening and audit, spec §11.7, §15


@dataclass
class Opened:
    """What everybody finds in an aggregate."""

    record: Struct
    transcript: bytes
    mean: list[float]
    totals: dict[str, Any]
    next_range_q40: int
    words: Words
    survivors: list[str]


def open_aggregate(attempt: Attempt, encoded: bytes, words: Words, opening: bytes = b"") -> Opened:
    """The mean of a round, after every check of spec §11.7 in its order; opening: an encoded Opening, in `ckks`."""
    aggregate = decode("MaskedAggregate", encoded)
    record, given = aggregate.record, by_site(aggregate.projections)
    attempt.check_record(record)
    payload, vectors = attempt.payload, by_site(record.vectors)
    silent = [site for site in vectors if site not in given]
    count, behind = payload.vector_words, payload.sum_words
    need(len(words) == behind + count * len(silent), FaultyServer, "another number of words")
    total, *others = words[:behind], *(words[at : at + count] for at in range(behind, len(words), count))
    need(digest("SUM_WORDS", attempt.h0, from_words(total)) == record.sum_words, FaultyServer, "another sum")
    need(set(given) <= set(vectors), FaultyServer, "projections from outside U3")
    transcript = transcript_of(record)
    for projection in given.values():
        need(projection.record == transcript, FaultyServer, "projections of another record")
        attempt.signed(projection)
    for site, other in zip(silent, others, strict=True):
        named = digest("MASKED_WORDS", attempt.h0, from_words(other)) == vectors[site].words
        need(named, FaultyServer, "words that their site did not sign")
    attempt.check_sum(record, total, {site: to_words(p.values[2]) for site, p in given.items()}, others)
    manifest, quantizer = attempt.manifest, attempt.quantizer
    tally, mean, largest = payload.open(record, total, opening)
    following = next_range(quantizer.range_q40, tally, largest, manifest.size, quantizer.levels)
    totals = totals_of(tally, manifest.size)
    return Opened(record, transcript, mean, totals, following, total, list(vectors))


def audit(attempt: Attempt, encoded: bytes, words: Words, vectors: Mapping[str, Words], opening: bytes = b"") -> Opened:
    """A round with its masked vectors at hand: whose bytes are wrong (spec §15.3)."""
    opened = open_aggregate(attempt, encoded, words, opening)
    given, payload = by_site(decode("MaskedAggregate", encoded).projections), attempt.payload
    expected = [0] * (payload.masked + payload.count)
    for site, message in by_site(opened.record.vectors).items():
        named = digest("MASKED_WORDS", attempt.h0, from_words(vectors[site])) == message.words
        need(named, Misuse, "bytes that are not the site's vector", site)
        numbers = payload.numbers_of_vector(vectors[site])
        if site in given:
            projected = from_words(attempt.project(numbers, opened.transcript))
            need(projected == given[site].values[2], FaultySite, "false projections", site)
        expected = add(expected, numbers)
    unmasked = payload.sum_of(subtract(expected, attempt.masks_of(opened.record)))
    need(unmasked == opened.words, FaultyServer, "a false sum")
    return opened


@dataclass
class Chain:
    """A site's position and global adapter, round after round (spec §7.7)."""

    manifest: Struct
    roster: Struct
    adapter: list[float]
    position: Struct

    def attempt(self, number: int) -> Attempt:
        return Attempt(self.manifest, self.roster, header_at(self.manifest, self.position, number))

    def advance(self, number: int, encoded: bytes, words: Words) -> Opened:
        opened = open_aggregate(self.attempt(number), encoded, words)
        adapter = fl32(a + b for a, b in zip(self.adapter, opened.mean, strict=True))
        need(all(map(math.isfinite, adapter)), FaultyServer, "an adapter that is not finite")
        named = adapter_digest(self.manifest.layout, adapter), opened.transcript, opened.next_range_q40
        self.position = Struct("Position", self.position.session, self.position.round + 1, *named)
        self.adapter = adapter
        return opened


# ---------------------------------------------------------------- a site, spec §7.3, §7.4, §11.4, §16.1

TWO_DAYS = 2 * 86400


@dataclass
class Policy:
    """Rules of a site with this implementation's defaults (spec §7.3)."""

    schemes: Sequence[str] = ("masked", "ckks")
    least_survivors: int = 3
    least_threshold: int = 2
    least_colluders: int = 1
    largest_weight: int = 1
    largest_rounds: int = 1000
    base_models: Sequence[bytes] | None = None
    whole_roster: bool = True
    server_reads_sum: bool = False

    def check(self, manifest: Struct) -> None:
        """All rules but the one that needs a clock."""
        need(manifest.scheme in self.schemes, Refused, "the scheme")
        need(manifest.least_survivors >= self.least_survivors, Refused, "too few survivors")
        need(manifest.threshold >= self.least_threshold, Refused, "too low a threshold")
        need(manifest.colluders >= self.least_colluders, Refused, "too few colluders")
        need(manifest.quantizer.weight_cap <= self.largest_weight, Refused, "too large a weight")
        need(manifest.rounds <= self.largest_rounds, Refused, "too many rounds")
        need(self.base_models is None or manifest.base_model in self.base_models, Refused, "an unlisted base model")
        shown = any(option.name == "server-reads-sum" and option.value == "yes" for option in manifest.options)
        need(self.server_reads_sum or not shown, Refused, "the server would read the sum")

    def check_roster(self, manifest: Struct, roster: Struct, now: int) -> None:
        current = {e.site for e in roster.sites if now + TWO_DAYS < e.expires}
        need(not self.whole_roster or current <= set(manifest.sites), Refused, "a site of the roster is left out")


@dataclass
class Loaded:
    """What a site's training code found (spec §7.4)."""

    tensors: Sequence[Sequence[Any]]
    base_model: bytes
    tokenizer: bytes
    lora_config: bytes
    initial_adapter: Sequence[float]


def consent(
    name: str, key: Ed25519PrivateKey, roster: Struct, loaded: Loaded, policy: Policy, now: int, encoded: bytes,
    agreed: Mapping[bytes, bytes] | None = None,
) -> Struct:  # fmt: skip
    """A site's answer to a Manifest; agreed: nonce -> session of every session before (spec §7.4, §16.1)."""
    manifest = decode("Manifest", encoded)
    policy.check(manifest)
    need(not manifest.options, Refused, "an option that masked mode does not define")
    policy.check_roster(manifest, roster, now)
    need(manifest.roster == roster_digest(roster), Refused, "another roster")
    entries = by_site(roster.sites)
    need(name in manifest.sites and set(manifest.sites) <= set(entries), Refused, "sites that are not on the roster")
    need(all(now <= entries[site].expires + TWO_DAYS for site in manifest.sites), Refused, "an entry has expired")
    settings = {setting.name: setting.value for setting in manifest.settings}
    need("examples_per_weight" in settings, Malformed, "no weight rule")
    need(bool(re.fullmatch("[0-9]{1,9}", settings["examples_per_weight"])), Refused, "the weight rule")
    layout = layout_digest(loaded.tensors)
    sizes = sum(math.prod(extents) for _, extents in loaded.tensors)
    found = layout, sizes, loaded.base_model, loaded.tokenizer, loaded.lora_config
    wanted = manifest.layout, manifest.size, manifest.base_model, manifest.tokenizer, manifest.lora_config
    need(found == wanted, Refused, "another model")
    need(manifest.initial_adapter == adapter_digest(layout, loaded.initial_adapter), Refused, "another first adapter")
    before = (agreed or {}).get(manifest.nonce, session_id(manifest))
    need(before == session_id(manifest), Refused, "another session had this nonce")
    return sign(key, "Consent", name, start(manifest))


class Ledger:
    """A session's log of answers, in memory (spec §16.1)."""

    def __init__(self, session: bytes, lines: Iterable[Struct] = ()) -> None:
        self.session, self.lines = session, list(lines)

    def _newer(self, header: Struct) -> bool:
        if not self.lines:
            return True
        last = self.lines[-1]
        if header.round != last.round:
            return bool(header.round > last.round)
        return bool(header.attempt > last.attempt and last.stage < 5)

    def admit(self, manifest: Struct, position: Struct, header: Struct) -> None:
        """Rule 2: whether an attempt with this header may begin."""
        own = header_at(manifest, position, header.attempt)
        need(header == own, FaultyServer, "not the header of the site's position")
        need(self._newer(header), Refused, "the log does not admit the attempt")

    def answer(self, header: Struct, stage: int, evidence: bytes) -> Struct:
        """Rule 1: the line for a reply, or refused."""
        need(header.session == self.session, Refused, "another session's log")
        last = self.lines[-1] if self.lines else None
        goes_on = last is not None and (last.round, last.attempt) == (header.round, header.attempt)
        ascends = stage > last.stage if last is not None and goes_on else self._newer(header)
        need(ascends, Refused, "the log does not admit the answer")
        line = Struct("Answer", header.session, header.round, header.attempt, stage, evidence)
        self.lines.append(line)
        return line


STATES = "Fresh", "Advertised", "Shared", "Masked", "Signed", "Spent", "Checked"  # spec §11.3, by stage
REQUESTS = "RoundOpen", "KeyRoster", "ShareBundle", "SurvivorSet", "SurvivorProof", "RoundRecord"
BLIND_REQUESTS = "RoundOpen", "BlindRoster", "BlindBundle", "SurvivorSet", "SurvivorProof", "RoundRecord"  # spec §13.1


class Site:
    """A site in one attempt: each request gives a reply, or an error and nothing else (spec §11.4).

    random: called for s, k, b, the coefficients of k and of b, and the dither, in this order. signed_words: the digest
    of y at a site that rounded otherwise, whose peak this one takes over. `trace` gathers, for comparison, what no site
    would keep.
    """

    requests: Sequence[str] = REQUESTS

    def __init__(
        self, attempt: Attempt, name: str, key: Ed25519PrivateKey, update: Update, random: Random,
        policy: Policy | None = None, ledger: Ledger | None = None, signed_words: bytes = b"",
    ) -> None:  # fmt: skip
        (policy or Policy()).check(attempt.manifest)
        attempt.quantizer.check(update)
        self.attempt, self.name, self.random, self.opening = attempt, name, random, b""
        self.ledger = ledger or Ledger(attempt.header.session)
        self.masked_words: Words | None
        self._key, self._signed_words = key, signed_words
        self._update: Update | None = update
        self.state, self.masked_words = "Fresh", None
        self._holds: dict[str, Any] = {}
        self.trace: dict[str, Any] = {}

    def answer(self, request: bytes, words: Words | None = None) -> tuple[bytes, Words | None]:
        """The reply packet; state and log are unchanged after an error."""
        need(words is None, Malformed, "words beside a request")
        message = decode_one_of(self.requests, request)
        stage = self.requests.index(message.kind)
        need(STATES[stage] == self.state, FaultyServer, f"{message.kind} in {self.state}")
        steps = self._advertise, self._share, self._mask, self._consent, self._unmask, self._check
        reply, holds, evidence = steps[stage](message)
        self.ledger.answer(self.attempt.header, stage + 1, evidence)
        self.state, self._holds = STATES[stage + 1], holds
        if self.state != "Masked":
            return encode(reply), None
        self.masked_words, self._update = holds.pop("y"), None
        return encode(reply), self.masked_words

    def _sign(self, kind: str, *values: Any) -> Struct:
        return sign(self._key, kind, self.name, *values, h0=self.attempt.h0)

    def _advertise(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.1
        attempt, manifest = self.attempt, self.attempt.manifest
        signed_bytes = LABELS["SIGN_ROUND_OPEN"] + attempt.h0 + unsigned(request)
        opened = verifies(manifest.server_key, request.signature, signed_bytes)
        need(opened, FaultyServer, "not signed by the session's server over this header")
        need(request.header == attempt.header, FaultyServer, "another header")
        cohort = set(request.cohort)
        need(self.name in cohort and cohort <= set(manifest.sites), FaultyServer, "the cohort")
        need(len(cohort) >= manifest.least_survivors, Refused, "too small a cohort")
        share_secret, mask_secret, seed = (self.random(32) for _ in range(3))
        keys = raw_public(share_secret), raw_public(mask_secret)
        advert = self._sign("KeyAdvert", *keys, attempt.commitment(seed))
        self.trace.update(unsigned=unsigned(advert))
        secrets = {"share_secret": share_secret, "mask_secret": mask_secret, "seed": seed}
        return advert, {"cohort": cohort, "advert": advert, **secrets}, attempt.h0

    def _share(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.2
        attempt, held, adverts = self.attempt, self._holds, by_site(request.adverts)
        need(set(adverts) <= held["cohort"], FaultyServer, "U1 is not within the cohort")
        need(len(adverts) >= attempt.manifest.least_survivors, Refused, "too small a U1")
        h1 = attempt.check_adverts(request.adverts)
        need(adverts.get(self.name) == held["advert"], FaultyServer, "the site's own advert is not in U1")
        secrets = held["mask_secret"], held["seed"]
        drawn = [draw_coefficients(attempt.manifest.threshold, self.random) for _ in secrets]
        own, boxes = b"", []
        self.trace.update(h1=h1, drawn=drawn, boxes={})
        for site, advert in adverts.items():
            shares = [share_at(*each, attempt.place[site]) for each in zip(secrets, drawn, strict=True)]
            if site == self.name:
                own_key_share, own_seed_share = shares
                continue
            key = attempt.box_key(agree(held["share_secret"], advert.share_key), self.name, site)
            aad = attempt.box_aad(h1, self.name, site)
            boxes.append(Struct("Box", site, seal(key, own.join(shares), aad)))
            said = {"place": attempt.place[site], "key": key, "aad": aad, "plaintext": own.join(shares)}
            self.trace["boxes"][site] = said
        statement = self._sign("ShareStatement", h1, digest("BOXES", cbor(boxes)))
        kept = {name: held[name] for name in ("share_secret", "mask_secret", "seed")}
        kept.update(own_key_share=own_key_share, own_seed_share=own_seed_share)
        holds = {"adverts": adverts, "h1": h1, "statement": statement, **kept}
        return Struct("SealedShares", statement, tuple(boxes)), holds, attempt.h0

    def _mask(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.3
        attempt, held, statements = self.attempt, self._holds, by_site(request.statements)
        need(len(statements) >= attempt.manifest.least_survivors, Refused, "too small a U2")
        need(statements.get(self.name) == held["statement"], FaultyServer, "the site's own statement is not in U2")
        h2 = attempt.check_statements(request.statements, held["adverts"], held["h1"])
        boxes = by_site(request.boxes)
        need(set(boxes) == set(statements) - {self.name}, FaultyServer, "boxes of other sites than U2")
        shares = {self.name: (held["own_key_share"], held["own_seed_share"])}
        for site, box in boxes.items():
            key = attempt.box_key(agree(held["share_secret"], held["adverts"][site].share_key), site, self.name)
            try:
                opened = unseal(key, box.ciphertext, attempt.box_aad(held["h1"], site, self.name))
            except Malformed:
                raise FaultyPeerOrServer("a box that does not open", site) from None
            shares[site] = opened[:33], opened[33:]
        assert self._update is not None
        made = self._words(self._update)
        self.trace.update(h2=h2, words=made)
        y = self._masked(made, statements, h2) + self._tail(h2)
        if self._signed_words:
            y = with_peak_signed(attempt.h0, y, made[-1], self._signed_words)
            self.trace["words"][-1] = made[-1] + y[-1] - self._masked(made, statements, h2)[-1] & WORD
        vector = self._sign("MaskedVector", h2, digest("MASKED_WORDS", attempt.h0, from_words(y)))
        return vector, {"h2": h2, "held": shares, "vector": vector, "y": y}, attempt.h0

    def _words(self, update: Update) -> Words:  # spec §10
        return self.attempt.quantizer.encode(update, self.random(48))

    def _tail(self, h2: bytes) -> Words:  # spec §11.8
        return []

    def _masked(self, words: Words, u2: Iterable[str], h2: bytes) -> Words:  # spec §9.4
        attempt, held = self.attempt, self._holds
        added = {"self": attempt.self_seed(held["seed"], self.name, h2)}
        subtracted: dict[str, bytes] = {}
        for site in u2:
            if site != self.name:
                public = held["adverts"][site].mask_key
                after = attempt.place[site] > attempt.place[self.name]
                seed = attempt.pair_seed(held["mask_secret"], public, self.name, site, h2)
                (added if after else subtracted)[site] = seed
        for seed in added.values():
            words = add(words, mask(seed, len(words)))
        for seed in subtracted.values():
            words = subtract(words, mask(seed, len(words)))
        self.trace.update(added=added, subtracted=subtracted)
        return words

    def _consent(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.4
        attempt, held, vectors = self.attempt, self._holds, by_site(request.vectors)
        need(len(vectors) >= attempt.manifest.least_survivors, Refused, "too small a U3")
        need(vectors.get(self.name) == held["vector"], FaultyServer, "the site's own vector is not in U3")
        need(set(vectors) <= set(held["held"]), FaultyServer, "U3 is not within U2")
        h3 = attempt.check_vectors(request.vectors, held["h2"])
        self.trace.update(h3=h3)
        return self._sign("SurvivorSignature", h3), {"h3": h3, "survivors": set(vectors), "held": held["held"]}, h3

    def _unmask(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.5
        held, h3 = self._holds, self._holds["h3"]
        self.attempt.check_quorum(request.signatures, held["survivors"], h3)
        shares = sorted(held["held"].items())
        seeds = tuple(Struct("Share", site, of_seed) for site, (_, of_seed) in shares if site in held["survivors"])
        keys = tuple(Struct("Share", site, of_key) for site, (of_key, _) in shares if site not in held["survivors"])
        return self._sign("UnmaskShares", h3, seeds, keys), {"h3": h3}, h3

    def _check(self, record: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §11.4.6
        attempt = self.attempt
        need(attempt.check_record(record) == self._holds["h3"], FaultyServer, "another h3 than this site signed")
        y, signed_digest = self.masked_words, by_site(record.vectors)[self.name].words
        kept = y is not None and digest("MASKED_WORDS", attempt.h0, from_words(y)) == signed_digest
        need(kept, Refused, "the site no longer has its masked words")
        transcript = transcript_of(record)
        values = from_words(attempt.project(attempt.payload.numbers_of_vector(y or []), transcript))
        self.trace.update(record=transcript)
        return self._sign("Projections", transcript, values), {"record": transcript}, transcript


class BlindSite(Site):
    """A site of a `ckks` session: what its masked session does, and beside it blind boxes (spec §13).

    random: called for z, B's secret, s, k, b, the coefficients of k and of b, and r, in this order.
    """

    requests = BLIND_REQUESTS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert isinstance(self.attempt.payload, Ciphertexts)
        self.payload = self.attempt.payload
        self._blind: dict[str, Any] = {"seed": self.random(32), "secret": self.random(32)}

    def answer(self, request: bytes, words: Words | None = None) -> tuple[bytes, Words | None]:
        before = self._blind
        try:
            return super().answer(request, words)
        except ProtocolError:
            self._blind = before
            raise

    def _advertise(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §13.2
        advert, holds, evidence = super()._advertise(request)
        commitment = self.payload.commitment(self.name, self._blind["seed"])
        blind = self._sign("BlindAdvert", advert, raw_public(self._blind["secret"]), commitment)
        self.trace.update(blind_unsigned=unsigned(blind))
        return blind, holds, evidence

    def _share(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §13.5, trip 1
        adverts = by_site(request.adverts)
        check_blind_adverts(self.attempt, request.adverts)
        shares, holds, evidence = super()._share(Struct("KeyRoster", tuple(each.advert for each in request.adverts)))
        roster, boxes = self.payload.blind_roster(request.adverts), []
        self.trace.update(blind_roster=roster, blind_boxes={})
        for site, advert in adverts.items():
            if site != self.name:
                key, aad = self._box(self.name, site, advert.blind_key, roster)
                boxes.append(Struct("BlindBox", site, seal(key, self._blind["seed"], aad)))
                self.trace["blind_boxes"][site] = {"key": key, "aad": aad}
        self._blind = {**self._blind, "adverts": adverts, "roster": roster}
        return Struct("BlindShares", shares, tuple(boxes)), holds, evidence

    def _box(self, sender: str, receiver: str, public: bytes, roster: bytes) -> tuple[bytes, bytes]:
        key = self.payload.box_key(agree(self._blind["secret"], public), sender, receiver)
        return key, self.payload.box_aad(roster, sender, receiver)

    def _mask(self, request: Struct) -> tuple[Struct, dict[str, Any], bytes]:  # spec §13.5, trip 2
        seeds, boxes = {self.name: self._blind["seed"]}, by_site(request.boxes)
        others = set(by_site(request.bundle.statements)) - {self.name}
        need(set(boxes) == others, FaultyServer, "blind boxes of other sites than U2")
        for site, box in boxes.items():
            need(site in self._blind["adverts"], FaultyServer, "U2 is not within U1")
            advert = self._blind["adverts"][site]
            key, aad = self._box(site, self.name, advert.blind_key, self._blind["roster"])
            try:
                seeds[site] = unseal(key, box.ciphertext, aad)
            except Malformed:
                raise FaultyPeerOrServer("a blind box that does not open", site) from None
            fits = self.payload.commitment(site, seeds[site]) == advert.commitment
            need(fits, FaultySite, "a blind seed that does not fit its commitment", site)
        made = super()._mask(request.bundle)
        self.opening = encode(Struct("Opening", tuple(Struct("Blind", *each) for each in sorted(seeds.items()))))
        self.trace.update(opening=self.opening)
        return made

    def _words(self, update: Update) -> Words:  # spec §13.4
        payload, ring = self.payload, self.payload.ring
        seed = hedged_seed(self.random(32), self.attempt.h0, self.attempt.place[self.name], update)
        levels, clipped, peak = payload.quantizer.quantize(update.values, dither_of(seed))
        key = centred_binomial("CKKS_KEY", seed, ring.degree)
        plain = in_fields(ring, [*(update.weight * level for level in levels), *CHECKS])
        values = {q: transform_of(ring.degree, q).values([x % q for x in key]) for q in ring.primes}
        errors = [centred_binomial("CKKS_ERROR", seed, count, block) for block, count in enumerate(ring.blocks)]
        self._residues = [
            c
            for block, number, _ in rows_of(ring)
            for c in encrypted(
                ring, self.attempt.h0, block, number, values[ring.primes[number]], errors[block], plain[block]
            )
        ]
        keys = pack([x + 64 for x in key], ring.key_bits, 1)
        words = [*keys, *[0] * ZEROS, *tally_words(update, clipped, peak)]
        self.trace.update(hedged_seed=seed, pad_seed=payload.pad_seed(self._blind["seed"], self.name))
        return add(words, mask(self.trace["pad_seed"], payload.masked))

    def _tail(self, h2: bytes) -> Words:
        ring = self.payload.ring
        seed = self.attempt.self_seed(self._holds["seed"], self.name, h2, "VECTOR_TAIL")
        masks = self_masks(seed, ring)
        masked = [(x + m) % q for x, m, q in zip(self._residues, masks, moduli(ring), strict=True)]
        self.trace.update(tail_seed=seed)
        return framed(masked, 3)


def check_blind_adverts(attempt: Attempt, adverts: Sequence[Struct]) -> None:
    """Spec §13.5, trip 1."""
    for blind in adverts:
        attempt.signed(blind)
        others = blind.advert.share_key, blind.advert.mask_key
        need(blind.advert.site == blind.site, FaultySite, "another site's advert", blind.site)
        own = acceptable(blind.blind_key) and blind.blind_key not in others
        need(own, FaultySite, "an unacceptable blind key", blind.site)
    keys = [key for blind in adverts for key in (blind.blind_key, blind.advert.share_key, blind.advert.mask_key)]
    need(len(set(keys)) == len(keys), FaultyServer, "one key in two adverts")


# ---------------------------------------------------------------- the server, spec §11.6

PHASES = "advertise", "share", "mask", "consent", "unmask", "check"
REPLIES = "KeyAdvert", "SealedShares", "MaskedVector", "SurvivorSignature", "UnmaskShares", "Projections"
Reply = tuple[str, bytes, Words | None]
Trip = tuple[str, dict[str, bytes], list[Reply]]


class Server:
    """A server in one attempt: `requests`, then `receive` what came back, until `aggregate` is there."""

    def __init__(self, attempt: Attempt, key: Ed25519PrivateKey, cohort: Sequence[str]) -> None:
        self.attempt, self.cohort, self._key = attempt, list(cohort), key
        self.phase: str | None = PHASES[0]
        self.counted: dict[str, dict[str, Struct]] = {}  # phase -> site -> reply
        self.vectors: dict[str, Words] = {}
        self.faults: dict[str, ProtocolError] = {}
        self.aggregate: tuple[bytes, Words] | None = None
        self._h1 = self._h2 = self._h3 = b""
        self._record: Struct | None = None
        self._sum: Words = []

    def asked(self) -> list[str]:
        at = PHASES.index(self.phase or "")
        return sorted(self.counted[PHASES[at - 1]]) if at else self.cohort

    def requests(self) -> dict[str, bytes]:
        one = self._request() if self.phase != "mask" else None
        return {site: encode(one or self._bundle(site)) for site in self.asked()}

    def _members(self, phase: str) -> tuple[Struct, ...]:
        return tuple(self.counted[phase][site] for site in sorted(self.counted[phase]))

    def _statements(self) -> tuple[Struct, ...]:
        return tuple(reply.statement for reply in self._members("share"))

    def _request(self) -> Struct:
        if self.phase == "advertise":
            return sign(self._key, "RoundOpen", self.attempt.header, tuple(self.cohort), h0=self.attempt.h0)
        if self.phase == "check":
            assert self._record is not None
            return self._record
        at = PHASES.index(self.phase or "")
        return Struct(REQUESTS[at], self._members(PHASES[at - 1]))

    def _bundle(self, site: str) -> Struct:
        sealed = {giver: by_site(reply.boxes) for giver, reply in sorted(self.counted["share"].items())}
        boxes = tuple(Struct("Box", giver, box[site].ciphertext) for giver, box in sealed.items() if giver != site)
        return Struct("ShareBundle", self._statements(), boxes)

    def receive(self, replies: Iterable[Reply]) -> None:
        """Counts the replies that keep the rules and closes the phase."""
        phase, asked = self.phase or "", self.asked()
        counted = self.counted[phase] = {}
        for site, encoded, words in replies:
            if site not in asked or site in counted:
                continue
            try:
                counted[site] = self._checked(phase, site, encoded, words)
            except ProtocolError as error:
                self.faults[site] = error
        manifest = self.attempt.manifest
        least = {"consent": manifest.threshold, "unmask": manifest.threshold, "check": 0}
        need(len(counted) >= least.get(phase, manifest.least_survivors), TooFewSites, phase)
        getattr(self, f"_end_{phase}")()
        self.phase = (*PHASES, None)[PHASES.index(phase) + 1]

    def _checked(self, phase: str, site: str, encoded: bytes, words: Words | None) -> Struct:
        attempt = self.attempt
        need((words is not None) == (phase == "mask"), Malformed, "words beside a reply, or none")
        reply = decode(REPLIES[PHASES.index(phase)], encoded)
        signed_part = reply.statement if phase == "share" else reply
        need(signed_part.site == site, FaultySite, "another site's name", site)
        attempt.signed(signed_part)
        if phase == "advertise":
            attempt.check_adverts([*self._members("advertise"), reply])
        elif phase == "share":
            need(reply.statement.key_roster == self._h1, FaultySite, "another h1", site)
            others = set(self.counted["advertise"]) - {site}
            need(set(by_site(reply.boxes)) == others, FaultySite, "boxes for other sites", site)
            named = digest("BOXES", cbor(list(reply.boxes))) == reply.statement.boxes
            need(named, FaultySite, "boxes that it did not sign", site)
        elif phase == "mask":
            assert words is not None
            need(reply.share_set == self._h2, FaultySite, "another h2", site)
            need(len(words) == attempt.payload.vector_words, FaultySite, "another number of words", site)
            named = digest("MASKED_WORDS", attempt.h0, from_words(words)) == reply.words
            need(named, FaultySite, "words that it did not sign", site)
            attempt.payload.numbers_of_vector(words)
            self.vectors[site] = words
        elif phase == "check":
            assert self._record is not None
            need(reply.record == transcript_of(self._record), FaultySite, "another record", site)
        else:
            need(reply.survivor_set == self._h3, FaultySite, "another h3", site)
            if phase == "unmask":
                named = list(by_site(reply.seeds)) == self._survivors()
                named = named and list(by_site(reply.keys)) == self._dropouts()
                need(named, FaultySite, "shares of other secrets", site)
        return reply

    def _survivors(self) -> list[str]:
        return sorted(self.counted["mask"])

    def _dropouts(self) -> list[str]:
        return sorted(set(self.counted["share"]) - set(self.counted["mask"]))

    def _end_advertise(self) -> None:
        self._h1 = self.attempt.set_digest("KEY_ROSTER", self._members("advertise"))

    def _end_share(self) -> None:
        self._h2 = self.attempt.set_digest("SHARE_SET", self._statements())

    def _end_mask(self) -> None:
        self._h3 = self.attempt.set_digest("SURVIVOR_SET", self._members("mask"))

    def _end_consent(self) -> None:
        pass

    def _end_unmask(self) -> None:
        """Rebuilds the secrets, without up to two givers if need be, and takes the masks away (spec §11.6.5)."""
        attempt, givers = self.attempt, set(self.counted["unmask"])
        spare = min(2, len(givers) - attempt.manifest.threshold)
        tries = [
            (each, *self._rebuild(givers - set(each))) for k in range(spare + 1) for each in combinations(givers, k)
        ]
        dealer = tries[0][2]
        left_out, rebuilt, _ = next((a_try for a_try in tries if not a_try[2]), ((), {}, ""))
        need(bool(rebuilt), FaultySite, "no shares that fit", dealer)
        self.faults.update({liar: FaultySite("a false share", liar) for liar in left_out})
        seeds, keys = (
            tuple(Struct("Revealed", site, rebuilt[site]) for site in sites)
            for sites in (self._survivors(), self._dropouts())
        )
        lists = self._members("advertise"), self._statements(), self._members("mask"), self._members("consent")
        draft = Struct("RoundRecord", attempt.header, *lists, seeds, keys, bytes(32))
        payload, masks = attempt.payload, attempt.masks_of(draft)
        total = [0] * len(masks)
        for site in self._survivors():
            total = add(total, payload.numbers_of_vector(self.vectors[site]))
        self._sum = payload.sum_of(subtract(total, masks))
        self._record = Struct(*[draft.kind, *draft.values[:-1]], digest("SUM_WORDS", attempt.h0, from_words(self._sum)))

    def _rebuild(self, givers: Iterable[str]) -> tuple[dict[str, bytes], str]:
        """Every secret, and the first site whose secret does not fit, if any."""
        attempt, secrets = self.attempt, {}
        for site in (*self._survivors(), *self._dropouts()):
            advert, lives = self.counted["advertise"][site], site in self.counted["mask"]
            shares = {}
            for giver in givers:
                reply = self.counted["unmask"][giver]
                share = by_site(reply.seeds if lives else reply.keys)[site]
                shares[attempt.place[giver]] = share.share
            try:
                secret = combine(shares, attempt.manifest.threshold)
            except Malformed:
                return {}, site
            public = attempt.commitment(secret) if lives else raw_public(secret)
            if public != (advert.seed_commitment if lives else advert.mask_key):
                return {}, site
            secrets[site] = secret
        return secrets, ""

    def _end_check(self) -> None:
        """Throws out false projections and publishes (spec §11.6.6)."""
        attempt, record, given = self.attempt, self._record, self.counted["check"]
        assert record is not None
        for site, reply in list(given.items()):
            numbers = attempt.payload.numbers_of_vector(self.vectors[site])
            if from_words(attempt.project(numbers, transcript_of(record))) != reply.values[2]:
                self.faults[site] = FaultySite("false projections", site)
                del given[site]
        words = list(self._sum)
        for site in self._survivors():
            words += [] if site in given else self.vectors[site]
        self.aggregate = encode(Struct("MaskedAggregate", record, self._members("check"))), words


class BlindServer(Server):
    """A server of a `ckks` session: what its masked session does, and it hands blind boxes on (spec §13)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outer: dict[str, dict[str, Struct]] = {"advertise": {}, "share": {}}

    def requests(self) -> dict[str, bytes]:
        if self.phase == "share":
            roster = encode(Struct("BlindRoster", tuple(self._blind("advertise").values())))
            return dict.fromkeys(self.asked(), roster)
        return super().requests()

    def _blind(self, phase: str) -> dict[str, Struct]:
        return {site: self._outer[phase][site] for site in sorted(self.counted[phase])}

    def _bundle(self, site: str) -> Struct:
        sealed = {giver: by_site(reply.boxes) for giver, reply in self._blind("share").items() if giver != site}
        boxes = tuple(Struct("BlindBox", giver, box[site].ciphertext) for giver, box in sealed.items())
        return Struct("BlindBundle", super()._bundle(site), boxes)

    def _checked(self, phase: str, site: str, encoded: bytes, words: Words | None) -> Struct:
        if phase not in self._outer:
            return super()._checked(phase, site, encoded, words)
        reply = decode("BlindAdvert" if phase == "advertise" else "BlindShares", encoded)
        if phase == "advertise":
            need(reply.site == site, FaultySite, "another site's name", site)
            check_blind_adverts(self.attempt, [*self._blind("advertise").values(), reply])
        else:
            others = set(self.counted["advertise"]) - {site}
            need(set(by_site(reply.boxes)) == others, FaultySite, "blind boxes for other sites", site)
        inner = reply.advert if phase == "advertise" else reply.shares
        counted = super()._checked(phase, site, encode(inner), words)
        self._outer[phase][site] = reply
        return counted


SITES: dict[str, type[Site]] = {"masked": Site, "ckks": BlindSite}
SERVERS: dict[str, type[Server]] = {"masked": Server, "ckks": BlindServer}


def run(server: Server, sites: Mapping[str, Site], silent: Mapping[str, Sequence[str]]) -> Iterator[Trip]:
    """A whole attempt; silent: phase -> sites that answer nothing from it on."""
    gone: set[str] = set()
    while phase := server.phase:
        gone |= set(silent.get(phase, ()))
        requests = server.requests()
        replies = [(site, *sites[site].answer(request)) for site, request in requests.items() if site not in gone]
        yield phase, requests, replies
        server.receive(replies)


# ---------------------------------------------------------------- vectors, tests/vectors/README.md


class Wrong(Exception):
    """A vector and this file do not agree."""


def as_json(value: Any) -> Any:
    """Bytes in hexadecimal, large integers as texts; the rest as it is."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if value >= 1 << 53 else value
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def equal(what: str, found: Any, wanted: Any) -> None:
    if as_json(found) != wanted:
        raise Wrong(f"{what} is {str(as_json(found))[:80]}, not {str(wanted)[:80]}")


class Given(dict[str, Any]):
    """Fields of a case; remembers which were looked at."""

    def __init__(self, *parts: Mapping[str, Any]) -> None:
        super().__init__({key: value for part in parts for key, value in part.items()})
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self.keys() else default

    def raw(self, key: str) -> bytes:
        return bytes.fromhex(self[key])

    def number(self, key: str) -> int:
        return int(self[key])

    def words(self, key: str) -> Words:
        return to_words(self.raw(key))

    def opening(self, key: str = "opening") -> bytes:
        return bytes.fromhex(self.get(key, ""))

    def by_rule(self, key: str) -> list[Any]:
        """A list that stands there, or entry j of a formula."""
        rule = self.get(f"{key}_by_rule")
        if rule is None:
            return list(self[key])
        if not re.fullmatch(r"[0-9jx+\-/()^ ]+", rule.replace("mod", "")):
            raise Wrong(f"a rule that is not understood: {rule}")
        rule = re.sub(r"(?<=[0-9)]) (?=[j(])", " * ", rule).replace("mod", "%").replace("x", "*").replace("^", "**")
        formula = eval(f"lambda j: {rule}", {"__builtins__": {}})  # noqa: S307 (digits, j and arithmetic)
        return [formula(j) for j in range(self.number("size"))]

    def all_seen(self, where: str) -> None:
        if left := set(self) - self.seen:
            raise Wrong(f"{where} that nothing looked at: {sorted(left)}")


class Case:
    """One case of a file."""

    def __init__(self, shared: Mapping[str, Any], case: Mapping[str, Any]) -> None:
        self.whole = Given(case)
        self.name = self.whole["name"]
        self.inputs = Given(shared, self.whole.get("inputs", {}))
        self.outputs = Given(self.whole.get("outputs", {}))
        self.error: Mapping[str, str] | None = self.whole.get("error")
        self.whole.seen.add("source")

    def gives(self, **found: Any) -> None:
        """Compares those of the outputs that the file lists."""
        for key in found.keys() & self.outputs.keys():
            equal(key, found[key], self.outputs[key])

    def refuses(self, act: Callable[[], Any]) -> None:
        """That the act fails as the case says."""
        refuses(act, self.error or {})

    def all_seen(self, shared: Iterable[str] = ()) -> None:
        """Fails if the case has a field that nothing looked at; shared: those that another case may need."""
        self.inputs.seen |= set(shared)
        self.whole.all_seen("fields")
        self.inputs.all_seen("inputs")
        self.outputs.all_seen("outputs")


def refuses(act: Callable[[], Any], wanted: Mapping[str, str]) -> None:
    try:
        act()
    except ProtocolError as error:
        equal("the error", {"code": error.code, **({"site": error.site} if error.site else {})}, wanted)
    else:
        raise Wrong(f"accepted, where {wanted} was due")


def either(case: Case, act: Callable[[], Mapping[str, Any]]) -> None:
    """Outputs, or the error."""
    if case.error is None:
        case.gives(**act())
    else:
        case.refuses(act)


def from_json(of: Type, value: Any) -> Any:
    if of.what == "int":
        return int(value)
    if of.what == "bytes":
        return bytes.fromhex(value)
    if of.what == "list":
        return tuple(from_json(of.item, item) for item in value)  # type: ignore[arg-type]
    if of.what in FIELDS:
        return Struct(of.what, *(from_json(row, value[name]) for name, row in FIELDS[of.what].items()))
    return value


def check_encode(case: Case) -> None:
    given = case.inputs
    if "struct" not in given:
        zeros = [bytes(count) for count in given.get("zero_bytes", [])]
        texts = [int(item) if str(item).isdigit() else item for item in given.get("items", [])]
        case.gives(encoding=cbor(zeros or texts))
        return
    kind = given["struct"]
    equal("fields", list(FIELDS[kind]), list(given["fields"]))
    equal("the tag", TAGS[kind], given["tag"])
    value = from_json(Type(kind), given["fields"])
    case.gives(encoding=encode(value), plain=cbor(value), unsigned=unsigned(value))
    if TAGS[kind] and decode(kind, case.outputs.raw("encoding")) != value:
        raise Wrong("decoded to another value")
    if "plain" in case.outputs and Reader(case.outputs.raw("plain")).struct(kind) != value:
        raise Wrong("decoded to another value inside another struct")


def check_decode(case: Case) -> None:
    if "correct" in case.inputs:
        decode(case.inputs["struct"], case.inputs.raw("correct"))
    case.refuses(lambda: decode(case.inputs["struct"], case.inputs.raw("encoding")))


DIGESTS = {
    "session id": "MANIFEST", "h0": "HEADER", "h1, key roster": "KEY_ROSTER", "h2, share set": "SHARE_SET",
    "h3, survivor set": "SURVIVOR_SET",
}  # fmt: skip


def check_domain(case: Case) -> None:
    what, _, name = case.name.partition(" ")
    given = case.inputs
    if what == "label":
        equal("the purpose", PURPOSES[name], given["purpose"])
        case.gives(label=LABELS[name])
    elif what == "digest":
        label = DIGESTS.get(name, name.upper().replace(" ", "_"))
        case.gives(digest=digest(label, *map(bytes.fromhex, given["over"])))
    else:
        key = Ed25519PrivateKey.from_private_bytes(given.raw("seed"))
        equal("the label", SIGNED[name], given["label"])
        message = LABELS[given["label"]] + given.raw("h0") + given.raw("unsigned")
        case.gives(public_key=key.public_key().public_bytes_raw(), signature=key.sign(message))


def check_derivation(case: Case) -> None:
    given = case.inputs
    if "their_secret" in given:
        ours, theirs = given.raw("secret"), given.raw("their_secret")
        shared = agree(ours, raw_public(theirs))
        equal("the other's", agree(theirs, raw_public(ours)), shared.hex())
        return case.gives(public=raw_public(ours), their_public=raw_public(theirs), shared=shared)
    if "secret" in given:
        equal("ikm", agree(given.raw("secret"), given.raw("public")), given["ikm"])
    info = LABELS[given["label"]] + given.raw("after_label")
    return case.gives(okm=hkdf(given.raw("ikm"), given.raw("salt"), info, given["length"]))


def check_stream(case: Case) -> None:
    given = case.inputs
    found = stream(given.raw("seed"), given["length"], given.get("skip", 0))
    case.gives(stream=found, words=[str(word) for word in to_words(found)])


def check_initial(case: Case) -> None:
    tensors = case.inputs["tensors"]
    values, layout = initial_adapter(tensors, case.inputs.raw("nonce")), layout_digest(tensors)
    case.gives(layout=layout, values=to_binary32(values), adapter=adapter_digest(layout, values))


def bytes_in_order(data: bytes) -> Random:
    """The bytes that a case gives, handed out from the front."""
    left = iter(data)
    return lambda count: bytes(next(left) for _ in range(count))


def check_sharing(case: Case) -> None:
    given, threshold = case.inputs, case.inputs["threshold"]
    if "shares" in given:
        shares = {int(point): bytes.fromhex(share) for point, share in given["shares"].items()}
        return either(case, lambda: {"secret": combine(shares, threshold)})
    drawn = draw_coefficients(threshold, bytes_in_order(given.raw("random")))
    found = {point: share_at(given.raw("secret"), drawn, point) for point in given["points"]}
    shown = {point: share for point, share in found.items() if str(point) in case.outputs["shares"]}
    return case.gives(coefficients=[a.to_bytes(33, "big") for a in drawn], shares=shown)


def quantizer_of(given: Given) -> Quantizer:
    names = "bits", "lane_bits", "weight_cap", "rotate", "clip_norm_q20"
    params = Struct("QuantizerParams", *(given[name] for name in names))
    manifest = SimpleNamespace(quantizer=params, size=given["size"], sites=range(given["sites"]))
    return Quantizer(manifest, given.number("range_q40"), given.raw("rotation_seed"))


def check_rounding(case: Case) -> None:
    given = case.inputs
    quantizer = quantizer_of(given)
    values = given.by_rule("values") if "values_by_rule" in given else from_binary32(given.raw("values"))
    levels, clipped, peak = quantizer.quantize(values, given.raw("dither_seed"))
    words = from_words(pack(levels, quantizer.params.lane_bits, given["weight"]))
    sums = (hashlib.sha256(data).digest() for data in (struct.pack(f"<{len(levels)}I", *levels), words))
    case.gives(levels=levels, words=words, clipped=clipped)
    case.gives(**dict(zip(("levels_sha256", "words_sha256"), sums, strict=True)))
    check_peak(peak, int(case.outputs["peak_q40"]), case.outputs["exact"])


def check_peak(found: int, wanted: int, exact: bool) -> None:
    if abs(found - wanted) > (0 if exact else wanted >> 20):
        raise Wrong(f"the peak is {found}, not {wanted}")


def check_opening(case: Case) -> None:
    def act() -> dict[str, Any]:
        mean, largest, sums = quantizer_of(case.inputs).open(case.inputs.words("words"), case.inputs["total_weight"])
        return {"mean": to_binary32(mean), "largest": largest, "sums": sums}

    either(case, act)


def check_lanes(case: Case) -> None:
    given = case.inputs
    words = pack(given.by_rule("values"), given["lane_bits"], given["weight"])
    data = from_words(words)
    case.gives(words=data, count=len(words), words_sha256=hashlib.sha256(data).digest())
    case.gives(words_at_both_ends=data[:16] + data[-16:])
    most = given["weight"] * max(given.by_rule("values"))
    sums = unpack(words, len(given.by_rule("values")), given["lane_bits"], most)
    equal("the lanes", sums, [given["weight"] * value for value in given.by_rule("values")])


def check_projection(case: Case) -> None:
    given = case.inputs
    words = [word & WORD for word in given.by_rule("words")] if "words_by_rule" in given else given.words("words")
    case.gives(values=from_words(project(words, given.raw("seed"))))


def check_tallies(case: Case) -> None:
    given = case.inputs
    if case.name.startswith("words"):
        return case.gives(words=from_words(tally_words(update_of(given), given["clipped"], given.number("peak_q40"))))
    if case.name.startswith("range"):
        tally = {name: given.number(name) for name in ("sites", "weight", "clipped", "peak")}
        numbers = given.number("largest"), given["size"], given["levels"]
        return case.gives(next_range_q40=next_range(given.number("range_q40"), tally, *numbers))

    def act() -> dict[str, Any]:
        tally = check_tally(given.words("words"), given["survivors"], given["weight_cap"], given["size"])
        return {"totals": totals_of(tally, given["size"])}

    return either(case, act)


def check_log(case: Case) -> None:
    given = case.inputs
    manifest, header = decode("Manifest", given.raw("manifest")), decode("RoundHeader", given.raw("header"))
    last = [decode("Answer", given.raw("last"))] if given["last"] else []
    ledger = Ledger(session_id(manifest), last)

    def act() -> dict[str, Any]:
        if "position" in given:
            ledger.admit(manifest, decode("Position", given.raw("position")), header)
            return {"admitted": True}
        stage = [state.lower() for state in STATES].index(given["stage"])
        return {"line": encode(ledger.answer(header, stage, given.raw("evidence")))}

    given.seen |= {"stage", "evidence"} & set(given)
    either(case, act)
    equal("lines of the log", len(ledger.lines), len(last) + (case.error is None and "position" not in given))


def check_consent(case: Case) -> None:
    given, loaded = case.inputs, Given(case.inputs["loaded"])
    base_model, tokenizer, lora_config = (loaded.raw(name) for name in ("base_model", "tokenizer", "lora_config"))
    initial = from_binary32(loaded.raw("initial_adapter"))
    model = Loaded(loaded["tensors"], base_model, tokenizer, lora_config, initial)
    rules = dict(given["policy"])
    if rules.get("base_models") is not None:
        rules["base_models"] = [bytes.fromhex(name) for name in rules["base_models"]]
    roster = decode("Roster", given.raw("roster"))
    parts = given["site"], key_of(given["identity_seed"]), roster, model, Policy(**rules), given["now"]
    either(case, lambda: {"reply": encode(consent(*parts, given.raw("manifest")))})


def key_of(seed: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))


def update_of(given: Mapping[str, Any]) -> Update:
    values = from_binary32(bytes.fromhex(given["values"])) if "values" in given else []
    names = "weight", "examples", "train_loss", "eval_tokens", "eval_loss"
    return Update(values, *(given[name] for name in names))


def attempt_of(given: Given) -> Attempt:
    parts = zip(("Manifest", "Roster", "RoundHeader"), ("manifest", "roster", "header"), strict=True)
    return Attempt(*(decode(kind, given.raw(name)) for kind, name in parts))


ANY_WEIGHT = Policy(least_colluders=0, largest_weight=1 << 28)  # as the README says
DRAWN = (
    "blind_seed", "blind_secret", "share_secret", "mask_secret", "seed", "mask_secret_coefficients",
    "seed_coefficients", "dither_seed", "hedge",
)  # fmt: skip


def site_of(attempt: Attempt, name: str, given: Mapping[str, Any], signed_words: bytes = b"") -> Site:
    random, parts = given["random"], Given(given["random"])
    drawn = bytes_in_order(b"".join(parts.raw(name) for name in DRAWN if name in random))
    parts.all_seen("random bytes")
    keys = key_of(given["identity_seed"]), update_of(given["update"])
    return SITES[attempt.manifest.scheme](attempt, name, *keys, drawn, ANY_WEIGHT, signed_words=signed_words)


def signed_words(packets: Iterable[Any], name: str) -> bytes:
    """The digest of a site's masked words, if one of these is or lists its vector message."""
    for each in packets:
        data = packet(each)[0]
        kind = KINDS.get(data[1], "") if data else ""
        if kind in ("MaskedVector", "SurvivorSet", "MaskedAggregate"):
            message = decode(kind, data)
            listed = message if kind != "MaskedAggregate" else message.record
            vectors = [message] if kind == "MaskedVector" else listed.vectors
            if name in by_site(vectors):
                return bytes(by_site(vectors)[name].words)
    return b""


def packet(given: Mapping[str, str] | str) -> tuple[bytes, Words | None]:
    parts = {"head": given} if isinstance(given, str) else given
    return bytes.fromhex(parts["head"]), to_words(bytes.fromhex(parts["words"])) if "words" in parts else None


def shown(head: bytes, words: Words | None) -> dict[str, str]:
    return {"head": head.hex(), **({"words": from_words(words).hex()} if words is not None else {})}


def site_in(case: Case) -> Site:
    """The site of a case, behind its history."""
    given, exact = case.inputs, case.outputs.get("exact", False)
    packets = list(given["history"])
    packets += [case.outputs["reply"], given["message"]] if "reply" in case.outputs else []
    packets += given["right"].values() if "right" in given else []
    site = site_of(attempt_of(given), given["site"], given, b"" if exact else signed_words(packets, given["site"]))
    for request in given["history"]:
        site.answer(*packet(request))
    return site


TRACED = (
    "unsigned", "h1", "h2", "h3", "boxes", "added", "subtracted", "blind_unsigned", "blind_roster", "blind_boxes",
    "opening", "hedged_seed", "tail_seed", "pad_seed",
)  # fmt: skip


def check_site_answers(case: Case) -> None:
    site = site_in(case)
    equal("the phase", PHASES[STATES.index(site.state)], case.whole["phase"])
    reply = site.answer(*packet(case.inputs["message"]))
    attempt, trace, holds = site.attempt, site.trace, site._holds
    case.gives(reply=shown(*reply), state=site.state, h0=attempt.h0, session_id=session_id(attempt.manifest))
    case.gives(**{name: trace[name] for name in TRACED if name in trace})
    if site.state == "Shared":
        drawn = ([a.to_bytes(33, "big") for a in each] for each in trace["drawn"])
        case.gives(**dict(zip(("mask_secret_coefficients", "seed_coefficients"), drawn, strict=True)))
        case.gives(own_key_share=holds["own_key_share"], own_seed_share=holds["own_seed_share"])
    if site.state == "Masked":
        case.gives(rotation_seed=attempt.quantizer.rotation_seed)
        case.gives(words=from_words(trace["words"]))
    if site.state == "Checked":
        seed = attempt.challenge_seed(trace["record"])
        sent, values = from_words(site.masked_words or []), decode("Projections", reply[0]).values[2]
        case.gives(transcript=trace["record"], challenge_seed=seed, masked_words=sent, values=values)


def check_site_refuses(case: Case) -> None:
    site = site_in(case)
    equal("the state", site.state, case.whole["state"])
    lines = list(site.ledger.lines)
    case.refuses(lambda: site.answer(*packet(case.inputs["message"])))
    equal("the state after", (site.state, len(site.ledger.lines)), [case.whole["state"], len(lines)])
    if right := case.inputs.get("right"):
        equal("the right reply", shown(*site.answer(*packet(right["message"]))), right["reply"])


def check_site_in_order(case: Case) -> None:
    given = case.inputs
    site, messages = site_of(attempt_of(given), given["site"], given), given["messages"]
    for step in given["steps"]:
        equal("the state", site.state, step["state"])
        for wrong in step["wrong"]:
            message = bytes.fromhex(messages[wrong["message"]])
            refuses(lambda: site.answer(message), {"code": wrong["code"]})  # noqa: B023
        right = bytes.fromhex(messages[step.get("right", 0)])
        refuses(lambda: site.answer(right, [1]), {"code": step["words_beside"]})  # noqa: B023
        if "right" in step:
            equal("the reply", site.answer(right)[0], step["reply"])


def server_of(attempt: Attempt, given: Given) -> Server:
    return SERVERS[attempt.manifest.scheme](attempt, key_of(given["server_seed"]), given["cohort"])


def check_server_refuses(case: Case) -> None:
    given = case.inputs
    server = server_of(attempt_of(given), given)
    for trip in given["earlier"]:
        equal("the phase", server.phase, trip["phase"])
        server.receive([(reply["site"], *packet(reply)) for reply in trip["replies"]])
    phase, bad = server.phase, given["reply"]
    equal("the phase", phase, case.whole["phase"])
    equal("faults before", sorted(server.faults), [])
    server.receive([(reply["site"], *packet(reply)) for reply in (bad, *given["others"])])
    equal("those at fault", sorted(server.faults), [bad["site"]])
    assert case.error is not None
    equal("the site blamed", case.error.get("site", bad["site"]), bad["site"])
    if case.error["code"] != server.faults[bad["site"]].code:
        NOTES.append(f"{case.name}: {server.faults[bad['site']].code} here, {case.error['code']} there")
    if phase == "unmask" and bad["site"] in server.counted["unmask"]:  # well signed, but its shares are not used
        return
    equal("counted", bad["site"] in server.counted[phase or ""], False)
    if server.aggregate:
        opened = open_aggregate(server.attempt, *server.aggregate, given.opening())
        if bad["site"] not in opened.survivors:
            raise Wrong("the site's words are missing")


NOTES: list[str] = []  # where a server's own choice of a code differs


def check_attempt(case: Case) -> None:
    given, attempt = case.inputs, attempt_of(case.inputs)
    trips = case.outputs.get("trips", [])
    packets = [reply for trip in trips for reply in trip["replies"]]
    packets += [case.outputs["aggregate"]] if "aggregate" in case.outputs else []
    exact = case.outputs.get("exact", False)
    sites = {
        name: site_of(attempt, name, each, b"" if exact else signed_words(packets, name))
        for name, each in given["sites"].items()
    }
    server, ran = server_of(attempt, given), list[Trip]()

    def act() -> None:
        for phase, requests, replies in run(server, sites, given["silent"]):
            ran.append((phase, requests, replies))

    if case.error is None:
        act()
    else:
        wanted = dict(case.error)
        phase = wanted.pop("phase")
        refuses(act, wanted)
        equal("the phase", server.phase, phase)
    for (phase, requests, replies), trip in zip(ran, trips, strict=True) if trips else ():
        equal("the phase", phase, trip["phase"])
        sent = {site: request["head"] for request in trip["requests"] for site in request["to"]}
        equal(f"requests of {phase}", requests, sent)
        found = [{"site": site, **shown(head, beside)} for site, head, beside in replies]
        equal(f"replies of {phase}", found, trip["replies"])
    case.gives(words={name: from_words(site.trace["words"]) for name, site in sites.items() if "words" in site.trace})
    if server.aggregate:
        for name in server.vectors:
            case.gives(opening=sites[name].opening)
        check_opened(case, audit(attempt, *server.aggregate, server.vectors, sites[name].opening))
        case.gives(aggregate=shown(*server.aggregate))


def check_opened(case: Case, opened: Opened) -> None:
    case.gives(survivors=opened.survivors, mean=to_binary32(opened.mean), totals=opened.totals)
    case.gives(transcript=opened.transcript, next_range_q40=opened.next_range_q40)


def check_aggregate(case: Case) -> None:
    given, attempt = case.inputs, attempt_of(case.inputs)

    def act() -> Opened:
        return open_aggregate(attempt, given.raw("head"), words, given.opening())

    words = given.words("words") if "words" in given else given.words("right_words")
    for index, amount in given.get("added", ()):
        words[index] = words[index] + int(amount) & WORD
    if case.error is None:
        return check_opened(case, act())
    open_aggregate(attempt, given.raw("right_head"), given.words("right_words"), given.opening("right_opening"))
    given.seen |= {"words"}
    return case.refuses(act)


def check_chain(case: Case) -> None:
    given = case.inputs
    chain: Chain | None = None
    for turn in given["rounds"]:
        inner = Case({}, {**turn, "name": case.name})
        attempt = attempt_of(inner.inputs)
        if chain is None:
            first = initial_adapter(given["tensors"], attempt.manifest.nonce)
            equal("the layout", layout_digest(given["tensors"]), attempt.manifest.layout.hex())
            equal("the adapter", to_binary32(first), given["adapter"])
            chain = Chain(attempt.manifest, attempt.roster, first, start(attempt.manifest))
            equal("the start", encode(chain.position), given["start"])
        equal("the header", encode(chain.attempt(inner.whole["attempt"]).header), inner.inputs["header"])
        equal("the round", chain.position.round + 1, inner.whole["round"])
        check_attempt(inner)
        published = packet(inner.outputs["aggregate"])
        check_opened(inner, chain.advance(inner.whole["attempt"], published[0], published[1] or []))
        inner.gives(adapter=to_binary32(chain.adapter), position=encode(chain.position))
        inner.all_seen()
    assert chain is not None
    case.gives(adapter=to_binary32(chain.adapter), position=encode(chain.position))


def check_ctr(case: Case) -> None:
    given = case.inputs
    plaintext = given.raw("plaintext")
    keystream = stream(given.raw("key") + given.raw("counter"), len(plaintext))
    case.gives(ciphertext=bytes(a ^ b for a, b in zip(plaintext, keystream, strict=True)))


def check_aead(case: Case) -> None:
    given = case.inputs
    key, nonce, aad = given.raw("key"), given.raw("nonce"), given.raw("aad")
    if case.error is not None:
        return case.refuses(lambda: unseal(key, given.raw("sealed"), aad, nonce))
    plaintext = given.raw("plaintext")
    sealed = seal(key, plaintext, aad) if not any(nonce) else ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)
    equal("opened", unseal(key, sealed, aad, nonce), plaintext.hex())
    at_front, behind = (len(case.outputs.get(name, "")) // 2 for name in ("sealed_begins", "sealed_from_64"))
    return case.gives(sealed=sealed, sealed_begins=sealed[:at_front], sealed_from_64=sealed[64 : 64 + behind])


def check_ed25519(case: Case) -> None:
    given = case.inputs
    if "seed" not in given:
        return case.gives(valid=verifies(given.raw("public"), given.raw("signature"), given.raw("message")))
    key, message = key_of(given["seed"]), given.raw("message")
    public, signature = key.public_key().public_bytes_raw(), key.sign(message)
    equal("verified", verifies(public, signature, message), True)
    return case.gives(public=public, signature=signature)


def check_hkdf(case: Case) -> None:
    given = case.inputs
    case.gives(okm=hkdf(given.raw("ikm"), given.raw("salt"), given.raw("info"), given["length"]))


def check_x25519(case: Case) -> None:
    given, public = case.inputs, case.inputs.raw("public")
    if "secret" in given:
        secret, coordinate = given.raw("secret"), public
        for _ in range(given.get("times", 1)):
            secret, coordinate = agree(secret, coordinate), secret
        return case.gives(shared=secret)
    return either(case, lambda: need(acceptable(public), Malformed, "no key") or {"accepted": True})  # type: ignore[func-returns-value]


def ring_in(given: Given) -> Ring:
    return ring_of(given["sites"], given["weight_cap"], given["bits"], given["size"])


def shown_small(values: Sequence[int], width: int = 1) -> dict[str, Any]:
    """The first 16, and the digest of all in two's complement."""
    data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    return {"first": list(values[:16]), "sha256": hashlib.sha256(data).digest()}


def shown_residues(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The first 4 of every prime, and the digest of all."""
    data = b"".join(struct.pack(f"<{len(row)}I", *row) for row in rows)
    return {"first": [list(row[:4]) for row in rows], "sha256": hashlib.sha256(data).digest()}


def check_ring(case: Case) -> None:
    either(case, lambda: ring_in(case.inputs).described())


def check_roots(case: Case) -> None:
    degree = case.inputs["N"]
    primes = primes_of(degree, case.inputs["count"])
    equal("the most primes", len(primes), MOST_PRIMES[degree])
    case.gives(primes=primes, roots=[least_root(degree, q) for q in primes])


def check_sampling(case: Case) -> None:
    given, what = case.inputs, case.inputs["what"]
    if what == "hedged seed":
        update = Update(from_binary32(given.raw("values")), given["weight"], 1, 0, 0, 0)
        seed = hedged_seed(given.raw("drawn"), given.raw("h0"), given["place"], update)
        of_update = digest("CKKS_UPDATE", given["weight"].to_bytes(8, "big"), given.raw("values"))
        return case.gives(update=of_update, seed=seed, dither_seed=dither_of(seed))
    if what in ("key", "errors"):
        label, block = ("CKKS_KEY", None) if what == "key" else ("CKKS_ERROR", given["block"])
        return case.gives(**shown_small(centred_binomial(label, given.raw("seed"), given["count"], block)))
    ring, block = ring_in(given), given["block"]
    if what == "self-mask":
        count, seed = ring.blocks[block], given.raw("tail_seed")
        return case.gives(
            **shown_residues([self_mask(seed, ring, block, l, count) for l in range(len(ring.primes))])  # noqa: E741
        )
    equal("what is sampled", what, "public element")
    h0, degree = given.raw("h0"), ring.degree
    return case.gives(
        **shown_residues([public_element(h0, block, l, degree, q) for l, q in enumerate(ring.primes)])  # noqa: E741
    )


def check_encryption(case: Case) -> None:
    given, ring = case.inputs, ring_in(case.inputs)
    block, seed = given["block"], given.raw("seed")
    levels = [given["weight"] * level for level in given.by_rule("levels")]
    plain = in_fields(ring, [*levels, *CHECKS])[block]
    key = centred_binomial("CKKS_KEY", seed, ring.degree)
    errors = centred_binomial("CKKS_ERROR", seed, len(plain), block)
    rows = []
    for number, q in enumerate(ring.primes):
        values = transform_of(ring.degree, q).values([x % q for x in key])
        rows.append(encrypted(ring, given.raw("h0"), block, number, values, errors, plain))
    words = from_words(pack([x + 64 for x in key], ring.key_bits, 1))
    case.gives(coefficients=len(plain), plain=shown_residues([[m % q for m in plain] for q in ring.primes]))
    case.gives(ciphertext=shown_residues(rows), key_words_begin=words[:32])
    case.gives(key_words_sha256=hashlib.sha256(words).digest())


def ciphertexts_of(given: Given) -> Ciphertexts:
    payload = attempt_of(given).payload
    if not isinstance(payload, Ciphertexts):
        raise Wrong("not a session of ckks mode")
    return payload


def check_tails(case: Case) -> None:
    given, payload = case.inputs, ciphertexts_of(case.inputs)
    masked = [0] * payload.masked

    def act() -> dict[str, Any]:
        if "sum" in given:
            return {"numbers": payload.numbers_of_sum(masked + given.words("sum"))[payload.masked :]}
        read = [payload.numbers_of_vector(masked + to_words(bytes.fromhex(tail))) for tail in given["tails"]]
        total = [sum(column) for column in zip(*read, strict=True)]
        numbers = [each[payload.masked :] for each in read]
        return {"numbers": numbers, "sum": from_words(payload.sum_of(total)[payload.masked :])}

    either(case, act)


def check_keys(case: Case) -> None:
    given, ring = case.inputs, ciphertexts_of(case.inputs).ring
    seeds = [bytes.fromhex(seed) for seed in given["seeds"]]
    words = [0] * (ring.key_words + ZEROS + len(TALLY))
    for seed in seeds:
        key = pack([x + 64 for x in centred_binomial("CKKS_KEY", seed, ring.degree)], ring.key_bits, 1)
        words = add(words, key + [0] * (ZEROS + len(TALLY)))
    for index, amount in given["added"]:
        words[index] = words[index] + int(amount) & WORD
    either(case, lambda: shown_small(key_sum(ring, words, len(seeds)), 2))


def check_decoding(case: Case) -> None:
    given, payload = case.inputs, ciphertexts_of(case.inputs)
    keys = [centred_binomial("CKKS_KEY", bytes.fromhex(seed), payload.ring.degree) for seed in given["seeds"]]
    total_key = [sum(column) for column in zip(*keys, strict=True)]
    numbers = given["survivors"], given["total_weight"], payload.quantizer.levels

    def act() -> dict[str, Any]:
        return {"sums": decrypted(payload.ring, payload.attempt.h0, given["residues"], total_key, *numbers)}

    either(case, act)


# ---------------------------------------------------------------------- ckks-shared mode (spec §21.4, §21.5)

SHARED_Q = 2**60 - 2**14 + 1


def check_shared_slots(case: Case) -> None:
    given = case.inputs
    most = given["weight_cap"] * (2 ** given["bits"] - 1)
    width = (given["sites"] * most).bit_length()
    fields = 40 // width
    centre = sum(most << i * width for i in range(fields)) // 2
    values = given.by_rule("values")
    limbs = [part for word in given["tally"] for part in (int(word) % 2**32, int(word) >> 32)]
    rows = [values[at : at + fields] for at in range(0, len(values), fields)]
    free = limbs + [sum(value << i * width for i, value in enumerate(row)) - centre for row in rows]
    count = -(-len(free) // 2047)
    free += [0] * (2047 * count - len(free))
    slots = [slot for at in range(0, len(free), 2047) for slot in (1, *free[at : at + 2047])]
    whole = b"".join(slot.to_bytes(8, "little", signed=True) for slot in slots)
    case.gives(field_bits=width, fields=fields, centre=centre, ciphertexts=count, words=7680 * count)
    case.gives(slots_begin=slots[: len(case.outputs["slots_begin"])], slots_sha256=hashlib.sha256(whole).digest())


def shared_words(residues: Sequence[int]) -> list[int]:
    """Of one ciphertext after the other."""
    words = []
    for at in range(0, len(residues), 8192):
        last = residues[at + 7680 : at + 8192]
        for place, value in enumerate(residues[at : at + 7680]):
            row, column = divmod(place, 512)
            words.append(value | (last[column] >> 4 * row & 15) << 60)
    return words


def check_shared_words(case: Case) -> None:
    residues = case.inputs.by_rule("residues")
    for index, value in case.inputs["changed"]:
        residues[index] = int(value)

    def act() -> dict[str, Any]:
        if max(residues) >= SHARED_Q:
            raise Malformed("a residue that is not below q")
        words = from_words(shared_words(residues))
        total = from_words(shared_words([2 * each % SHARED_Q for each in residues]))
        begin = {"words_begin": words[: 8 * 24], "sum_begin": total[: 8 * 24]}
        digests = {"words_sha256": hashlib.sha256(words).digest(), "sum_sha256": hashlib.sha256(total).digest()}
        return {**begin, **digests}

    either(case, act)


FORMS: dict[str, Callable[[Case], None]] = {
    "encode": check_encode, "decode": check_decode, "domain separation": check_domain,
    "derivation": check_derivation, "stream": check_stream, "initial adapter": check_initial,
    "sharing": check_sharing, "rounding": check_rounding, "opening": check_opening, "lanes": check_lanes,
    "projection": check_projection, "tally": check_tallies, "log": check_log, "consent": check_consent,
    "site answers": check_site_answers, "site refuses": check_site_refuses, "site in order": check_site_in_order,
    "server refuses": check_server_refuses, "attempt": check_attempt, "aggregate": check_aggregate,
    "chain": check_chain, "aes-256-ctr": check_ctr, "aead": check_aead, "ed25519": check_ed25519,
    "hkdf": check_hkdf, "x25519": check_x25519, "ckks ring": check_ring, "ckks roots": check_roots,
    "ckks sampling": check_sampling, "ckks encryption": check_encryption, "ckks tails": check_tails,
    "ckks keys": check_keys, "ckks decoding": check_decoding,
    "shared slots": check_shared_slots, "shared words": check_shared_words,
}  # fmt: skip


def check_file(path: Path) -> Iterator[tuple[str, str]]:
    """Each case's name, and what is wrong with it, or nothing."""
    whole = json.loads(path.read_text("utf-8"))
    form, cases = FORMS.get(whole.get("form", "")), whole.get("cases", [])
    if form is None or not cases or set(whole) - {"about", "spec", "form", "inputs", "cases"}:
        yield "the file", "not of a form that this knows, or without cases"
        return
    unread = set(whole.get("inputs", {}))
    for each in cases:
        case = Case(whole.get("inputs", {}), each)
        try:
            form(case)
            unread -= case.inputs.seen - set(each.get("inputs", {}))
            case.all_seen(set(whole.get("inputs", {})) - set(each.get("inputs", {})))
            yield case.name, ""
        except (Wrong, ProtocolError, ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
            yield case.name, f"{type(error).__name__}: {error}"
    for name in sorted(unread - {key for each in cases for key in each.get("inputs", {})}):
        yield f"the shared input {name}", "nothing looked at it"


def main(arguments: Sequence[str]) -> int:
    folder = Path(arguments[0]) if arguments else Path(__file__).parent
    files, count, failed = sorted(folder.rglob("*.json")), 0, 0
    for path in files:
        print(path.relative_to(folder))
        for name, wrong in check_file(path):
            count, failed = count + 1, failed + bool(wrong)
            print(f"  {'FAILED' if wrong else 'ok'}  {name}{': ' if wrong else ''}{wrong}")
    print(f"{len(files)} files, {count} cases, {failed} failed")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
