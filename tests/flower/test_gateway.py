"""The gateway forwards what it must, bounds what it forwards, and says clearly why it cannot start."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from fedserver.gateway import HOLD_S, FleetOnly, Gateway, GatewayFailed
from fedserver.traffic import Traffic
from tests.flower import pki
from tests.flower.federation import wait_until

LIMIT = 64 << 20


class Upstream:
    """A tiny TLS server that echoes bodies and keeps the headers of the last request."""

    def __init__(self, issued: pki.Pki) -> None:
        self.headers: dict[bytes, bytes] = {}
        config = uvicorn.Config(
            self.answer,
            ssl_certfile=issued.cert,
            ssl_keyfile=str(issued.key),
            log_config=None,
            lifespan="off",
            interface="asgi3",
        )
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        wait_until(lambda: self.server.started)

    async def answer(self, scope, receive, send) -> None:
        self.headers, parts, more = dict(scope["headers"]), list[bytes](), True
        while more:
            part = await receive()
            parts.append(part.get("body", b""))
            more = part.get("more_body", False)
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-kept", b"yes")]})
        await send({"type": "http.response.body", "body": b"".join(parts)})

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> pki.Pki:
    return pki.issue(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def upstream(issued: pki.Pki) -> Iterator[Upstream]:
    running = Upstream(issued)
    yield running
    running.stop()


def gateway(issued: pki.Pki, upstream: str, port: int = 0, traffic: Traffic | None = None) -> Gateway:
    return Gateway(
        host="127.0.0.1",
        port=port,
        cert=issued.cert,
        key=issued.key,
        upstream=upstream,
        upstream_ca=issued.ca,
        traffic=traffic,
    )


def client(issued: pki.Pki, running: Gateway) -> httpx.Client:
    trust = ssl.create_default_context(cafile=issued.ca)
    return httpx.Client(base_url=f"https://127.0.0.1:{running.port}", verify=trust, trust_env=False)


def test_bodies_and_flowers_headers_pass_and_no_credentials_do(issued: pki.Pki, upstream: Upstream) -> None:
    headers = {
        "flwr-signature": "s",
        "authorization": "Bearer x",
        "cookie": "c=1",
        "x-forwarded-for": "1.2.3.4",
    }
    with gateway(issued, upstream.url) as running, client(issued, running) as web:
        answer = web.post("/v1/fleet/push-object", content=bytes(range(256)) * 4096, headers=headers)
    assert (answer.status_code, answer.headers["x-kept"]) == (201, "yes")
    assert answer.content == bytes(range(256)) * 4096
    assert upstream.headers[b"flwr-signature"] == b"s"
    assert not {b"authorization", b"cookie", b"x-forwarded-for"} & upstream.headers.keys()


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_above_the_limit_is_refused(issued: pki.Pki, upstream: Upstream, announced: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(LIMIT // (1 << 20) + 1):
            yield bytes(1 << 20)

    with gateway(issued, upstream.url) as running, client(issued, running) as web:
        headers = {"content-length": str(LIMIT + (1 << 20))} if announced else {}
        try:
            assert web.post("/v1/fleet/push-object", content=pieces(), headers=headers).status_code == 413
        except (httpx.WriteError, httpx.ReadError):
            assert announced  # refused before the body was read


def test_an_upload_that_trickles_ends_with_408(issued: pki.Pki, upstream: Upstream) -> None:
    sent: list[dict] = []

    async def trickle() -> dict:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def upload() -> None:
        async def send(part: dict) -> None:
            sent.append(part)

        scope = {"type": "http", "method": "POST", "raw_path": b"/v1/fleet/push-object", "query_string": b""}
        await FleetOnly(upstream.url, issued.ca, body_s=0.2)(scope | {"headers": []}, trickle, send)

    asyncio.run(asyncio.wait_for(upload(), 5))
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_superlink_that_is_away_reads_as_503(issued: pki.Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"https://127.0.0.1:{free.getsockname()[1]}"
    with gateway(issued, url) as running, client(issued, running) as web:
        assert web.post("/v1/fleet/pull-messages").status_code == 503


def test_a_port_in_use_is_named_with_a_remedy(issued: pki.Pki, upstream: Upstream) -> None:
    with (
        gateway(issued, upstream.url) as running,
        pytest.raises(GatewayFailed) as failure,
        gateway(issued, upstream.url, running.port),
    ):
        pass
    assert str(running.port) in failure.value.problem
    assert failure.value.remedy


def test_an_unusable_certificate_is_named(issued: pki.Pki, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    bad = pki.Pki(issued.ca, tmp_path / "bad.pem", issued.key)
    with pytest.raises(GatewayFailed, match=r"bad\.pem"), gateway(bad, upstream.url):
        pass


def test_a_stopped_gateway_frees_its_port(issued: pki.Pki, upstream: Upstream) -> None:
    with gateway(issued, upstream.url) as first:
        port = first.port
    with gateway(issued, upstream.url, port) as second:
        assert second.port == port


def test_uploads_are_counted_and_polls_are_not(issued: pki.Pki, upstream: Upstream, tmp_path: Path) -> None:
    traffic = Traffic.create(tmp_path / "traffic")
    with gateway(issued, upstream.url, traffic=traffic) as running, client(issued, running) as web:
        web.post("/v1/fleet/pull-messages")
        assert (traffic.read().begun, traffic.read().ended) == (0, 0)
        web.post("/v1/fleet/push-object", content=b"x")
        wait_until(lambda: traffic.read().ended == 1)
        wait_until(lambda: traffic.read().is_quiet)


def test_a_poll_is_held_until_the_server_has_pushed(issued: pki.Pki, upstream: Upstream, tmp_path: Path) -> None:
    traffic = Traffic.create(tmp_path / "traffic")
    with gateway(issued, upstream.url, traffic=traffic) as running, client(issued, running) as web:

        def seconds(key: str) -> float:
            return web.post("/v1/fleet/pull-messages", headers={"flwr-public-key": key}).elapsed.total_seconds()

        assert [seconds("a") < HOLD_S, seconds("a") < HOLD_S] == [True, True]  # nobody announces: never held
        traffic.announce_requests()
        assert seconds("a") < HOLD_S
        assert seconds("a") >= HOLD_S
        assert seconds("b") < HOLD_S
        pushed = threading.Timer(HOLD_S / 4, traffic.announce_requests)
        pushed.start()
        assert HOLD_S / 4 <= seconds("a") < HOLD_S


def test_only_tls_1_3_is_spoken(issued: pki.Pki, upstream: Upstream) -> None:
    trust = ssl.create_default_context(cafile=issued.ca)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        gateway(issued, upstream.url) as running,
        socket.create_connection(("127.0.0.1", running.port)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        trust.wrap_socket(plain, server_hostname="127.0.0.1")
