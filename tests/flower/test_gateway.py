"""The gateway serves its port from enter to exit, and says clearly why it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fedserver import gateway as gateway_module
from fedserver.gateway import MAX_BODY_BYTES, STOP_S, FleetOnly, Gateway, GatewayFailed
from fedserver.lean import _serve_public
from tests.flower import pki
from tests.flower.federation import ROOT, wait_until

PUSH = "/v1/fleet/push-object"


class Echo:
    """Stands for the SuperLink's app: gives bodies back, and keeps the headers and what a child would inherit."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.inheritable: set[int] = set()
        self.left = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.headers = dict(scope["headers"])
        self.inheritable = _inheritable()
        body = await receive()
        assert body["more_body"] is False
        if b"wait" in self.headers:
            assert await receive() == {"type": "http.disconnect"}
            self.left.set()
            return
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-kept", b"yes")]})
        await send({"type": "http.response.body", "body": body["body"]})


@contextmanager
def superlink(app: Any) -> Iterator[socket.socket]:
    """fedserver's end of a handover, at whose other end a thread serves the app as the SuperLink's process does."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: asyncio.run(_serve_public(theirs, FleetOnly(app))))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(20)
        theirs.close()
        assert not thread.is_alive()


@pytest.fixture
def app() -> Echo:
    return Echo()


@pytest.fixture
def handover(app: Echo) -> Iterator[socket.socket]:
    with superlink(app) as ours:
        yield ours


def gateway(issued: pki.Pki, handover: socket.socket, port: int = 0, host: str = "127.0.0.1") -> Gateway:
    return Gateway(handover, host=host, port=port, cert=issued.cert, key=issued.key)


def client(issued: pki.Pki, port: int) -> httpx.Client:
    trust = ssl.create_default_context(cafile=issued.ca)
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trust, trust_env=False)


def is_served(issued: pki.Pki, port: int) -> bool:
    with client(issued, port) as web:
        try:
            return web.get("/health").status_code == 201
        except httpx.ConnectError:
            return False


def test_bodies_and_flowers_headers_pass_and_no_credentials_do(
    issued: pki.Pki, handover: socket.socket, app: Echo
) -> None:
    headers = {"flwr-signature": "s", "authorization": "Bearer x", "cookie": "c=1", "x-forwarded-for": "1.2.3.4"}
    with gateway(issued, handover) as running, client(issued, running.port) as web:
        answer = web.post(PUSH, content=bytes(range(256)) * 4096, headers=headers)
    assert answer.status_code == 201
    assert answer.content == bytes(range(256)) * 4096
    assert set(answer.headers) == {"x-kept", "transfer-encoding"}  # nothing of the server or its clock
    assert app.headers[b"flwr-signature"] == b"s"
    assert not {b"authorization", b"cookie", b"x-forwarded-for"} & app.headers.keys()


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_above_the_limit_is_refused(
    issued: pki.Pki, handover: socket.socket, app: Echo, announced: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // (1 << 20) + 1):
            yield bytes(1 << 20)

    with gateway(issued, handover) as running, client(issued, running.port) as web:
        headers = {"content-length": str(MAX_BODY_BYTES + (1 << 20))} if announced else {}
        with suppress(httpx.WriteError, httpx.ReadError):  # refused before all of it was sent
            assert web.post(PUSH, content=pieces(), headers=headers).status_code == 413
        assert app.headers == {}
        assert web.get("/health").status_code == 201


def test_the_app_hears_that_a_site_has_left_while_it_waited(
    issued: pki.Pki, handover: socket.socket, app: Echo
) -> None:
    with gateway(issued, handover) as running:
        with client(issued, running.port) as web, pytest.raises(httpx.ReadTimeout):
            web.post(PUSH, content=b"x", headers={"wait": "1"}, timeout=0.3)
        assert app.left.wait(10)


def test_a_port_in_use_is_named_with_a_remedy(issued: pki.Pki, handover: socket.socket) -> None:
    with (
        gateway(issued, handover) as running,
        pytest.raises(GatewayFailed) as failure,
        gateway(issued, handover, running.port),
    ):
        pass
    assert str(running.port) in failure.value.problem
    assert failure.value.remedy


def test_an_unusable_certificate_is_named(issued: pki.Pki, handover: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    bad = pki.Pki(issued.ca, tmp_path / "bad.pem", issued.key)
    with pytest.raises(GatewayFailed, match=r"bad\.pem"), gateway(bad, handover):
        pass


def test_a_certificate_that_only_the_superlink_cannot_load_fails_there_and_it_lives_on(
    issued: pki.Pki, handover: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "bad.pem").write_text("nothing")
    bad = pki.Pki(issued.ca, tmp_path / "bad.pem", issued.key)
    with monkeypatch.context() as patched:
        patched.setattr(Gateway, "_check_certificate", lambda self: None)
        with pytest.raises(GatewayFailed, match="did not start"), gateway(bad, handover):
            pass
    assert "cannot be served" in caplog.text
    with gateway(issued, handover) as running:
        assert is_served(issued, running.port)


def test_a_name_of_a_file_that_is_no_utf_8_is_handed_over_as_it_is(
    issued: pki.Pki, handover: socket.socket, tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"\xff.pem")
    odd.write_bytes(issued.cert.read_bytes())
    with gateway(pki.Pki(issued.ca, odd, issued.key), handover) as running:
        assert is_served(issued, running.port)


def test_a_port_is_closed_at_the_exit_and_can_be_opened_again(issued: pki.Pki, handover: socket.socket) -> None:
    port = 0
    for _ in range(3):
        with gateway(issued, handover, port) as running:
            assert port in {0, running.port}
            port = running.port
            assert is_served(issued, port)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            pass


def test_an_exit_does_not_wait_for_a_connection_that_says_nothing(issued: pki.Pki, handover: socket.socket) -> None:
    trust = ssl.create_default_context(cafile=issued.ca)
    with gateway(issued, handover) as running:
        address = ("127.0.0.1", running.port)
        mute = socket.create_connection(address)
        idle = trust.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1")
        started = time.monotonic()
    assert time.monotonic() - started < STOP_S
    mute.close()
    idle.close()
    with gateway(issued, handover, running.port):
        assert is_served(issued, running.port)


def test_a_gateway_whose_fedserver_has_gone_serves_no_longer(issued: pki.Pki) -> None:
    with superlink(Echo()) as handover:
        running = gateway(issued, handover)
        running.__enter__()
        assert running._channel is not None
        running._channel.close()  # as the kernel does at the end of a process
        wait_until(lambda: not is_served(issued, running.port))
    running.__exit__(None, None, None)


PROCESS = """
import asyncio, socket, sys
from fedserver.gateway import FleetOnly
from fedserver.lean import _serve_public

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b""})

