"""How much memory the vectors in a site's reply may take while Flower puts them together.

An Array is uploaded as chunks and a list of which chunk stands where. One chunk may stand in many places (equal
chunks have one name), so a small upload can claim any length, and Flower's Grid would build it before its caller
sees it. Flower has no limit to set there. So this puts a meter on the chunks that the public `Array.inflate` is
given, which counts each where it is used; outside `at_most` nothing changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from flwr.app import Array

from secagg.errors import Malformed

MAX_LIST_BYTES: Final = 1 << 20  # an Array without its chunks: at most 75 bytes for each 5 MiB of the vector

_flowers_inflate: Final = Array.inflate
_here = threading.local()  # Flower's Grid inflates in the thread that pulls


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """All Arrays that this thread inflates meanwhile take at most `limit` bytes; beyond, inflating raises Malformed."""
    _here.meter = _Meter(limit)
    try:
        yield
    finally:
        del _here.meter


class _Meter:
    """The bytes that are left."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Malformed("the reply's vectors claim more bytes than were asked for")


class _Metered(dict[str, Any]):
    """Chunks by name, each counted whenever it is taken."""

    def __init__(self, chunks: dict[str, Any], meter: _Meter) -> None:
        super().__init__(chunks)
        self._meter = meter

    def __getitem__(self, name: str) -> Any:
        chunk = super().__getitem__(name)
        self._meter.count(len(chunk.data))
        return chunk


def _inflate(cls: type[Array], object_content: bytes, children: dict[str, Any] | None = None) -> Array:
    """Array.inflate, within the limit if this thread has one."""
    meter = getattr(_here, "meter", None)
    if meter is None:
        return _flowers_inflate(object_content, children)
    if len(object_content) > MAX_LIST_BYTES:
        raise Malformed(f"an Array's list of chunks takes more than {MAX_LIST_BYTES} bytes")
    return _flowers_inflate(object_content, _Metered(children or {}, meter))


Array.inflate = classmethod(_inflate)  # type: ignore[method-assign,assignment]
