"""What the gateway lets through to the SuperLink, asked of it directly, without sockets."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedserver import gateway
from fedserver.gateway import FLEET_CALLS, MAX_CONNECTIONS, FleetOnly, Gateway, GatewayFailed
from fedserver.traffic import Traffic
from fedserver.upstream import Answer, Headers, UpstreamFailed
from tests.flower import pki

LIMIT = 1000
PUSH = b"/v1/fleet/push-object"


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> pki.Pki:
    return pki.issue(tmp_path_factory.mktemp("pki"))


@dataclass
class Superlink:
    """Stands for the gateway's upstream: answers everything with 200, and keeps what reached it whole."""

    seen: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    headers: list[dict[bytes, bytes]] = field(default_factory=list)
    is_away: bool = False

    async def send(self, method: bytes, path: bytes, headers: Headers, body: AsyncIterator[bytes] | None) -> Answer:
        if self.is_away:
            raise UpstreamFailed
        content = b"" if body is None else b"".join([piece async for piece in body])
        self.seen.append((method, path, content))
        self.headers.append(dict(headers))
        return Answer(200, [(b"server", b"inner"), (b"date", b"now"), (b"x-kept", b"yes")], self._pieces())

    async def _pieces(self) -> AsyncGenerator[bytes]:
        yield b"ans"
        yield b"wer"


@dataclass
class Public:
    """The gateway in front of it, as its web server would call it."""

    app: FleetOnly
    superlink: Superlink

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
            part, left = next(parts), left - 1
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": left > 0}

        async def send(part: dict[str, Any]) -> None:
            sent.append(part)

        asyncio.run(self.app(scope, receive, send))
        return (sent[0]["status"], dict(sent[0]["headers"])) if sent else (None, {})


@pytest.fixture
def public(issued: pki.Pki) -> Iterator[Public]:
    superlink = Superlink()
    app = FleetOnly("https://127.0.0.1:1", issued.ca, max_body_bytes=LIMIT)
    app._upstream = superlink  # type: ignore[assignment]
    yield Public(app, superlink)


def test_every_call_that_a_site_needs_reaches_the_superlink(public: Public) -> None:
    for call in FLEET_CALLS:
        assert public.ask(b"/v1/fleet/" + call)[0] == 200
    assert public.ask(b"/health", "GET")[0] == 200
    assert len(public.superlink.seen) == len(FLEET_CALLS) + 1


@pytest.mark.parametrize(
    "path",
    [b"", b"/", b"/v1/control/start-run", b"/v1/fleet/", b"/v1/fleet/register-node", b"/v1/fleet/unregister-node",
     b"/v1/fleet//push-object", b"/v1/fleet/push-object/", b"/v1/fleet/push%2dobject", b"/v1/fleet/../control/x",
     b"//v1/fleet/push-object", b"/V1/fleet/push-object"],
)  # fmt: skip
def test_any_other_path_is_nowhere(public: Public, path: bytes) -> None:
    assert public.ask(path)[0] == 404
    assert public.superlink.seen == []


def test_a_query_or_another_method_does_not_pass(public: Public) -> None:
    assert public.ask(PUSH, query=b"x=1")[0] == 404
    assert public.ask(PUSH, "GET")[0] == 405
    assert public.ask(b"/health", "POST")[0] == 405
    assert public.superlink.seen == []


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(public: Public) -> None:
    half = bytes(LIMIT // 2)
    length = (b"content-length", str(LIMIT).encode())
    assert public.ask(PUSH, body=[half, half], headers=[length])[0] == 200
    assert public.ask(PUSH, body=[half, half])[0] == 200
    assert public.ask(PUSH, body=[half, half, b"x"])[0] == 413
    longer = (b"content-length", str(LIMIT + 1).encode())
    assert public.ask(PUSH, body=[], headers=[longer])[0] == 413  # before a byte of it was read
    assert [len(body) for _, _, body in public.superlink.seen] == [LIMIT, LIMIT]


def test_what_a_sender_left_in_the_middle_of_is_not_passed_on_as_whole(public: Public) -> None:
    assert public.ask(PUSH, body=[b"half", None])[0] is None
    assert public.superlink.seen == []


def test_no_credential_or_forwarding_header_goes_in_and_no_server_header_comes_out(public: Public) -> None:
    names = (b"authorization", b"cookie", b"x-forwarded-for", b"forwarded", b"proxy-authorization", b"flwr-signature")
    status, headers = public.ask(PUSH, headers=[(name, b"x") for name in names])
    assert (status, headers[b"x-kept"]) == (200, b"yes")
    assert not {b"server", b"date"} & headers.keys()
    assert [name for name in names if name in public.superlink.headers[0]] == [b"flwr-signature"]


def test_a_superlink_that_is_away_is_worth_another_try(public: Public) -> None:
    public.superlink.is_away = True
    assert public.ask(PUSH)[0] == 503


def test_polls_under_ever_new_keys_do_not_fill_the_memory(issued: pki.Pki, tmp_path: Path) -> None:
    traffic = Traffic.create(tmp_path / "traffic")
    traffic.announce_requests()
    app = FleetOnly("https://127.0.0.1:1", issued.ca, traffic=traffic)
    app._upstream = Superlink()  # type: ignore[assignment]
    public = Public(app, Superlink())
    for number in range(2 * MAX_CONNECTIONS):
        key = (b"flwr-public-key", str(number).encode())
        assert public.ask(b"/v1/fleet/pull-messages", headers=[key])[0] == 200
    assert len(app._polled) <= MAX_CONNECTIONS


def test_the_gateway_trusts_the_internal_ca_alone(issued: pki.Pki) -> None:
    tls = FleetOnly("https://127.0.0.1:1", issued.ca)._upstream.tls
    assert tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname
    assert len(tls.get_ca_certs()) == 1


def test_a_listener_that_does_not_start_says_so(issued: pki.Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = "https://127.0.0.1:1"
    running = Gateway(
        host="127.0.0.1", port=0, cert=issued.cert, key=issued.key, upstream=upstream, upstream_ca=issued.ca
    )
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert len(slept) < 100, "still waiting"

    monkeypatch.setattr(running._server, "run", lambda sockets: None)
    monkeypatch.setattr(gateway, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    with pytest.raises(GatewayFailed, match="did not start"):
        running.__enter__()
    running.__exit__(None, None, None)
