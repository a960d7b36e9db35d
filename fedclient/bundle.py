"""A call of Flower's and the objects that go with it, in one HTTP body (spec section 17.3).

Flower sends a message as a tree of objects, each by a call of its own. What a round sends is small, and its calls
take longer than its bytes: so the same calls, with Flower's own protobuf messages, may also be made as one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Self

from google.protobuf.message import DecodeError

PUSH: Final = "push-bundle"
PULL: Final = "pull-bundle"
OBJECTS: Final = "pull-objects"  # a ServerApp's: parts are names, and in the answer their contents
ROOM_BYTES: Final = 7 << 20  # of objects in one bundle: one piece of an Array and what is around it
MAX_PARTS: Final = 1 << 16  # with the head
MOST_CONFIRMED: Final = 256  # messages, with one poll
LENGTH: Final = struct.Struct(">I")


@dataclass(slots=True)
class Bundle:
    """head: Flower's request or answer, encoded. parts: what goes with it, in the order that the call says."""

    head: bytes = b""
    parts: list[bytes] = field(default_factory=list)

    def encode(self) -> bytes:
        """Each part, the head first, behind its length."""
        pieces = [self.head, *self.parts]
        return b"".join(chain.from_iterable((LENGTH.pack(len(piece)), piece) for piece in pieces))

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Reads a body. Raises DecodeError, as Flower's messages do."""
        pieces = list(_pieces(body))
        if not pieces:
            raise DecodeError("a bundle without a head")
        return cls(pieces[0], pieces[1:])


def within_room(contents: Iterable[bytes | None]) -> list[bytes]:
    """As many of the first contents as one bundle takes, up to one that is not there."""
    taken, room = list[bytes](), ROOM_BYTES
    for content in contents:
        if not content or len(content) > room:
            break
        taken.append(content)
        room -= len(content)
    return taken


def _pieces(body: bytes) -> Iterator[bytes]:
    start = 0
    for _ in range(MAX_PARTS + 1):
        if start == len(body):
            return
        if start + LENGTH.size > len(body):
            break
        end = start + LENGTH.size + LENGTH.unpack_from(body, start)[0]
        if end > len(body):
            break
        yield body[start + LENGTH.size : end]
        start = end
    raise DecodeError("a bundle that is cut off, or has too many parts")
