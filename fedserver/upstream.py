"""The gateway's calls to the SuperLink: HTTP/1.1 over TLS connections that are kept, bodies streamed both ways.

One server that we started ourselves, and only what it uses of HTTP: a general client takes several times as long
for a small call, and a round is made of small calls.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

TIMEOUT_S: Final = 120.0  # for one step: a connection, a piece of a body, the head of an answer
IDLE_S: Final = 3.0  # the SuperLink's web server closes a connection that has been idle for 5 s
MOST_IDLE: Final = 64  # connections that are kept
PIECE_BYTES: Final = 1 << 18
HEAD_BYTES: Final = 1 << 16
END_OF_HEAD: Final = b"\r\n\r\n"
SWITCHING: Final = 200  # statuses below are no answer yet

Headers = Sequence[tuple[bytes, bytes]]


class UpstreamFailed(Exception):
    """The SuperLink cannot be reached, or what it answers is no HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's head. `pieces` gives its body and must be read or closed. headers: names in lower case."""

    status: int
    headers: Headers
    pieces: AsyncGenerator[bytes]


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    idle_since: float = 0.0

    def is_fresh(self) -> bool:
        """Whether it can be used again."""
        unused = time.monotonic() - self.idle_since < IDLE_S
        return unused and not self.reader.at_eof() and not self.writer.is_closing()


class Upstream:
    """The SuperLink at `url`, https://HOST:PORT, whose certificate `tls` must trust."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._authority = str(parts.hostname), parts.port, parts.netloc.encode("ascii")
        self.tls = tls
        self._idle: list[_Connection] = []

    async def send(self, method: bytes, path: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> Answer:
        """The answer to one request. Raises UpstreamFailed, or what `body` raises; nothing is tried again.

        headers: names in lower case, without host, connection and transfer-encoding. A body whose length they do
        not say is sent in chunks.
        """
        try:
            connection = await self._connection()
            try:
                return await self._ask(connection, _head(method, path, self._authority, headers, body), headers, body)
            except BaseException:
                connection.writer.close()
                raise
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise UpstreamFailed from error

    async def close(self) -> None:
        """Closes the connections that are kept."""
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh():
                return connection
            connection.writer.close()
        async with asyncio.timeout(TIMEOUT_S):
            pair = await asyncio.open_connection(self._host, self._port, ssl=self.tls, limit=PIECE_BYTES)
        return _Connection(*pair)

    async def _ask(
        self, connection: _Connection, head: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> Answer:
        writer = connection.writer
        writer.write(head)
        if body is not None:
            await _send_body(writer, body, _length(headers))
        async with asyncio.timeout(TIMEOUT_S):
            status, answered = await _read_head(connection.reader)
        is_kept = (b"connection", b"close") not in answered
        return Answer(status, answered, self._pieces(connection, answered, is_kept))

    async def _pieces(self, connection: _Connection, headers: Headers, is_kept: bool) -> AsyncGenerator[bytes]:
        """The body of an answer; when all of it was read, the connection may be used again."""
        is_whole = False
        try:
            async for piece in _body_of(connection.reader, headers):
                yield piece
            is_whole = is_kept
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise UpstreamFailed from error
        finally:
            if is_whole and len(self._idle) < MOST_IDLE:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.writer.close()


def _head(method: bytes, path: bytes, host: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"host: " + host]
    lines += [name + b": " + value for name, value in headers]
    if body is not None and _length(headers) is None:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join(lines) + END_OF_HEAD


async def _send_body(writer: asyncio.StreamWriter, body: AsyncIterator[bytes], length: int | None) -> None:
    """Sends the pieces as they come. Raises ValueError if they are not of the announced length."""
    sent = 0
    async for piece in body:
        sent += len(piece)
        if length is not None and sent > length:
            raise ValueError("the body is longer than it said")
        if length is None and piece:
            writer.writelines((f"{len(piece):x}\r\n".encode(), piece, b"\r\n"))
        elif piece:
            writer.write(piece)
        await _drained(writer)
    if length is None:
        writer.write(b"0\r\n\r\n")
    elif sent != length:
        raise ValueError("the body is shorter than it said")


async def _drained(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, Headers]:
    """Status and headers of the answer. Raises ValueError for what is none."""
    while True:
        head = await reader.readuntil(END_OF_HEAD)
        first, *lines = head[: -len(END_OF_HEAD)].split(b"\r\n")
        version, status, *_ = first.split(b" ", 2)
        if version != b"HTTP/1.1" or len(head) > HEAD_BYTES:
            raise ValueError("not an answer in HTTP/1.1")
        if int(status) >= SWITCHING:
            pairs = (line.partition(b":") for line in lines)
            return int(status), [(name.strip().lower(), value.strip()) for name, _, value in pairs]


async def _body_of(reader: asyncio.StreamReader, headers: Headers) -> AsyncIterator[bytes]:
    if (b"transfer-encoding", b"chunked") in headers:
        while size := int((await _in_time(reader.readuntil(b"\r\n"))).strip(), 16):
            async for piece in _exactly(reader, size):
                yield piece
            await _in_time(reader.readuntil(b"\r\n"))
        await _in_time(reader.readuntil(b"\r\n"))
        return
    length = _length(headers)
    if length is None:
        raise ValueError("an answer without a length")
    async for piece in _exactly(reader, length):
        yield piece


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await _in_time(reader.read(min(size, PIECE_BYTES)))
        if not piece:
            raise EOFError
        size -= len(piece)
        yield piece


async def _in_time(step):  # type: ignore[no-untyped-def]
    async with asyncio.timeout(TIMEOUT_S):
        return await step


def _length(headers: Headers) -> int | None:
    for name, value in headers:
        if name == b"content-length":
            return int(value)
    return None
