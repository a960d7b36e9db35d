"""The gateway's calls to the SuperLink: HTTP/1.1 over TLS connections that are kept, bodies streamed both ways.

h11 writes the requests and reads the answers. What a general client has around it (redirects, cookies, proxies,
pools by host) costs more than the call itself, and a round is made of small calls to one server.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

TIMEOUT_S: Final = 120.0  # for one step: a connection, a piece of a body, the head of an answer
IDLE_S: Final = 3.0  # the SuperLink's web server closes a connection that has been idle for 5 s
MOST_IDLE: Final = 64  # connections that are kept
PIECE_BYTES: Final = 1 << 18
HEAD_BYTES: Final = 1 << 16  # of an answer's head that is not whole yet
FAILURES: Final = (OSError, EOFError, h11.ProtocolError)

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
    http: h11.Connection
    idle_since: float = 0.0

    def is_fresh(self) -> bool:
        """Whether it can be used again."""
        unused = time.monotonic() - self.idle_since < IDLE_S
        return unused and not self.reader.at_eof() and not self.writer.is_closing()

    def is_done(self) -> bool:
        """Whether request and answer were exchanged whole, neither side closes, and nothing came after the answer."""
        surplus, _ = self.http.trailing_data
        return self.http.our_state is self.http.their_state is h11.DONE and not surplus

    async def send(self, event: h11.Event) -> None:
        """Writes the event; a body's piece is not copied. Raises h11.LocalProtocolError for one out of place."""
        for part in self.http.send_with_data_passthrough(event) or ():
            self.writer.write(part)
        async with asyncio.timeout(TIMEOUT_S):
            await self.writer.drain()

    async def next_event(self) -> object:
        """The next part of the answer: its head, a piece of its body, its end. Raises h11.RemoteProtocolError.

        Raises EOFError when the connection ends: h11 would take that for the end of a body without a length.
        """
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    await self._receive()
                elif not isinstance(event, h11.InformationalResponse):
                    return event

    async def _receive(self) -> None:
        received = await self.reader.read(PIECE_BYTES)
        if not received:
            raise EOFError
        self.http.receive_data(received)


class Upstream:
    """The SuperLink at `url`, https://HOST:PORT, whose certificate `tls` must trust."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._authority = str(parts.hostname), parts.port, parts.netloc.encode("ascii")
        self.tls = tls
        self._idle: list[_Connection] = []

    async def send(self, method: bytes, path: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> Answer:
        """The answer to one request. Raises UpstreamFailed, or what `body` raises; nothing is tried again.

        headers: names in lower case, without host, connection, upgrade and transfer-encoding. A body whose length
        they do not say is sent in chunks.
        """
        try:
            connection = await self._connection()
            try:
                await self._ask(connection, method, path, headers, body)
                return await self._answer(connection)
            except BaseException:
                connection.writer.close()
                raise
        except FAILURES as error:
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
        return _Connection(*pair, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES))

    async def _ask(
        self, connection: _Connection, method: bytes, path: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> None:
        sent = [(b"host", self._authority), *headers]
        if body is not None and all(name != b"content-length" for name, _ in headers):
            sent.append((b"transfer-encoding", b"chunked"))
        connection.writer.write(connection.http.send(h11.Request(method=method, target=path, headers=sent)))
        if body is not None:
            async for piece in body:
                await connection.send(h11.Data(data=piece))
        await connection.send(h11.EndOfMessage())

    async def _answer(self, connection: _Connection) -> Answer:
        head = await connection.next_event()
        if not isinstance(head, h11.Response) or head.http_version != b"1.1":
            raise h11.RemoteProtocolError("not an answer in HTTP/1.1")
        return Answer(head.status_code, head.headers, self._pieces(connection))

    async def _pieces(self, connection: _Connection) -> AsyncGenerator[bytes]:
        """The body of an answer; when all of it was read, the connection may be used again."""
        try:
            while isinstance(part := await connection.next_event(), h11.Data):
                yield bytes(part.data)
        except FAILURES as error:
            raise UpstreamFailed from error
        finally:
            if connection.is_done() and len(self._idle) < MOST_IDLE:
                connection.http.start_next_cycle()
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
            else:
                connection.writer.close()
