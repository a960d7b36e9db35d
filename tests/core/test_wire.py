"""Every message has one encoding, every other sequence of bytes is malformed, and neither costs much to find out."""

from __future__ import annotations

import ast
import time
import tracemalloc
from contextlib import suppress
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Annotated

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secagg.cbor import Reader
from secagg.chain import Position
from secagg.config import Manifest
from secagg.enrol import Hello, ModelCard, RoundStart
from secagg.errors import Malformed, Misuse
from secagg.masked.messages import KeyRoster, RoundOpen, SurvivorProof
from secagg.quantize import QuantizerParams
from secagg.wire import Digest, Items, Length, Name, Range, Struct, encode_plain, field_rules, tag_of
from tests.core.made import made, structs
from tests.sim import Consortium

UNHURRIED = [HealthCheck.too_slow]  # a busy machine is no fault of a message's
ROOT = Path(__file__).parent.parent.parent
every_struct = pytest.mark.parametrize("kind", structs(), ids=lambda kind: kind.__name__)


@dataclass(frozen=True, slots=True)
class Sample(Struct):
    """One field of every kind."""

    TAG = 99
    LIMIT = 4096
    number: Annotated[int, Range(5, 300)]
    octets: Annotated[bytes, Length(1, 4)]
    text: Annotated[str, Length(1, 4)]
    site: Name
    names: Annotated[tuple[Name, ...], Items(1, 3, by="")]
    marks: Annotated[tuple[Annotated[int, Range(0, 9)], ...], Items(0, 3, by=None)]


GOOD = Sample(7, b"ab", "xy", "a-b", ("a", "b"), (3, 3, 1))


def encoded(*items: object) -> bytes:
    return cbor2.dumps(list(items), canonical=True)


GIB = (1 << 30).to_bytes(4, "big")
PLAIN = [99, 7, b"ab", "xy", "a-b", ["a", "b"], [3, 3, 1]]


def test_the_encoding_is_an_array_of_tag_and_fields() -> None:
    assert GOOD.encode() == encoded(*PLAIN)
    assert Sample.decode(GOOD.encode()) == GOOD
    assert GOOD.encode()[:3] == b"\x87\x18\x63"


@every_struct
@settings(max_examples=15, suppress_health_check=UNHURRIED)
@given(st.data())
def test_what_was_encoded_is_what_is_decoded(kind: type[Struct], data: st.DataObject) -> None:
    value = data.draw(made(kind))
    encoding = value.encode()
    assert kind.decode(encoding) == value
    assert kind.decode(encoding).encode() == encoding
    if kind.TAG:
        assert tag_of(encoding) == kind.TAG


def mutated(draw: st.DrawFn, encoding: bytes, others: list[bytes]) -> bytes:
    """The bytes after one or two accidents or attacks."""
    data = bytearray(encoding)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(("flip", "cut", "drop", "insert", "repeat", "splice", "claim", "widen")))
        if how == "flip" and data:
            data[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + draw(st.integers(1, 9))]
        elif how == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 99))]
        elif how == "splice":
            other = draw(st.sampled_from(others))
            data[at:] = other[draw(st.integers(0, len(other))) :]
        elif data:
            at = draw(st.sampled_from(heads(data)))
            data[at : at + 1] = claimed(draw, data[at] >> 5) if how == "claim" else widened(data[at])
    return bytes(data)


def heads(data: bytearray) -> list[int]:
    """Where in the encoding an item begins, as far as it is one."""
    found, at = list[int](), 0
    while at < len(data):
        found.append(at)
        low, width = data[at] & 31, (1 << (data[at] & 31) - 24 if 24 <= data[at] & 31 <= 27 else 0)
        argument = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else low
        at += 1 + width + (argument if data[at] >> 5 in (2, 3) else 0)
    return found


def widened(head: int) -> bytes:
    """The same head with the same number in one form more than it takes."""
    low, major = head & 31, head & 0xE0
    if low < 24:
        return bytes([major | 24, low])
    return bytes([head + 1]) + bytes(1 << low - 24) if low < 27 else bytes([head])


def claimed(draw: st.DrawFn, major: int) -> bytes:
    """A head of this major type, in any of its widths, that claims any number up to 2^64 - 1."""
    width = draw(st.sampled_from((0, 1, 2, 4, 8)))
    if not width:
        return bytes([major << 5 | draw(st.integers(0, 31))])
    huge = st.integers(0, (1 << 8 * width) - 1) | st.sampled_from((1 << 30, (1 << 64) - 1)).map(
        lambda number: number & (1 << 8 * width) - 1
    )
    return bytes([major << 5 | 23 + width.bit_length()]) + draw(huge).to_bytes(width, "big")


