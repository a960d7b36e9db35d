"""What every struct looks like in bytes, and the bytes that no decoder may accept (spec §4, §6, §7, §11)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keys.public import SitePublic
from secagg import chain, config, enrol, identity
from secagg.ckks import messages as blind_messages
from secagg.ckks.states import Blind, Opening
from secagg.config import Manifest
from secagg.identity import Roster
from secagg.masked import messages
from secagg.quantize import QuantizerParams
from secagg.wire import FieldRule, Items, Length, Range, Struct, encode_plain, field_rules
from tests.vectors import form
from tests.vectors.form import Json, bad, drawn, file, good
from tests.vectors.scene import Session

MODULES = (identity, config, chain, enrol, messages, blind_messages)
_WIDTHS = (0, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**64 - 1)


def structs() -> dict[str, type[Struct]]:
    """Every struct that travels, is signed or is logged, by name."""
    values = [value for module in MODULES for value in vars(module).values()]
    found = {each for each in values if isinstance(each, type) and issubclass(each, Struct)} - {Struct}
    named = {each.__name__: each for each in {*found, QuantizerParams, SitePublic, Blind, Opening}}
    return dict(sorted(named.items(), key=lambda item: (item[1].TAG, item[0])))


# ---------------------------------------------------------------------- a value of every struct


def sample(kind: type[Struct], *what: object) -> Struct:
    """A value made of its rules alone: names, drawn bytes, and the largest integers allowed."""
    if kind is Manifest:
        return Session(5).manifest
    if kind is Roster:
        return Session(3).roster
    if kind is QuantizerParams:
        return QuantizerParams(8, 16, 5, 1, 1 << 20)
    rules = field_rules(kind)
    return kind(*(_sample_field(rule, *what, kind.__name__, rule.name) for rule in rules))


def _sample_field(rule: FieldRule, *what: object) -> Any:
    if not isinstance(rule.kind, tuple):
        return _sample_one(rule.kind, rule.rule, *what)
    _, kind, inner = rule.kind
    assert isinstance(rule.rule, Items)
    if kind is int:
        return (1, 23, 24, 255, 256, 1000)
    least = max(2, rule.rule.least)
    items = [_sample_one(kind, inner, *what, index) for index in range(least)]
    key = rule.rule.by
    return tuple(sorted(items, key=lambda item: getattr(item, key) if key else item))


def _sample_one(kind: Any, rule: Any, *what: object) -> Any:
    if isinstance(kind, type) and issubclass(kind, Struct):
        return sample(kind, *what)
    if kind is bytes:
        assert isinstance(rule, Length)
        return drawn("sample", *what, count=min(rule.most, max(rule.least, 120)))
    if kind is int:
        assert isinstance(rule, Range)
        return rule.most
    suffix = drawn("sample", *what)[:2].hex()
    return f"naïve-{suffix}" if isinstance(rule, Length) else f"site-{suffix}"


# ---------------------------------------------------------------------- as JSON and back


def shown(value: Any) -> Any:
    """A field as JSON: bytes as hex, a struct as an object, a list as a list."""
    if isinstance(value, Struct):
        return {rule.name: shown(getattr(value, rule.name)) for rule in field_rules(type(value))}
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    return value.hex() if isinstance(value, bytes) else form.number(value) if isinstance(value, int) else value


def built(kind: type[Struct], fields: Json) -> Struct:
    """The struct of which `shown` made this JSON."""
    return kind(*(_built_field(rule, fields[rule.name]) for rule in field_rules(kind)))


def _built_field(rule: FieldRule, value: Any) -> Any:
    if isinstance(rule.kind, tuple):
        return tuple(_built_one(rule.kind[1], item) for item in value)
    return _built_one(rule.kind, value)


def _built_one(kind: Any, value: Any) -> Any:
    if issubclass(kind, Struct):
        return built(kind, value)
    return bytes.fromhex(value) if kind is bytes else int(value) if kind is int else value


# ---------------------------------------------------------------------- files


def encoding() -> Json:
    cases = [
        good("items: heads of every width", {"items": [form.number(each) for each in _WIDTHS]},
             {"encoding": encode_plain(list(_WIDTHS)).hex()}),
        good("items: texts and lists", {"items": ["", "a", "é", "x" * 23, "x" * 24, [], [[], [7]]]},
             {"encoding": encode_plain(["", "a", "é", "x" * 23, "x" * 24, [], [[], [7]]]).hex()}),
        good("items: empty, 23, 24 and 256 zero bytes", {"zero_bytes": [0, 23, 24, 256]},
             {"encoding": encode_plain([bytes(0), bytes(23), bytes(24), bytes(256)]).hex()}),
    ]  # fmt: skip
    for name, kind in structs().items():
        value = sample(kind)
        inputs = {"struct": name, "tag": kind.TAG, "fields": shown(value)}
        outputs = {"encoding": value.encode().hex()} if kind.TAG else {"plain": encode_plain(value.plain()).hex()}
        if any(rule.name == "signature" for rule in field_rules(kind)):
            outputs["unsigned"] = value.unsigned().hex()
        cases.append(good(name, inputs, outputs))
    about = (
        "One value of every struct. fields: in the order of the tables, bytes as hex, integers from 2^53 on as "
        "decimal texts. encoding: on its own, with its tag. plain: of a struct that has none, as it stands inside "
        "another. unsigned: what goes behind the label in a signature (section 4.5)."
    )
    return file(about, "4.2, 4.5", "encode", cases)


def _advert() -> messages.KeyAdvert:
    return messages.KeyAdvert("dale", drawn("S"), drawn("K"), drawn("H(b)"), drawn("sig", count=64))


def bad_noncanonical() -> Json:
    advert = _advert()
    good_bytes, fields = advert.encode(), advert.plain()

    def changed(at: int, value: object) -> bytes:
        return encode_plain([11, *fields[:at], value, *fields[at + 1 :]])

    name_at = 2  # behind the array's head and the tag
    yes = {
        "a byte after the message": good_bytes + b"\x00",
        "a byte too few": good_bytes[:-1],
        "nothing": b"",
        "an empty array": b"\x80",
        "the tag of another message": encode_plain([12, *fields]),
        "no tag": encode_plain(fields),
        "a field too many": encode_plain([11, *fields, 0]),
        "a field too few": encode_plain([11, *fields[:-1]]),
        "the array's head in two bytes": b"\x98\x06" + good_bytes[1:],
        "the array of indefinite length": b"\x9f" + good_bytes[1:] + b"\xff",
        "the tag in two bytes": b"\x86\x18\x0b" + good_bytes[2:],
        "the tag in nine bytes": b"\x86\x1b" + (11).to_bytes(8, "big") + good_bytes[2:],
        "a text's head in two bytes": good_bytes[:name_at] + b"\x78\x04" + good_bytes[name_at + 1 :],
        "a byte string's head in three bytes": good_bytes.replace(b"\x58\x20", b"\x59\x00\x20", 1),
        "a byte string in chunks": good_bytes.replace(
            b"\x58\x20" + advert.share_key, b"\x5f\x58\x20" + advert.share_key + b"\xff", 1
        ),
        "a name as a byte string": changed(0, b"dale"),
        "a key as a text": changed(1, "x" * 32),
        "a key as a list": changed(1, [0] * 32),
        "a key as an integer": changed(1, 7),
        "a key as null": good_bytes.replace(b"\x58\x20" + advert.share_key, b"\xf6", 1),
        "a key behind a tag of CBOR": good_bytes.replace(b"\x58\x20", b"\xc2\x58\x20", 1),
        "a key of 31 bytes": changed(1, advert.share_key[:31]),
        "a key of 33 bytes": changed(1, advert.share_key + b"\x00"),
        "a signature of 63 bytes": changed(4, advert.signature[:63]),
        "a name in capitals": changed(0, "Dale"),
        "an empty name": changed(0, ""),
        "a name with a hyphen in front": changed(0, "-dale"),
        "a name with a hyphen at the end": changed(0, "dale-"),
        "a name of 33 characters": changed(0, "d" * 33),
        "a name with a line feed": changed(0, "dale\n"),
        "a name that is not ASCII": changed(0, "dålé"),
        "a name that is not UTF-8": good_bytes.replace(b"\x64dale", b"\x64\xff\xfe\xfd\xfc", 1),
        "a length that promises 2^32 bytes": good_bytes[:name_at] + b"\x7b" + (1 << 32).to_bytes(8, "big") + b"dale",
        "a length with reserved bits": good_bytes[:name_at] + b"\x7c" + good_bytes[name_at + 1 :],
    }  # fmt: skip
    cases = [_malformed(name, "KeyAdvert", data) for name, data in yes.items()]
    cases += [_malformed(name, kind, encode_plain(value)) for name, kind, value in _lists_and_numbers(fields)]
    cases += [_malformed(name, "Roster", data) for name, data in _rosters()]
    about = (
        "Bytes that do not decode to exactly one valid value of the struct named; every decoder refuses them "
        "before it looks at a signature."
    )
    return file(about, "4.3, 4.4", "decode", cases)


def _malformed(name: str, kind: str, data: bytes) -> Json:
    return bad(f"{kind}: {name}", {"struct": kind, "encoding": data.hex()}, "malformed")


def _lists_and_numbers(advert: list[object]) -> Iterator[tuple[str, str, object]]:
    other = ["fjell", *advert[1:]]
    yield "out of order", "KeyRoster", [12, [other, advert]]
    yield "a site twice", "KeyRoster", [12, [advert, advert]]
    yield "no advert", "KeyRoster", [12, []]
    yield "an item with its tag", "KeyRoster", [12, [[11, *advert]]]
    names = [f"s{index:03d}" for index in range(101)]
    yield "101 items", "SurvivorProof", [18, [[name, bytes(32), bytes(64)] for name in names]]
    header = Session(3).context().header.plain()
    yield "round 0", "RoundHeader", [3, *header[:2], 0, *header[3:]]
    yield "round 100001", "RoundHeader", [3, *header[:2], 100_001, *header[3:]]
    yield "attempt 0", "RoundHeader", [3, *header[:3], 0, *header[4:]]
    yield "another suite", "RoundHeader", [3, 2, *header[1:]]
    yield "a range of 0", "RoundHeader", [3, *header[:-1], 0]
    yield "a range above 2^52", "RoundHeader", [3, *header[:-1], 2**52 + 1]
    yield "a header with its tag inside", "RoundOpen", [10, [3, *header], ["dale"], bytes(64)]
    yield "a share of 32 bytes", "UnmaskShares", [19, "dale", bytes(32), [["dale", bytes(32)]], [], bytes(64)]
    yield "no seed share", "UnmaskShares", [19, "dale", bytes(32), [], [], bytes(64)]
    yield "a box of 81 bytes", "SealedShares", [13, ["dale", bytes(32), bytes(32), bytes(64)], [["fjell", bytes(81)]]]


def _rosters() -> Iterator[tuple[str, bytes]]:
    roster = Session(3).roster
    plain: Any = roster.plain()
    entries = plain[4]
    twin = [["dale", entries[0][1], *entries[1][2:]] if entry[0] == "dale" else entry for entry in entries]
    yield "two sites with one identity key", encode_plain([1, *plain[:4], twin, *plain[5:]])
    nodes = [[*entry[:2], entries[0][2], entry[3]] for entry in entries]
    yield "all sites with one node key", encode_plain([1, *plain[:4], nodes, *plain[5:]])
    yield "a revoked key that is listed", encode_plain([1, *plain[:5], [entries[0][1]], plain[6]])
    yield "sites out of order", encode_plain([1, *plain[:4], entries[::-1], *plain[5:]])


def bad_modulus() -> Json:
    """The modulus of a lane is the manifest's word: it must be the least that holds the largest sum."""
    manifest = Session(5, weight_cap=5).manifest
    plain = manifest.plain()
    at = [rule.name for rule in field_rules(Manifest)].index("quantizer")
    right = plain[at]
    assert right == [8, 16, 5, 0, 0], right

    def of(*quantizer: int) -> bytes:
        return encode_plain([2, *plain[:at], list(quantizer), *plain[at + 1 :]])

    yes = {
        "lanes too narrow for five sites": of(8, 12, 5, 0, 0),
        "lanes too narrow for one site": of(8, 10, 5, 0, 0),
        "lanes wider than needed": of(8, 21, 5, 0, 0),
        "a width that is none of the six": of(8, 14, 5, 0, 0),
        "a width of 64": of(8, 64, 5, 0, 0),
        "a width of 0": of(8, 0, 5, 0, 0),
        "a weight cap that leaves no headroom": of(8, 16, 52, 0, 0),
        "a weight cap that no lane holds": of(8, 32, 1 << 28, 0, 0),
        "a weight cap of 0": of(8, 16, 0, 0, 0),
        "more bits than the lane holds": of(12, 16, 5, 0, 0),
        "3 bits": of(3, 8, 5, 0, 0),
        "21 bits": of(21, 32, 5, 0, 0),
        "rotate 2": of(8, 16, 5, 2, 0),
        "a clip bound above 2^52": of(8, 16, 5, 0, 2**52 + 1),
    }
    about = "Manifests whose lanes are not the least that hold n x weight_cap x (2^bits - 1); the right one is 16 wide."
    inputs = {"correct": manifest.encode().hex()}
    return file(about, "7.1", "decode", [_malformed(name, "Manifest", data) for name, data in yes.items()], inputs)