asyncio.run(_serve_public(socket.socket(fileno=int(sys.argv[1])), FleetOnly(app)))
"""


@contextmanager
def superlink_process() -> Iterator[tuple[socket.socket, psutil.Process]]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [sys.executable, "-c", PROCESS, str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        try:
            yield ours, psutil.Process(process.pid)
        finally:
            process.kill()
            process.wait()


def test_a_superlink_that_dies_takes_its_port_with_it_and_no_exit_waits_for_it(issued: pki.Pki) -> None:
    with superlink_process() as (handover, process):
        started = time.monotonic()
        with gateway(issued, handover) as running:
            assert is_served(issued, running.port)
            process.kill()
            wait_until(lambda: not is_served(issued, running.port))
            started = time.monotonic()
        assert time.monotonic() - started < STOP_S
        with pytest.raises(GatewayFailed, match="did not start"), gateway(issued, handover):
            pass


def test_a_superlink_that_does_not_answer_is_not_waited_for_without_end(
    issued: pki.Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "START_S", 0.2)
    monkeypatch.setattr(gateway_module, "STOP_S", 0.2)
    with superlink_process() as (handover, process):
        process.suspend()
        with pytest.raises(GatewayFailed, match="did not start"), gateway(issued, handover):
            pass
        process.resume()
        monkeypatch.undo()
        with gateway(issued, handover) as running:  # what came too late is not taken for this one's start
            assert is_served(issued, running.port)
            monkeypatch.setattr(gateway_module, "STOP_S", 0.2)
            process.suspend()
        process.resume()


def test_a_listener_that_does_not_start_says_so(issued: pki.Pki) -> None:
    handover, other = socket.socketpair()
    other.close()
    with handover, pytest.raises(GatewayFailed, match="did not start"), gateway(issued, handover):
        pass


def test_what_the_superlink_is_handed_is_not_inherited_by_what_it_starts(
    issued: pki.Pki, handover: socket.socket, app: Echo
) -> None:
    before = _inheritable()
    with gateway(issued, handover) as running:
        assert is_served(issued, running.port)
    assert app.inheritable <= before


def test_no_descriptor_is_left_open(issued: pki.Pki, handover: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nothing")
    bad = pki.Pki(issued.ca, tmp_path / "bad.pem", issued.key)

    def use() -> int:
        with gateway(issued, handover) as running:
            assert is_served(issued, running.port)
            with pytest.raises(GatewayFailed), gateway(issued, handover, running.port):
                pass
        with pytest.raises(GatewayFailed), gateway(bad, handover):
            pass
        return psutil.Process().num_fds()

    before = use()
    assert use() <= before


def test_an_address_of_ip_version_6_is_served(issued: pki.Pki, handover: socket.socket) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    trust = ssl.create_default_context(cafile=issued.ca)
    with gateway(issued, handover, host="::1") as running:
        address = ("::1", running.port)
        with trust.wrap_socket(socket.create_connection(address), server_hostname="127.0.0.1") as channel:
            assert channel.version() == "TLSv1.3"
        with pytest.raises(GatewayFailed, match=str(running.port)), gateway(issued, handover, running.port, "::1"):
            pass


def test_only_tls_1_3_is_spoken(issued: pki.Pki, handover: socket.socket) -> None:
    trust = ssl.create_default_context(cafile=issued.ca)
    trust.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        gateway(issued, handover) as running,
        socket.create_connection(("127.0.0.1", running.port)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        trust.wrap_socket(plain, server_hostname="127.0.0.1")


def _inheritable() -> set[int]:
    """The descriptors that a program started by this process would have."""
    found = set[int]()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with suppress(OSError):
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found
