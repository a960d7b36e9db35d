"""Reads the only CBOR there is on the wire: arrays, unsigned integers, byte strings and texts (spec §4.2).

Every length is definite and every head has its shortest form, so bytes have at most one reading and a value
one encoding. A general decoder is no substitute: its tags cost minutes of CPU for a megabyte (a decimal
fraction of a million digits), and it builds whatever a stranger's lists describe before anyone checks it.
"""

from __future__ import annotations

from typing import Final

from secagg.errors import Malformed

_MAJOR: Final = {int: 0, bytes: 2, str: 3, list: 4}  # RFC 8949 §3.1
_SHORT: Final = 24  # numbers below it stand in the head's own byte
_WIDTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}  # additional information -> bytes of argument


class Reader:
    """Takes one item after the other; the caller says what must come next. Raises Malformed."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def array(self) -> int:
        """The number of items of the array that begins here."""
        return self._head(list)

    def number(self) -> int:
        """The unsigned integer that stands here, below 2^64."""
        return self._head(int)

    def octets(self) -> bytes:
        """The byte string that stands here."""
        return self._take(self._head(bytes))

    def text(self) -> str:
        """The text that stands here."""
        try:
            return self._take(self._head(str)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Malformed("a text is not UTF-8") from error

    def end(self) -> None:
        """Raises Malformed unless every byte was taken."""
        if self._at != len(self._data):
            raise Malformed("bytes follow the message")

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise Malformed("the message ends too early")
        return bytes(self._data[start : self._at])

    def _head(self, kind: type) -> int:
        first = self._take(1)[0]
        if first >> 5 != _MAJOR[kind]:
            raise Malformed(f"something else stands where {kind.__name__} is expected")
        low = first & 31
        if low < _SHORT:
            return low
        if low not in _WIDTHS:
            raise Malformed("a length is indefinite or reserved")
        value = int.from_bytes(self._take(_WIDTHS[low]), "big")
        if value < (_SHORT if low == _SHORT else 1 << 4 * _WIDTHS[low]):
            raise Malformed("a number is not in its shortest form")
        return value
