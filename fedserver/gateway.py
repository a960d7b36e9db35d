"""The only public listener: TLS in, Fleet calls and /health through to the loopback SuperLink, no other path.

Flower serves its Fleet, Control and Runtime interfaces on one port, and only the first is for sites. So the
SuperLink stays on loopback behind this.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import uvicorn

from fedclient.packets import OBJECTS_HEADER
from fedserver.traffic import Traffic
from fedserver.uploads import ANNOUNCEMENT, OBJECT, Uploads
from fedserver.upstream import Answer, Upstream, UpstreamFailed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What a site's agent or a stock SuperNode needs, compared with the raw path, so that %2e, //, .., a query or a
# trailing slash never pass. No register-node: keys come from the roster.
FLEET_CALLS: Final = (
    b"activate-node deactivate-node send-node-heartbeat pull-messages push-messages pull-object push-object "
    b"confirm-message-received get-run get-fab"
).split()
METHOD_OF_PATH: Final = {b"/v1/fleet/" + call: "POST" for call in FLEET_CALLS} | {b"/health": "GET"}
POLL: Final = b"/v1/fleet/pull-messages"
NODE_KEY: Final = b"flwr-public-key"
OBJECTS: Final = OBJECTS_HEADER.encode("ascii")
HOLD_S: Final = 1.0
LOOK_S: Final = 0.005
MAX_BODY_BYTES: Final = 64 << 20  # one object: Flower cuts an Array into pieces of 5 MiB
BODY_S: Final = 120.0  # for a whole body, so that nobody holds a connection with a byte now and then
MAX_CONNECTIONS: Final = 512
KEEP_ALIVE_S: Final = 75
OK: Final = 200
REQUEST_TIMEOUT: Final = 408
START_S: Final = 15.0
STOP_S: Final = 5.0
HOP_BY_HOP: Final = frozenset(b"connection keep-alive proxy-authorization te trailer transfer-encoding upgrade".split())
NOT_FORWARDED: Final = (
    HOP_BY_HOP
    | frozenset(
        b"host expect cookie authorization forwarded x-forwarded-for x-forwarded-host x-forwarded-proto".split()
    )
    | {OBJECTS}
)
NOT_RETURNED: Final = HOP_BY_HOP | {b"server", b"date"}


class GatewayFailed(Exception):
    """The public port cannot be served: what is wrong, and what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy


