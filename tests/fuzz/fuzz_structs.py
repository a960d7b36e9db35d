"""Every message and every stored value, decoded: malformed, or the one value whose encoding these bytes are."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from secagg.enrol import ModelCard
from secagg.errors import Malformed, Misuse, Refused
from secagg.identity import Roster
from secagg.wire import Struct, field_rules, tag_of
from tests.core.made import structs
from tests.fuzz.masked_stage import everything_sent
from tests.sim import Consortium


@cache
def _kinds() -> tuple[dict[int, type[Struct]], list[type[Struct]]]:
    return {kind.TAG: kind for kind in structs() if kind.TAG}, [kind for kind in structs() if not kind.TAG]


def one(data: bytes) -> None:
    """Decodes the input as the message of its tag, or as every struct that has none."""
    tagged, untagged = _kinds()
    try:
        tag = tag_of(data)
    except Malformed:
        tag = 0
    for kind in [tagged[tag]] if tag in tagged else untagged:
        try:
            value = kind.decode(data)
        except Malformed:
            continue
        assert value.encode() == data
        _used(value)


def _used(value: Struct) -> None:
    """What a receiver does with a stranger's value before it looks at a signature."""
    if field_rules(type(value)) and field_rules(type(value))[-1].name == "signature":
        value.unsigned()
    if isinstance(value, ModelCard):
        assert value.layout().size > 0
    elif isinstance(value, Roster):
        try:
            value.verify(value.root_key, 0)
        except (Malformed, Refused):
            return
    elif hasattr(value, "verify"):
        try:
            value.verify()
        except (Malformed, Misuse):
            return


def seeds() -> Iterator[bytes]:
    """One real message of every kind."""
    consortium = Consortium(4)
    yield consortium.roster.encode()
    yield from {tag_of(head): head for head in everything_sent()}.values()
    yield from (entry.encode() for entry in consortium.roster.sites[:1])
