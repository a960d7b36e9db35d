"""A line posts over kept connections, says what went wrong as httpx does, and trusts no answer's size or form."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from fedclient import line
from fedclient.connection import Connection, explain, is_passing
from fedclient.line import Line
from tests.flower import pki

LIMIT = 1000
PATH = "/v1/fleet/pull-bundle"


@dataclass
class Server:
    """Answers each POST with `status`, `headers` and `body`; keeps what came. cut: it promises more than it sends."""

    issued: pki.Pki
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"answer"
    cut: bool = False
    closes: bool = False
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    callers: list[tuple[str, int]] = field(default_factory=list)

    def __enter__(self) -> Server:
        self.web = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.issued.cert, self.issued.key)
        self.web.socket = context.wrap_socket(self.web.socket, server_side=True)
        self.thread = threading.Thread(target=self.web.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.web.shutdown()
        self.web.server_close()
        self.thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.web.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                server.callers.append(self.client_address)
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(server.body) + server.cut))
                self.end_headers()
                self.wfile.write(server.body)
                self.close_connection = server.cut or server.closes

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server(issued: pki.Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server(issued) as running:
        yield running


@pytest.fixture
def to(issued: pki.Pki) -> Iterator[Callable[[str], Line]]:
    made: list[Line] = []

    def make(address: str) -> Line:
        tls = ssl.create_default_context(cafile=issued.ca)
        made.append(Line(address, tls, lambda: {"flwr-signature": "s"}, 5.0, LIMIT))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_body_goes_out_with_the_headers_and_the_answer_comes_back(server: Server, to: Callable[[str], Line]) -> None:
    assert to(server.address).post(PATH, b"asked") == b"answer"
    [(path, headers, body)] = server.seen
    assert (path, body, headers["flwr-signature"]) == (PATH, b"asked", "s")
    assert headers["accept-encoding"] == "identity"


def test_calls_share_a_connection_and_each_thread_has_its_own(server: Server, to: Callable[[str], Line]) -> None:
    calls = to(server.address)
    for _ in range(3):
        calls.post(PATH, b"")
    other = threading.Thread(target=calls.post, args=(PATH, b""))
    other.start()
    other.join()
    assert [server.callers.count(each) for each in dict.fromkeys(server.callers)] == [3, 1]


def test_a_connection_that_rested_or_that_the_server_closed_is_not_used_again(
    server: Server, to: Callable[[str], Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = to(server.address)
    server.closes = True
    assert [calls.post(PATH, b"") for _ in range(3)] == [b"answer"] * 3
    server.closes = False
    monkeypatch.setattr(line, "IDLE_S", 0.0)
    assert [calls.post(PATH, b"") for _ in range(3)] == [b"answer"] * 3
    assert len(set(server.callers)) == 6


@pytest.mark.parametrize("status", [307, 401, 404, 500, 503])
def test_any_other_status_is_raised_and_no_redirect_followed(
    server: Server, to: Callable[[str], Line], status: int
) -> None:
    server.status, server.headers = status, {"location": f"https://{server.address}/elsewhere"}
    with pytest.raises(httpx.HTTPStatusError) as failure:
        to(server.address).post(PATH, b"")
    assert failure.value.response.status_code == status
    assert is_passing(failure.value) == (status == 503)
    assert len(server.seen) == 1


def test_an_answer_of_the_limit_is_read_and_one_byte_more_is_not(server: Server, to: Callable[[str], Line]) -> None:
    server.body = bytes(LIMIT)
    assert to(server.address).post(PATH, b"") == bytes(LIMIT)
    server.body = bytes(LIMIT + 1)
    with pytest.raises(ValueError, match="longer"):
        to(server.address).post(PATH, b"")


def test_a_packed_answer_is_none(server: Server, to: Callable[[str], Line]) -> None:
    server.headers = {"content-encoding": "gzip"}
    with pytest.raises(ValueError, match="packed"):
        to(server.address).post(PATH, b"")


def test_an_answer_that_is_cut_off_is_a_loss_that_may_pass_and_the_next_call_works(
    server: Server, to: Callable[[str], Line]
) -> None:
    server.cut, calls = True, to(server.address)
    with pytest.raises(httpx.TransportError) as failure:
        calls.post(PATH, b"")
    assert is_passing(failure.value)
    server.cut = False
    assert calls.post(PATH, b"") == b"answer"


def test_what_is_wrong_with_the_connection_is_explained(
    server: Server, to: Callable[[str], Line], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    stranger = pki.issue(tmp_path / "other")
    cases = {
        "cannot reach": to(closed),
        "not from the CA": Line(server.address, ssl.create_default_context(cafile=stranger.ca), dict, 5.0, LIMIT),
    }
    for words, calls in cases.items():
        with pytest.raises(httpx.TransportError) as failure:
            calls.post(PATH, b"")
        connection = Connection(server.address, stranger.ca, pki.node_key())
        assert words in explain(failure.value, connection).problem


class Proxy:
    """An HTTP proxy that knows CONNECT alone; keeps the heads it was sent."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(4096)
            self.heads.append(head.decode("ascii"))
            host, _, port = self.heads[-1].split()[1].rpartition(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while part := source.recv(4096):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_it_goes_by_the_environments_proxy_and_trusts_the_server_behind_it_alone(
    server: Server, to: Callable[[str], Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy()
    monkeypatch.setenv("https_proxy", f"http://me:pass%20word@127.0.0.1:{proxy.port}")
    assert to(server.address).post(PATH, b"asked") == b"answer"
    [head] = proxy.heads
    assert head.startswith(f"CONNECT {server.address} ")
    assert "proxy-authorization: Basic bWU6cGFzcyB3b3Jk" in head
    assert "flwr-signature" not in head
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert to(server.address).post(PATH, b"asked") == b"answer"
    assert len(proxy.heads) == 1
    proxy.listener.close()


def test_a_line_that_is_not_to_be_proxied_goes_straight(
    server: Server, issued: pki.Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    tls = ssl.create_default_context(cafile=issued.ca)
    calls = Line(server.address, tls, dict, 5.0, LIMIT, is_proxied=False)
    assert calls.post(PATH, b"") == b"answer"
    calls.close()
