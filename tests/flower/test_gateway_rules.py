"""What the gateway lets through to the SuperLink's app, asked of it directly, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from fedclient.bundle import PULL
from fedserver.gateway import FLEET_CALLS, MAX_CALL_BYTES, FleetOnly

LIMIT = 1000
PUSH = b"/v1/fleet/push-object"


@dataclass
class App:
    """Stands for the SuperLink's app: answers everything with 200, and keeps what it is given until its caller left."""

    seen: list[tuple[str, bytes]] = field(default_factory=list)
    scopes: list[dict[str, Any]] = field(default_factory=list)
    given: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.given.append(await receive())
        self.seen.append((scope["path"], self.given[-1]["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kept", b"yes")]})
        await send({"type": "http.response.body", "body": b"answer"})


@dataclass
class Public:
    """The gateway around it, as its web server would call it."""

    app: App
    gateway: FleetOnly

    def ask(
        self, path: bytes, method: str = "POST", *, query: bytes = b"", body: Sequence[Any] = (b"",),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[int | None, dict[bytes, bytes]]:  # fmt: skip
        """Status and headers; None if nothing was answered. A part of the body that is None: the sender left."""
        parts = iter(body)
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "method": method, "raw_path": path, "path": path.decode("latin-1").replace("%2d", "-"),
            "query_string": query, "headers": list(headers),
        }  # fmt: skip
        left = len(body)

        async def receive() -> dict[str, Any]:
            nonlocal left
            part, left = next(parts, None), left - 1
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": left > 0}

        async def send(part: Any) -> None:
            sent.append(part)

        asyncio.run(self.gateway(scope, receive, send))
        return (sent[0]["status"], dict(sent[0]["headers"])) if sent else (None, {})


@pytest.fixture
def public() -> Public:
    app = App()
    return Public(app, FleetOnly(app, max_body_bytes=LIMIT))


def test_every_call_that_a_site_needs_reaches_the_superlink(public: Public) -> None:
    paths = [b"/v1/fleet/" + call for call in FLEET_CALLS]
    assert b"/v1/fleet/" + PULL.encode() in paths
    for path in paths:
        assert public.ask(path) == (200, {b"x-kept": b"yes"})
    assert public.ask(b"/health", "GET")[0] == 200
    assert [path for path, _ in public.app.seen] == [*(path.decode() for path in paths), "/health"]


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"/v1/control/start-run", b"/v1/fleet/", b"/v1/fleet/register-node", b"/v1/fleet/unregister-node",
     b"/v1/fleet//push-object", b"/v1/fleet/push-object/", b"/v1/fleet/push%2dobject", b"/v1/fleet/../control/x",
     b"//v1/fleet/push-object", b"/V1/fleet/push-object", b"/v1/runtime/push-bundle", b"/v1/runtime/pull-bundle"],
)  # fmt: skip
def test_any_other_path_is_nowhere(public: Public, path: bytes) -> None:
    assert public.ask(path)[0] == 404
    assert public.app.seen == []


def test_a_query_or_another_method_does_not_pass(public: Public) -> None:
    assert public.ask(PUSH, query=b"x=1")[0] == 404
    assert public.ask(PUSH, "GET")[0] == 405
    assert public.ask(b"/health", "POST")[0] == 405
    assert public.app.seen == []


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(public: Public) -> None:
    half = bytes(LIMIT // 2)
    length = (b"content-length", str(LIMIT).encode())
    assert public.ask(PUSH, body=[half, half], headers=[length])[0] == 200
    assert public.ask(PUSH, body=[half, half])[0] == 200
    assert public.ask(PUSH, body=[half, half, b"x"])[0] == 413
    longer = (b"content-length", str(LIMIT + 1).encode())
    assert public.ask(PUSH, body=[None], headers=[longer])[0] == 413  # before a byte of it was read
    assert [len(body) for _, body in public.app.seen] == [LIMIT, LIMIT]


def test_what_a_sender_left_in_the_middle_of_is_not_passed_on_as_whole(public: Public) -> None:
    assert public.ask(PUSH, body=[b"half", None])[0] is None
    assert public.app.seen == []


def test_a_body_reaches_the_app_whole_and_once_and_then_that_its_sender_left() -> None:
    given: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend([await receive(), await receive()])

    assert Public(App(), FleetOnly(app)).ask(PUSH, body=[b"in", b" two ", b"parts"])[0] is None
    whole = {"type": "http.request", "body": b"in two parts", "more_body": False}
    assert given == [whole, {"type": "http.disconnect"}]


@pytest.mark.parametrize("call", FLEET_CALLS)
def test_only_calls_with_objects_may_be_large(call: bytes) -> None:
    public = Public(App(), FleetOnly(App()))
    length = (b"content-length", str(MAX_CALL_BYTES + 1).encode())
    is_large = call in {b"push-object", b"push-bundle"}
    assert public.ask(b"/v1/fleet/" + call, body=[bytes(MAX_CALL_BYTES), b"x"])[0] == (200 if is_large else 413)
    assert public.ask(b"/v1/fleet/" + call, body=[b""], headers=[length])[0] == (200 if is_large else 413)


def test_no_credential_or_forwarding_header_goes_in_and_flowers_own_do(public: Public) -> None:
    names = (b"authorization", b"cookie", b"x-forwarded-for", b"forwarded", b"proxy-authorization", b"flwr-signature")
    assert public.ask(PUSH, headers=[(name, b"x") for name in names])[0] == 200
    assert public.app.scopes[0]["headers"] == [(b"flwr-signature", b"x")]


@pytest.mark.parametrize(("path", "body"), [(b"/", [b""]), (b"/health", [b""]), (PUSH, [bytes(LIMIT), b"x", b"more"])])
def test_a_refusal_ends_the_connection_so_that_the_rest_of_a_body_is_not_waited_for(
    public: Public, path: bytes, body: list[bytes]
) -> None:
    status, headers = public.ask(path, body=body)
    assert status in {404, 405, 413}
    assert headers[b"connection"] == b"close"


def test_an_upload_that_trickles_ends_with_408() -> None:
    app, sent = App(), list[dict[str, Any]]()

    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(part: Any) -> None:
        sent.append(part)

    scope = {"type": "http", "method": "POST", "raw_path": PUSH, "query_string": b"", "headers": []}
    asyncio.run(asyncio.wait_for(FleetOnly(app, body_s=0.2)(scope, trickle, send), 5))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert app.seen == []


def test_an_app_that_takes_long_is_not_cut_off_by_the_limit_on_a_bodys_time() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.3)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert Public(App(), FleetOnly(app, body_s=0.1)).ask(PUSH)[0] == 200
