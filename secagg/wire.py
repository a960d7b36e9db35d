"""The one encoding of every message: deterministic CBOR arrays, checked against declared limits (spec §4).

A `Struct` is a frozen dataclass whose fields are annotated with their limits. Construction validates, so a
value that exists is valid; decoding accepts exactly the bytes that encoding makes.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self, dataclass_transform

import cbor2

from secagg.cbor import Reader
from secagg.errors import Malformed, Misuse

MAX_SITES: typing.Final = 100
NAME: typing.Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Length:
    """Least and most length of a byte string (in bytes) or a text (in UTF-8 bytes)."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Range:
    """Least and most value of an integer, both allowed."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Items:
    """Least and most number of items, and the field by which they strictly ascend.

    by: '' = the item itself; None = any order, repeats allowed.
    """

    least: int
    most: int
    by: str | None = "site"


@dataclass(frozen=True, slots=True)
class SiteName:
    """A site's name: 1-32 of a-z, 0-9 and inner hyphens."""


Name = Annotated[str, SiteName()]
Digest = Annotated[bytes, Length(32, 32)]
Key32 = Annotated[bytes, Length(32, 32)]
Signature = Annotated[bytes, Length(64, 64)]

_Rule = Length | Range | Items | SiteName


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What one field may hold."""

    name: str
    kind: Any  # bytes, str, int, a Struct class, or (tuple, item kind, item rule)
    rule: _Rule | None
    where: str = ""  # for messages


def encode_plain(value: object) -> bytes:
    """The deterministic CBOR of ints, byte strings, texts and lists of them (RFC 8949 §4.2.1)."""
    return cbor2.dumps(value, canonical=True)


def _check_scalar(value: Any, kind: Any, rule: _Rule | None, where: str) -> None:
    if type(value) is not kind:
        raise Malformed(f"{where} has the wrong type")
    if isinstance(rule, Length):
        size = len(value) if kind is bytes else _utf8_size(value, where)
        if not rule.least <= size <= rule.most:
            raise Malformed(f"{where} has a length outside {rule.least}..{rule.most}")
    elif isinstance(rule, Range):
        if not rule.least <= value <= rule.most:
            raise Malformed(f"{where} lies outside {rule.least}..{rule.most}")
    elif isinstance(rule, SiteName) and not NAME.fullmatch(value):
        raise Malformed(f"{where} is not a site name")


def _utf8_size(text: str, where: str) -> int:
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise Malformed(f"{where} is not a text of Unicode characters") from error


def _check_items(value: Any, kind: Any, rule: Items, where: str) -> None:
    _, item_kind, item_rule = kind
    if type(value) is not tuple or not rule.least <= len(value) <= rule.most:
        raise Malformed(f"{where} does not hold {rule.least}..{rule.most} items")
    for item in value:
        _check_scalar(item, item_kind, item_rule, where)
    if rule.by is None:
        return
    keys = [getattr(item, rule.by) if rule.by else item for item in value]
    if any(left >= right for left, right in pairwise(keys)):
        raise Malformed(f"{where} is not strictly ascending")


def _parse_kind(annotation: Any) -> tuple[Any, _Rule | None]:
    if typing.get_origin(annotation) is Annotated:
        base, rule = typing.get_args(annotation)[:2]
        return _parse_kind(base)[0], rule
    if typing.get_origin(annotation) is tuple:
        item_kind, item_rule = _parse_kind(typing.get_args(annotation)[0])
        return (tuple, item_kind, item_rule), None
    return annotation, None


_RULES: dict[type[Struct], tuple[FieldRule, ...]] = {}


def field_rules(struct: type[Struct]) -> tuple[FieldRule, ...]:
    """The rules of every field, in wire order; the tables of spec §7, §11 are tested against them."""
    if struct not in _RULES:
        hints = typing.get_type_hints(struct, include_extras=True)
        named = fields(struct)  # type: ignore[arg-type]
        _RULES[struct] = tuple(
            FieldRule(field.name, *_parse_kind(hints[field.name]), f"{struct.__name__}.{field.name}") for field in named
        )
    return _RULES[struct]


@dataclass_transform(frozen_default=True)
class Struct:
    """Base of every value that travels, is signed or is hashed."""

    __slots__ = ()
    TAG: ClassVar[int] = 0  # first element of a message's array; 0 = never travels on its own
    LIMIT: ClassVar[int] = 1 << 20  # bytes of the whole encoding, checked before decoding

    def __post_init__(self) -> None:
        for field in field_rules(type(self)):
            value, where = getattr(self, field.name), field.where
            if isinstance(field.kind, tuple):
                if not isinstance(field.rule, Items):
                    raise Misuse(f"{where} declares no limit")
                _check_items(value, field.kind, field.rule, where)
            else:
                _check_scalar(value, field.kind, field.rule, where)

    def plain(self) -> list[object]:
        """The fields as nested lists of ints, texts and byte strings, in wire order."""
        return [_to_plain(getattr(self, field.name)) for field in field_rules(type(self))]

    def encode(self) -> bytes:
        """The only encoding: [TAG, field, ...], or [field, ...] for a struct without a tag."""
        return encode_plain([self.TAG, *self.plain()] if self.TAG else self.plain())

    def unsigned(self) -> bytes:
        """What a signature over this message covers: its encoding without the last field, `signature`."""
        if field_rules(type(self))[-1].name != "signature":
            raise Misuse(f"{type(self).__name__} carries no signature")
        return encode_plain([self.TAG, *self.plain()[:-1]])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The value whose encoding is exactly `data`. Raises Malformed for anything else."""
        if len(data) > cls.LIMIT:
            raise Malformed(f"longer than {cls.LIMIT} bytes")
        reader = Reader(data)
        try:
            value = cls.read(reader, cls.TAG)
        except Misuse as error:  # a rule between fields, broken by whoever sent the bytes
            raise Malformed(str(error)) from error
        reader.end()
        return value

    @classmethod
    def read(cls, reader: Reader, tag: int = 0) -> Self:
        """The value that stands next, after its tag unless that is 0. Raises Malformed or Misuse."""
        rules = field_rules(cls)
        if reader.array() != len(rules) + bool(tag):
            raise Malformed(f"{cls.__name__} does not have {len(rules)} fields")
        if tag and reader.number() != tag:
            raise Malformed(f"not a {cls.__name__}")
        return cls(*(_read_field(reader, rule) for rule in rules))


def _to_plain(value: Any) -> object:
    if type(value) in _READERS:
        return value
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value.plain()


def _read_field(reader: Reader, field: FieldRule) -> object:
    if not isinstance(field.kind, tuple):
        return _read_one(reader, field.kind)
    count = reader.array()
    if not isinstance(field.rule, Items) or count > field.rule.most:
        raise Malformed(f"{field.name} is not a list within its limit")
    return tuple(_read_one(reader, field.kind[1]) for _ in range(count))


def _read_one(reader: Reader, kind: Any) -> object:
    if issubclass(kind, Struct):
        return kind.read(reader)
    return _READERS[kind](reader)


_READERS: typing.Final[dict[type, Callable[[Reader], object]]] = {
    int: Reader.number,
    bytes: Reader.octets,
    str: Reader.text,
}


def tag_of(data: bytes) -> int:
    """The tag of an encoded message, of which nothing else is read. Raises Malformed."""
    reader = Reader(data)
    if not reader.array():
        raise Malformed("no message tag")
    return reader.number()