def simplest(kind: type[Struct], number: int = 0) -> Struct:
    """A value of the class without hypothesis: the least of everything; another number gives another value."""
    if kind is Manifest:
        return Consortium(4).manifest(10)
    if kind is QuantizerParams:
        return QuantizerParams(4, 8, 1, 0, 0)
    return kind(*(simple_field(field.kind, field.rule, number) for field in field_rules(kind)))


def simple_field(kind: object, rule: object, number: int) -> object:
    if isinstance(kind, tuple):
        assert isinstance(rule, Items)
        first = number if rule.by else number + 50  # no revoked key is a site's
        return tuple(simple_field(*kind[1:], first + item) for item in range(max(rule.least, min(2, rule.most))))
    if isinstance(kind, type) and issubclass(kind, Struct):
        return simplest(kind, number)
    if isinstance(rule, Range):
        return min(rule.least + number, rule.most)
    text = f"{number:c>9}".encode() if not isinstance(rule, Length) else b"%d" % number
    text = text.rjust(rule.least, b"c") if isinstance(rule, Length) else text
    return text if kind is bytes else text.decode()


ONE_OF_EACH = {kind: simplest(kind).encode() for kind in structs()}


@every_struct
@settings(max_examples=20, suppress_health_check=UNHURRIED)
@given(st.data())
def test_altered_bytes_are_malformed_or_another_value_in_its_one_encoding(
    kind: type[Struct], data: st.DataObject
) -> None:
    encoding = data.draw(made(kind)).encode()
    altered = data.draw(st.composite(mutated)(encoding, list(ONE_OF_EACH.values())))
    try:
        value = kind.decode(altered)
    except Malformed:
        return
    assert value.encode() == altered


BYTES_PER_BYTE = 64  # the dearest: a setting takes 4 bytes on the wire, and an object of two texts in memory, 220


@every_struct
@settings(max_examples=6, suppress_health_check=UNHURRIED)
@given(st.data())
def test_what_a_message_costs_to_read_is_bounded_by_its_length(kind: type[Struct], data: st.DataObject) -> None:
    """Whatever lengths it claims: a reader that believed one would allocate before it saw the end."""
    encoding = data.draw(made(kind)).encode()
    altered = data.draw(st.composite(mutated)(encoding, list(ONE_OF_EACH.values())))
    assert cost_of(kind, altered) < BYTES_PER_BYTE * len(altered) + (32 << 10)