def bad_thresholds() -> Json:
    """Numbers with which one site's two secrets, or a sum of too few, could come out."""
    rules = [rule.name for rule in field_rules(Manifest)]
    lies: list[tuple[str, Session, Json]] = [
        ("2t = n + c", Session(5), {"threshold": 3}),
        ("t above n - d", Session(5), {"threshold": 5}),
        ("a quorum of one less", Session(5), {"quorum": 3}),
        ("a quorum of one more", Session(5), {"quorum": 5}),
        ("m below c + 3", Session(5, colluders=0), {"colluders": 1, "threshold": 4, "quorum": 4, "dropouts": 1}),
        ("m below t", Session(5), {"least_survivors": 3}),
        ("m above n - d", Session(5), {"least_survivors": 5}),
        ("three sites that need not all survive", Session(3), {"least_survivors": 3, "dropouts": 1, "threshold": 2}),
        ("two colluders of three", Session(3), {"colluders": 2, "threshold": 3, "quorum": 3}),
        ("as many colluders as sites", Session(5), {"colluders": 5}),
        ("two sites", Session(3), {"sites": ["aasen", "dale"]}),
        ("sites out of order", Session(3), {"sites": ["dale", "aasen", "fjell"]}),
        ("another graph", Session(5), {"graph": 2}),
        ("another version", Session(5), {"version": 2}),
    ]
    cases = []
    for name, session, fields in lies:
        plain = session.manifest.plain()
        for field, value in fields.items():
            plain[rules.index(field)] = value
        cases.append(_malformed(name, "Manifest", encode_plain([2, *plain])))
    return file(
        "Manifests that break a condition of section 7.2 or name what is reserved.", "7.1, 7.2", "decode", cases
    )
