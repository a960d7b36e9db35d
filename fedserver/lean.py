"""Flower's SuperLink as fedserver runs it: its console script, with two listeners and less work per request.

    python -P lean.py DESCRIPTOR OPTIONS OF flower-superlink

Flower's app is served on loopback, as the options say. DESCRIPTOR is a Unix socket; by it fedserver hands over
the public one, on which the same app is served behind the gateway (gateway.py). Both go through bundles.py.

Flower passes each request through ten of Starlette's BaseHTTPMiddleware, and each starts tasks and a memory
stream so that an answer may be streamed: that takes most of the SuperLink's time. The calls of a round have one
answer, known whole when the handler ends. For these every middleware still runs, in its order and with what it
would be given, but as a plain call. Every other request goes the way it came.

A full collection of garbage stops the SuperLink for a tenth of a second, nearly all of it over what Flower has
imported. What is there at the first request is not looked at again.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from fedserver.bundles import Bundles
from fedserver.gateway import STARTED, FleetOnly, public_config

LOOK_S: Final = 0.01
DESCRIPTORS: Final = 1 << 16  # or strangers on the public port would soon leave none for the ServerApp's calls
SETTINGS: Final = ("host", "port", "log_config", "ssl_keyfile", "ssl_certfile")  # of uvicorn.run, that are kept
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SHARED: Final = ("push-messages", "pull-messages", "push-object", "pull-object", "confirm-message-received")
_BESIDE: Final = ("/v1/fleet/send-node-heartbeat", "/v1/runtime/get-nodes", "/v1/runtime/acquire-task")
UNARY: Final = frozenset(f"/v1/{side}/{call}" for side in ("fleet", "runtime") for call in _SHARED) | {*_BESIDE}
_with_tasks: Final = BaseHTTPMiddleware.__call__

logger = logging.getLogger(__name__)


class Whole(Response):
    """An inner app's answer, sent on as it came."""

    def __init__(self, messages: list[Message]) -> None:
        """messages: all that the app sent. Raises RuntimeError if that is no whole answer."""
        if not messages or messages[0]["type"] != "http.response.start" or messages[-1].get("more_body", False):
            raise RuntimeError("the app gave no whole answer")
        self._body_messages = messages[1:]
        self.status_code = messages[0]["status"]
        self.raw_headers = list(messages[0].get("headers", ()))
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, with what a middleware made of its status and headers."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for message in self._body_messages:
            await send(message)


async def run_middleware(middleware: BaseHTTPMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
    """What BaseHTTPMiddleware does with a request; without tasks if its path is in UNARY."""
    if scope["type"] != "http" or scope["path"] not in UNARY:
        await _with_tasks(middleware, scope, receive, send)
        return
    request, is_passed_on = Request(scope, receive), False

    async def receive_again() -> Message:
        """The body that the middleware has read, once; else what comes."""
        nonlocal is_passed_on
        if is_passed_on or not hasattr(request, "_body"):
            return await receive()
        is_passed_on = True
        return {"type": "http.request", "body": await request.body(), "more_body": False}

    async def call_next(_: Request) -> Response:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await middleware.app(scope, receive_again, keep)
        return Whole(messages)

    response = await middleware.dispatch_func(request, call_next)
    await response(scope, receive, send)


def install() -> None:
    """Has every middleware of this process run by `run_middleware`, and freezes the heap at the first request."""

    async def at_first(middleware: BaseHTTPMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            BaseHTTPMiddleware.__call__ = run_middleware  # type: ignore[method-assign]
            gc.collect()
            gc.freeze()
        await run_middleware(middleware, scope, receive, send)

    BaseHTTPMiddleware.__call__ = at_first  # type: ignore[method-assign]


def serve(control: socket.socket, app: FastAPI, **settings: Any) -> None:
    """Stands for `uvicorn.run`, which the console script ends with: serves until a signal comes."""
    whole = Bundles(app)
    known = {name: settings[name] for name in SETTINGS}
    config = uvicorn.Config(whole, interface="asgi3", ws="none", access_log=False, proxy_headers=False, **known)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # no stranger fills the log with broken requests

    async def run() -> None:
        server = uvicorn.Server(config)
        public = asyncio.create_task(_serve_public(control, FleetOnly(whole)))
        public.add_done_callback(lambda _: setattr(server, "should_exit", True))
        await server.serve()
        public.cancel()
        with suppress(asyncio.CancelledError):
            await public

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


class PublicServer(uvicorn.Server):
    """A second server of the process: the first one has the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


async def _serve_public(control: socket.socket, app: FleetOnly) -> None:
    """Serves each listener that fedserver hands over, one after the other, until fedserver closes its end."""
    while True:
        await _readable(control)
        files, descriptors, *_ = socket.recv_fds(control, 1 << 16, 2)
        if not descriptors:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        cert, key = map(os.fsdecode, files.split(b"\0"))
        listener, channel = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        with channel, listener:
            try:
                await _serve_listener(listener, channel, public_config(app, cert, key))
            except OSError as error:
                logger.error("the public listener cannot be served: %s", error)


async def _serve_listener(listener: socket.socket, channel: socket.socket, config: uvicorn.Config) -> None:
    """Serves until fedserver closes its end of the channel; ours is closed when the port is. Raises OSError."""
    server = PublicServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not (server.started or serving.done()):
            await asyncio.sleep(LOOK_S)
        if server.started:
            channel.sendall(STARTED)
            await _readable(channel)
    finally:
        server.should_exit = True
        await serving


async def _readable(control: socket.socket) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(control, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(control)


def _allow_many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> None:
    """Runs the console script."""
    _allow_many_descriptors()
    control = socket.socket(fileno=int(sys.argv.pop(1)))
    control.set_inheritable(False)
    [script] = entry_points(group="console_scripts", name="flower-superlink")
    superlink = script.load()
    install()
    uvicorn.run = partial(serve, control)
    sys.argv[0] = "flower-superlink"
    sys.exit(superlink())


if __name__ == "__main__":
    main()