@every_struct
def test_a_claimed_gibibyte_costs_nothing_wherever_in_a_message_it_stands(kind: type[Struct]) -> None:
    encoding = ONE_OF_EACH[kind]
    for at in range(0, len(encoding), max(1, len(encoding) // 60)):
        for head in (b"\x5a", b"\x7a", b"\x9a"):
            for rest in (b"", encoding[at:]):
                assert cost_of(kind, encoding[:at] + head + GIB + rest) < 64 << 10


def cost_of(kind: type[Struct], data: bytes) -> int:
    """Bytes that it takes to find out what `data` is."""
    tracemalloc.start()
    try:
        with suppress(Malformed):
            kind.decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def most_bytes(kind: object, rule: object) -> int:
    """The longest encoding of any value that the rule allows."""
    if isinstance(kind, tuple):
        assert isinstance(rule, Items)
        return 9 + rule.most * most_bytes(*kind[1:])
    if isinstance(kind, type) and issubclass(kind, Struct):
        return 9 + 3 + sum(most_bytes(field.kind, field.rule) for field in field_rules(kind))
    if kind is int:
        return 9
    return 9 + (rule.most if isinstance(rule, Length) else 32)


@every_struct
def test_the_longest_honest_message_is_within_its_own_limit(kind: type[Struct]) -> None:
    """Else a consortium of a hundred sites would fail where one of four works."""
    if kind is ModelCard:
        tensors = 9 + 20_000 * (12 + 128 + 27)  # by name; names of 512 bytes are allowed, of 128 are long
        assert tensors + 1024 < kind.LIMIT
        return
    assert most_bytes(kind, None) < kind.LIMIT


def written_structs() -> set[tuple[str, str]]:
    """Module and name of every class in the sources that derives from Struct, told by reading them."""
    bases: dict[str, set[tuple[str, str]]] = {}
    for package in ("secagg", "keys", "fedclient", "fedserver"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for base in node.bases if isinstance(node, ast.ClassDef) else ():
                    bases.setdefault(ast.unparse(base).rpartition(".")[2], set()).add((module, node.name))
    found, left = set(), ["Struct"]
    while left:
        for module, name in bases.get(left.pop(), ()):
            if (module, name) not in found:
                found.add((module, name))
                left.append(name)
    return found


def test_no_struct_escapes_these_tests() -> None:
    tested = {(kind.__module__, kind.__name__) for kind in structs()}
    assert written_structs() - tested == {("secagg.masked.states", "Secret")}  # a base without a field or a tag
    assert tested <= written_structs()


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_random_bytes_are_malformed_for_every_message(data: bytes) -> None:
    for kind in structs():
        try:
            value = kind.decode(data)
        except Malformed:
            continue
        assert value.encode() == data


@every_struct
def test_every_struct_is_frozen_slotted_and_bounded(kind: type[Struct]) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__dict__" not in dir(kind)
    for field in field_rules(kind):
        if field.kind in (int, bytes, str) or isinstance(field.kind, tuple):
            assert field.rule is not None, field.name


def test_no_two_messages_share_a_tag() -> None:
    tags = [kind.TAG for kind in structs() if kind.TAG and kind.__module__.startswith("secagg")]
    assert len(tags) == len(set(tags))


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        GOOD.number = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 4), ("number", 301), ("number", True), ("number", 7.0), ("number", "7"), ("number", None),
        ("octets", b""), ("octets", b"abcde"), ("octets", "ab"), ("octets", bytearray(b"ab")),
        ("text", ""), ("text", "äöü"), ("text", b"xy"), ("text", "\ud800"),
        ("site", ""), ("site", "-a"), ("site", "a-"), ("site", "A"), ("site", "a_b"), ("site", "a" * 33),
        ("site", "a\n"), ("site", "é"), ("site", "../a"),
        ("names", ()), ("names", ("b", "a")), ("names", ("a", "a")), ("names", ("a", "b", "c", "d")),
        ("names", ["a"]), ("names", ("A",)), ("names", (1,)), ("marks", (10,)), ("marks", (1, 1, 1, 1)),
    ],
)  # fmt: skip
def test_a_value_outside_its_limits_cannot_exist_or_be_decoded(name: str, value: object) -> None:
    good = {field.name: getattr(GOOD, field.name) for field in fields(GOOD)}
    with pytest.raises(Malformed):
        Sample(**{**good, name: value})  # type: ignore[arg-type]
    items = list(PLAIN)
    items[1 + list(good).index(name)] = list(value) if isinstance(value, tuple) else value
    if isinstance(value, bytearray | list) or value == "\ud800":
        return  # they have no other encoding than the good ones
    with pytest.raises(Malformed):
        Sample.decode(cbor2.dumps(items, canonical=True))