class FleetOnly:
    """The ASGI app: checks path, method and size, then streams both ways.

    upstream: https://127.0.0.1:PORT of the SuperLink. upstream_ca: PEM file of its internal CA.
    """

    def __init__(
        self,
        upstream: str,
        upstream_ca: Path,
        *,
        traffic: Traffic | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_s: float = BODY_S,
    ) -> None:
        self._upstream = Upstream(upstream, ssl.create_default_context(cafile=upstream_ca))
        self._traffic = traffic
        self._uploads = None if traffic is None else Uploads(traffic)
        self._max_body_bytes, self._body_s = max_body_bytes, body_s
        self._polled: dict[bytes, int] = {}  # node key -> how often the server had pushed at its last poll
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request."""
        if scope["type"] == "lifespan":
            return await self._live(receive, send)
        status = self._refusal(scope)
        if status is None:
            status = await self._watch(scope, receive, send)
        if status is not None:
            await _answer(send, status)
        return None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._upstream.close()
        await send({"type": "lifespan.shutdown.complete"})

    def _refusal(self, scope: Scope) -> int | None:
        """The HTTP status to refuse with, or None if the request may pass."""
        path = scope.get("raw_path") or b""
        if path not in METHOD_OF_PATH or scope["query_string"]:
            return 404
        if scope["method"] != METHOD_OF_PATH[path]:
            return 405
        length = _content_length(scope)
        return 413 if length is not None and length > self._max_body_bytes else None

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Passes the request on; counts it if it uploads, holds it if it polls in vain."""
        path = scope["raw_path"]
        if self._traffic is not None and path == POLL:
            return await self._poll(self._traffic, scope, receive, send)
        if self._uploads is not None and path in (ANNOUNCEMENT, OBJECT):
            return await self._upload(self._uploads, scope, receive, send)
        return await self._forward(scope, receive, send)

    async def _upload(self, uploads: Uploads, scope: Scope, receive: Receive, send: Send) -> int | None:
        node, objects = _value(scope, NODE_KEY), _value(scope, OBJECTS)
        status = 0

        async def noting(part: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = part.get("status", status)
            await send(part)

        uploads.begin(node)
        try:
            return await self._forward(scope, receive, noting)
        finally:
            is_stored = status == OK
            uploads.end(scope["raw_path"], node, is_stored, int(objects) if objects.isdigit() else 0)

    async def _poll(self, traffic: Traffic, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Passes a poll on once the server has pushed requests since the last one, or after HOLD_S."""
        site = _value(scope, NODE_KEY)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HOLD_S
        self._held += 1
        try:
            while traffic.read().requests == self._polled.get(site) and loop.time() < deadline:
                await asyncio.sleep(LOOK_S * (1 + self._held / 8))
        finally:
            self._held -= 1
        requests = traffic.read().requests
        status = await self._forward(scope, receive, send)
        if status is None and requests:  # zero: a ServerApp that does not announce, so its sites never wait
            self._remember(site, requests)
        return status

    def _remember(self, site: bytes, requests: int) -> None:
        if len(self._polled) >= MAX_CONNECTIONS:
            self._polled.clear()
        self._polled[site] = requests

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> int | None:
        """Passes the request on; an HTTP status if there is nothing to pass back."""
        headers = [(name, value) for name, value in scope["headers"] if name not in NOT_FORWARDED]
        body = self._body(receive) if scope["method"] == "POST" else None
        try:
            answer = await self._upstream.send(scope["method"].encode(), scope["raw_path"], headers, body)
        except _TooLarge:
            return 413
        except _TooSlow:
            return REQUEST_TIMEOUT
        except _Gone:
            return None
        except UpstreamFailed:
            return 503  # Flower's clients try again after 502, 503 and 504, and give up after 500
        await _pass_back(answer, send)
        return None

    async def _body(self, receive: Receive) -> AsyncIterator[bytes]:
        taken, more, deadline = 0, True, asyncio.get_running_loop().time() + self._body_s
        while more:
            part = await _before(deadline, receive)
            if part["type"] == "http.disconnect":
                raise _Gone
            chunk, more = part.get("body", b""), part.get("more_body", False)
            taken += len(chunk)
            if taken > self._max_body_bytes:
                raise _TooLarge
            yield chunk


class Gateway:
    """The public listener as a context manager: serves in a thread from enter to exit.

    host, port: where the sites connect; port 0 takes a free one, see `port`. cert, key: PEM files of the
    public certificate. upstream, upstream_ca: see FleetOnly. Raises GatewayFailed.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        cert: Path,
        key: Path,
        upstream: str,
        upstream_ca: Path,
        traffic: Traffic | None = None,
    ) -> None:
        self._host, self._port, self._cert = host, port, cert
        self._config = uvicorn.Config(
            FleetOnly(upstream, upstream_ca, traffic=traffic),
            interface="asgi3",
            proxy_headers=False,
            ssl_certfile=cert,
            ssl_keyfile=str(key),
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(self._config)
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._socket: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is served."""
        return self._port

    def __enter__(self) -> Self:
        self._load_certificate()
        self._socket = self._listen()
        self._port = self._socket.getsockname()[1]
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise GatewayFailed("the public listener did not start", "start fedserver again")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_S)
        if self._socket is not None:
            self._socket.close()

    def _load_certificate(self) -> None:
        try:
            self._config.load()
        except (OSError, ssl.SSLError) as error:
            raise GatewayFailed(
                f"{self._cert} and its key are not a usable certificate", "make them again with fedkeys"
            ) from error
        if self._config.ssl is not None:
            self._config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family, backlog=256)
        except OSError as error:
            raise GatewayFailed(
                f"cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                "stop what uses that port, or choose another address with --listen",
            ) from error

    def _run(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket else None)


class _TooLarge(Exception):
    """The request's body is over the limit."""


class _TooSlow(Exception):
    """The request's body did not come in time."""


class _Gone(Exception):
    """The client left in the middle of its request."""


def _value(scope: Scope, name: bytes) -> bytes:
    return next((value for each, value in scope["headers"] if each == name), b"")


def _content_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None


async def _before(deadline: float, receive: Receive) -> MutableMapping[str, Any]:
    try:
        async with asyncio.timeout_at(deadline):
            return await receive()
    except TimeoutError as error:
        raise _TooSlow from error


async def _pass_back(answer: Answer, send: Send) -> None:
    kept = [(name, value) for name, value in answer.headers if name not in NOT_RETURNED]
    await send({"type": "http.response.start", "status": answer.status, "headers": kept})
    last = b""
    async with aclosing(answer.pieces) as pieces:
        async for piece in pieces:
            if last:
                await send({"type": "http.response.body", "body": last, "more_body": True})
            last = piece
    await send({"type": "http.response.body", "body": last})


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0")]
    if status == REQUEST_TIMEOUT:
        headers.append((b"connection", b"close"))  # else the rest of the body would be waited for
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
