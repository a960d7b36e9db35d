"""The only public listener: TLS in, Fleet calls and /health through to the SuperLink's app, no other path.

Flower serves its Fleet, Control and Runtime interfaces on one port, and only the first is for sites. So that port
stays on loopback, and the SuperLink's process serves its app a second time behind this (lean.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn

from fedclient.bundle import PULL, PUSH

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# What a site's agent or a stock SuperNode needs, compared with the raw path, so that %2e, //, .., a query or a
# trailing slash never pass. No register-node: keys come from the roster.
FLEET_CALLS: Final = (
    *b"activate-node deactivate-node send-node-heartbeat pull-messages push-messages pull-object push-object".split(),
    *b"confirm-message-received get-run get-fab".split(),
    PULL.encode(),
    PUSH.encode(),
)
METHOD_OF_PATH: Final = {b"/v1/fleet/" + call: "POST" for call in FLEET_CALLS} | {b"/health": "GET"}
WITH_OBJECTS: Final = frozenset({b"/v1/fleet/push-object", b"/v1/fleet/" + PUSH.encode()})
MAX_BODY_BYTES: Final = 16 << 20  # of a call with objects: a piece of 5 MiB of an Array, a head of 4 MiB, a bundle
MAX_CALL_BYTES: Final = 2 << 20  # of any other call: the names of 4096 objects at most
BODY_S: Final = 120.0  # for a whole body, so that nobody holds a connection with a byte now and then
MAX_CONNECTIONS: Final = 512
KEEP_ALIVE_S: Final = 75
REQUEST_TIMEOUT: Final = 408
START_S: Final = 15.0
STOP_S: Final = 5.0
STARTED: Final = b"s"  # what the SuperLink's process says of a listener that it was handed, once it serves it
NOT_FORWARDED: Final = frozenset(
    b"connection keep-alive proxy-authorization te trailer upgrade expect cookie authorization forwarded "
    b"x-forwarded-for x-forwarded-host x-forwarded-proto".split()
)


class GatewayFailed(Exception):
    """The public port cannot be served: what is wrong, and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy


class FleetOnly:
    """The ASGI app: checks path, method and size, reads the body, and gives both to `app`."""

    def __init__(self, app: App, *, max_body_bytes: int = MAX_BODY_BYTES, body_s: float = BODY_S) -> None:
        self._app = app
        self._max_body_bytes, self._body_s = max_body_bytes, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request."""
        status = self._refusal(scope)
        if status is None:
            status = await self._forward(scope, receive, send)
        if status is not None:
            await _answer(send, status)

    def _refusal(self, scope: Scope) -> int | None:
        """The HTTP status to refuse with, or None if the request may pass."""
        path = scope.get("raw_path") or b""
        if path not in METHOD_OF_PATH or scope["query_string"]:
            return 404
        if scope["method"] != METHOD_OF_PATH[path]:
            return 405
        length = _content_length(scope)
        return 413 if length is not None and length > self._most(scope) else None

    def _most(self, scope: Scope) -> int:
        """Bytes that the body may have."""
        most = MAX_BODY_BYTES if scope["raw_path"] in WITH_OBJECTS else MAX_CALL_BYTES
        return min(most, self._max_body_bytes)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Passes the request on, whole; an HTTP status if it did not come whole."""
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._body(receive, self._most(scope))
        except _TooLarge:
            return 413
        except TimeoutError:
            return REQUEST_TIMEOUT
        except _Gone:
            return None
        headers = [(name, value) for name, value in scope["headers"] if name not in NOT_FORWARDED]
        is_given = False

        async def receive_whole() -> MutableMapping[str, Any]:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app({**scope, "headers": headers}, receive_whole, send)
        return None

    async def _body(self, receive: Receive, most: int) -> bytes:
        pieces, taken, more = list[bytes](), 0, True
        while more:
            part = await receive()
            if part["type"] == "http.disconnect":
                raise _Gone
            more = part.get("more_body", False)
            pieces.append(part.get("body", b""))
            taken += len(pieces[-1])
            if taken > most:
                raise _TooLarge
        return b"".join(pieces)


class Gateway:
    """The public listener as a context manager: the SuperLink's process serves it from enter to exit.

    handover: SuperLink.handover. host, port: where the sites connect; port 0 takes a free one, see `port`.
    cert, key: PEM files of the public certificate. Raises GatewayFailed.
    """

    def __init__(self, handover: socket.socket, *, host: str, port: int, cert: Path, key: Path) -> None:
        self._handover, self._host, self._port, self._cert, self._key = handover, host, port, cert, key
        self._channel: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is served."""
        return self._port

    def __enter__(self) -> Self:
        self._check_certificate()
        with self._listen() as listener:
            self._port = listener.getsockname()[1]
            self._channel = self._hand_over(listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._channel is None:
            return
        with self._channel as channel, suppress(OSError):
            channel.settimeout(STOP_S)
            channel.shutdown(socket.SHUT_WR)
            channel.recv(1)  # the end of the stream, once the port is closed or the process has ended

    def _hand_over(self, listener: socket.socket) -> socket.socket:
        """Our end of a channel by which both sides hear that the other one is done with the listener."""
        files = b"\0".join(os.fsencode(path.resolve()) for path in (self._cert, self._key))
        ours, theirs = socket.socketpair()
        ours.settimeout(START_S)
        self._handover.settimeout(START_S)
        try:
            with theirs:
                socket.send_fds(self._handover, [files], [listener.fileno(), theirs.fileno()])
            if ours.recv(1) == STARTED:
                return ours
        except OSError:
            pass  # the process has ended, or does not answer
        except BaseException:
            ours.close()
            raise
        ours.close()
        raise GatewayFailed("the public listener did not start", "start fedserver again")

    def _check_certificate(self) -> None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            raise GatewayFailed(
                f"{self._cert} and its key are not a usable certificate", "make them again with fedkeys"
            ) from error

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family, backlog=256)
        except OSError as error:
            raise GatewayFailed(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                "stop what uses that port, or choose another address with --listen",
            ) from error


def public_config(app: FleetOnly, cert: str, key: str) -> uvicorn.Config:
    """How the public listener is served: TLS 1.3 alone, and nothing said of who serves it."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        proxy_headers=False,
        ssl_certfile=cert,
        ssl_keyfile=key,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


class _TooLarge(Exception):
    """The request's body is over the limit."""


class _Gone(Exception):
    """The client left in the middle of its request."""


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]  # else the rest of a body would be waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