@pytest.mark.parametrize(
    "bad",
    {
        "trailing byte": GOOD.encode() + b"\x00",
        "cut": GOOD.encode()[:-1],
        "empty": b"",
        "another tag": encoded(98, *PLAIN[1:]),
        "no tag": encoded(*PLAIN[1:]),
        "one field more": encoded(*PLAIN, 1),
        "one field less": encoded(*PLAIN[:-1]),
        "a map": cbor2.dumps({1: 2}),
        "not an array": b"\x07",
        "indefinite array": b"\x9f" + GOOD.encode()[1:] + b"\xff",
        "indefinite bytes": GOOD.encode().replace(b"\x42ab", b"\x5f\x42ab\xff"),
        "indefinite text": GOOD.encode().replace(b"\x62xy", b"\x7f\x62xy\xff"),
        "long array head": b"\x98\x07" + GOOD.encode()[1:],
        "long integer of 1 byte": GOOD.encode().replace(b"\x63\x07", b"\x63\x18\x07", 1),
        "long integer of 2 bytes": GOOD.encode().replace(b"\x63\x07", b"\x63\x19\x00\x07", 1),
        "long integer of 8 bytes": GOOD.encode().replace(b"\x63\x07", b"\x63\x1b" + bytes(7) + b"\x07", 1),
        "long byte string head": GOOD.encode().replace(b"\x42ab", b"\x58\x02ab"),
        "long text head": GOOD.encode().replace(b"\x62xy", b"\x78\x02xy"),
        "reserved width": GOOD.encode().replace(b"\x63\x07", b"\x63\x1c", 1),
        "negative integer": encoded(99, -7, *PLAIN[2:]),
        "bignum": GOOD.encode().replace(b"\x63\x07", b"\x63\xc2\x41\x07", 1),
        "float": encoded(99, 7.5, *PLAIN[2:]),
        "whole float": cbor2.dumps([99, 7.0, *PLAIN[2:]]),
        "null": encoded(99, None, *PLAIN[2:]),
        "true": encoded(99, True, *PLAIN[2:]),
        "tagged integer": encoded(99, cbor2.CBORTag(1, 7), *PLAIN[2:]),
        "tagged array": b"\xd9\xd9\xf7" + GOOD.encode(),
        "text for bytes": encoded(99, 7, "ab", *PLAIN[3:]),
        "bytes for text": encoded(99, 7, b"ab", b"xy", *PLAIN[4:]),
        "not UTF-8": GOOD.encode().replace(b"\x62xy", b"\x62\xc3\x28"),
        "surrogate": GOOD.encode().replace(b"\x62xy", b"\x63\xed\xa0\x80"),
        "unsorted": encoded(*PLAIN[:5], ["b", "a"], []),
        "duplicate": encoded(*PLAIN[:5], ["a", "a"], []),
        "deep nesting": b"\x81" * 3000,
    }.items(),
    ids=lambda pair: pair[0],
)  # fmt: skip
def test_any_other_bytes_are_malformed(bad: tuple[str, bytes]) -> None:
    assert bad[1] != GOOD.encode()
    with pytest.raises(Malformed):
        Sample.decode(bad[1])


def test_the_longest_message_is_its_limit() -> None:
    with pytest.raises(Malformed, match="longer than 4096 bytes"):
        Sample.decode(GOOD.encode() + bytes(4096))


def test_what_a_rule_between_fields_forbids_is_malformed_when_a_stranger_sends_it() -> None:
    manifest = Consortium(5).manifest(10)
    plain = [manifest.TAG, *manifest.plain()]
    names = [field.name for field in fields(manifest)]
    plain[1 + names.index("threshold")] = 2
    with pytest.raises(Malformed, match="cannot bear"):
        Manifest.decode(encode_plain(plain))


def peak_of(act, *arguments: object) -> tuple[int, float]:  # type: ignore[no-untyped-def]
    """Bytes that the refusal allocated at most, and seconds it took."""
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(Malformed):
            act(*arguments)
        return tracemalloc.get_traced_memory()[1], time.perf_counter() - began
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "claim",
    [b"\x82\x18\x28\x5a" + GIB, b"\x82\x18\x28\x7a" + GIB, b"\x9a" + GIB, b"\x82\x18\x28\x9a" + GIB,
     b"\x82\x18\x28\x5b" + b"\xff" * 8, b"\x9b" + b"\xff" * 8],
    ids=["bytes", "text", "array", "inner array", "2^64 bytes", "2^64 items"],
)  # fmt: skip
def test_a_claimed_length_of_a_gibibyte_costs_nothing(claim: bytes) -> None:
    memory, _ = peak_of(Hello.decode, claim)
    assert memory < 64 << 10
    head = b"\x82" + bytes([RoundOpen.TAG])
    assert peak_of(KeyRoster.decode, b"\x82" + bytes([KeyRoster.TAG]) + claim)[0] < 64 << 10
    assert peak_of(RoundOpen.decode, head + claim)[0] < 64 << 10


def test_a_megabyte_of_empty_lists_is_not_built() -> None:
    """A general decoder makes 60 MiB of lists from it before anyone looks."""
    count = 1_000_000
    bomb = b"\x9a" + count.to_bytes(4, "big") + b"\x80" * count
    assert peak_of(KeyRoster.decode, b"\x82\x0c" + bomb)[0] < 64 << 10
    assert peak_of(ModelCard.decode, bomb)[0] < 64 << 10
    assert peak_of(RoundStart.decode, b"\x84\x18\x2d" + bomb)[0] < 64 << 10


def test_a_list_over_its_limit_is_refused_before_its_first_item() -> None:
    count = 1_000_000
    start = RoundStart(bytes(32), 1, ()).encode()
    assert start[-1:] == b"\x80"
    assert peak_of(RoundStart.decode, start[:-1] + b"\x9a" + count.to_bytes(4, "big") + b"\x01" * count)[0] < 64 << 10


