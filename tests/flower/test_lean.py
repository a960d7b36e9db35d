"""A middleware that runs without tasks gives the answers that Starlette's own way of running it gives."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from fedserver import lean

HOT = "/v1/fleet/pull-object"
BODY = bytes(range(256)) * 4000
Dispatch = Callable[[Request, Any], Any]


async def length(request: Request) -> Response:
    """The handler: what arrived of the body, and what the middlewares noted."""
    body = await request.body()
    return JSONResponse({"length": len(body), "noted": getattr(request.state, "noted", [])}, headers={"inner": "1"})


async def in_pieces(_: Request) -> Response:
    return StreamingResponse(iter([b"one", b"", b"two"]), 206)


async def fails(_: Request) -> Response:
    raise ValueError("the handler failed")


async def refuses(_: Request) -> Response:
    raise HTTPException(403, "not you")


async def passes(request: Request, call_next: Any) -> Response:
    return await call_next(request)


async def reads(request: Request, call_next: Any) -> Response:
    request.state.noted = [*getattr(request.state, "noted", []), len(await request.body())]
    return await call_next(request)


async def changes(request: Request, call_next: Any) -> Response:
    response = await call_next(request)
    response.headers["outer"] = response.headers.get("inner", "none")
    response.status_code = 299
    return response


async def answers_itself(request: Request, call_next: Any) -> Response:
    return PlainTextResponse("no further", 401)


async def replaces(request: Request, call_next: Any) -> Response:
    inner = await call_next(request)
    return PlainTextResponse("mine", inner.status_code)


async def translates(request: Request, call_next: Any) -> Response:
    try:
        return await call_next(request)
    except (ValueError, HTTPException) as error:
        return PlainTextResponse(f"caught {error}", 503)


async def raises(request: Request, call_next: Any) -> Response:
    raise HTTPException(401, "who are you")


STACKS: dict[str, list[Dispatch]] = {
    "nothing between": [passes, passes, passes],
    "a body read outside": [reads, passes, reads],
    "headers and status changed": [passes, changes, passes, changes],
    "an answer of a middleware": [changes, passes, answers_itself, reads],
    "an answer replaced": [replaces, changes],
    "an error translated": [changes, translates, reads],
    "an error raised and translated": [translates, passes, raises, reads],
    "an error that nobody translates": [reads, passes],
}


async def answered(stack: list[Dispatch], handler: Any, way: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Status, headers and body of the answer to one request, or the exception that came out."""
    monkeypatch.setattr(BaseHTTPMiddleware, "__call__", way)
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=each) for each in stack]
    app = Starlette(routes=[Route(HOT, handler, methods=["POST"])], middleware=middleware)
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="https://superlink") as client:
        try:
            response = await client.post(HOT, content=BODY)
        except Exception as error:
            return type(error), str(error)
        return response.status_code, sorted(response.headers.items()), response.content


@pytest.mark.parametrize("handler", [length, in_pieces, fails, refuses])
@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_each_stack_of_middlewares_answers_as_it_would_with_tasks(
    stack: list[Dispatch], handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tasks = asyncio.run(answered(stack, handler, lean._with_tasks, monkeypatch))
    assert asyncio.run(answered(stack, handler, lean.run_middleware, monkeypatch)) == with_tasks


def test_a_path_that_may_stream_goes_the_way_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    async def way(middleware: Any, scope: Any, receive: Any, send: Any) -> None:
        taken.append(scope["path"])

    monkeypatch.setattr(lean, "_with_tasks", way)
    for path in ("/v1/runtime/responses", "/v1/control/stream-logs", HOT + "/", "/health"):
        scope = {"type": "http", "path": path}
        asyncio.run(lean.run_middleware(SimpleNamespace(), scope, None, None))  # type: ignore[arg-type]
    assert taken == ["/v1/runtime/responses", "/v1/control/stream-logs", HOT + "/", "/health"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"type": "http.response.body", "body": b""}],
        [{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "more_body": True}],
    ],
)
def test_what_is_no_whole_answer_is_an_error(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(RuntimeError, match="no whole answer"):
        lean.Whole(messages)  # type: ignore[arg-type]


def test_flower_answers_each_of_these_paths_with_one_message() -> None:
    main = pytest.importorskip("flwr.superlink.main")
    found = {
        context.path: context.route.endpoint
        for context in iter_route_contexts(main.create_app().routes)
        if isinstance(context.route, APIRoute)
    }
    assert set(found) >= lean.UNARY
    for path in lean.UNARY:
        answer = str(found[path].__annotations__["return"])
        assert answer.endswith("Response") or answer.endswith("Response'>"), answer


def test_the_launched_console_script_is_flowers_own() -> None:
    with socket.socket() as control:
        command = [sys.executable, "-P", lean.__file__, str(control.fileno()), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, pass_fds=[control.fileno()])
    assert done.stdout.startswith("Flower version: ")