def test_a_number_of_a_million_digits_is_not_computed() -> None:
    """A decimal fraction (tag 4) costs a general decoder more than a minute of CPU for these 900 KB."""
    bomb = b"\x82\x12\xc4\x82\x00\xc2" + cbor2.dumps(b"\xff" * 900_000)
    _, seconds = peak_of(SurvivorProof.decode, bomb)
    assert seconds < 1.0  # it reads six bytes; the general decoder takes 78 s


def test_the_tag_is_read_without_reading_the_message() -> None:
    assert tag_of(b"\x98\xff\x18\x63" + b"\xff" * 100) == 99
    for bad in (b"", b"\x80", b"\x81", b"\x81\x20", b"\x81\x41a", b"\xa1\x01\x01"):
        with pytest.raises(Malformed):
            tag_of(bad)


def test_a_struct_without_limits_cannot_be_used() -> None:
    @dataclass(frozen=True, slots=True)
    class Boundless(Struct):
        items: tuple[int, ...]

    with pytest.raises(Misuse, match="declares no limit"):
        Boundless((1,))
    with pytest.raises(Malformed):
        Boundless.decode(b"\x81\x81\x01")


def test_what_is_signed_is_everything_but_the_signature() -> None:
    position = Position(bytes(32), 0, bytes(32), bytes(32), 1)
    with pytest.raises(Misuse, match="no signature"):
        position.unsigned()

    @dataclass(frozen=True, slots=True)
    class Note(Struct):
        TAG = 98
        digest: Digest
        signature: Annotated[bytes, Length(64, 64)]

    note = Note(bytes(32), b"s" * 64)
    assert note.unsigned() == encoded(98, bytes(32))


@pytest.mark.parametrize("number", [0, 1, 23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1])
def test_the_reader_agrees_with_the_encoder_on_every_width(number: int) -> None:
    reader = Reader(encode_plain(number))
    assert reader.number() == number
    reader.end()


def test_a_message_of_exactly_its_limit_is_read_and_one_byte_more_is_not() -> None:
    """Said of the length alone, before a byte is looked at: other garbage is malformed for another reason."""
    with pytest.raises(Malformed, match="something else stands"):
        Sample.decode(bytes(Sample.LIMIT))
    with pytest.raises(Malformed, match="longer than 4096 bytes"):
        Sample.decode(bytes(Sample.LIMIT + 1))


def test_a_list_one_longer_than_its_limit_is_refused_by_its_length_alone() -> None:
    start = RoundStart(bytes(32), 1, ()).encode()
    for count, says in ((63, "ends too early"), (64, "not a list within its limit")):
        with pytest.raises(Malformed, match=says):
            RoundStart.decode(start[:-1] + b"\x98" + bytes([count]))


@dataclass(frozen=True, slots=True)
class Inner(Struct):
    """Two numbers, inside another struct."""

    first: Annotated[int, Range(0, 9)]
    second: Annotated[int, Range(0, 9)]


@dataclass(frozen=True, slots=True)
class Outer(Struct):
    """A struct in a struct."""

    TAG = 98
    inner: Inner
    last: Annotated[int, Range(0, 9)]


def test_the_count_in_a_head_is_the_number_of_fields_there() -> None:
    """At every depth: a count that nobody holds against the items would give one value many encodings."""
    good = Outer(Inner(1, 2), 3).encode()
    assert good == b"\x83\x18\x62\x82\x01\x02\x03"
    for at in (0, 3):
        for count in (0x80, 0x81, 0x82, 0x83, 0x84, 0x97):
            bad = good[:at] + bytes([count]) + good[at + 1 :]
            if bad != good:
                with pytest.raises(Malformed, match="does not have"):
                    Outer.decode(bad)


@pytest.mark.parametrize("data", [b"\x80", b"\x80\x0a", b"\x80\x18\x62"])
def test_an_array_of_nothing_has_no_tag(data: bytes) -> None:
    with pytest.raises(Malformed, match="no message tag"):
        tag_of(data)


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(value: bool) -> None:
    """They would be equal to 1 and 0, and be encoded as something else."""
    with pytest.raises(Malformed, match="wrong type"):
        Inner(value, 0)
    with pytest.raises(Malformed, match="wrong type"):
        Sample(7, b"ab", "xy", "a-b", ("a",), (value,))
