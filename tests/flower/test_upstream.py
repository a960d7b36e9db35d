"""The gateway's HTTP towards the SuperLink, against servers that answer whatever a test writes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fedserver import upstream
from fedserver.upstream import Upstream, UpstreamFailed
from tests.flower import pki

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Kept: yes \r\n\r\nok"
LENGTH_4 = [(b"content-length", b"4")]
Story = Callable[["Server", Upstream], Awaitable[object]]


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> pki.Pki:
    return pki.issue(tmp_path_factory.mktemp("pki"))


class Server:
    """Gives the next of `answers` for each request, on any connection, and keeps what it read."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.requests, self.connections = answers, list[bytes](), 0
        self.ended = asyncio.Event()  # of the first connection that ends

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await self._body(reader, head.lower()))
                answer = self.answers.pop(0)
                writer.write(answer)
                await writer.drain()
                if b"close" in answer or not answer.startswith(b"HTTP/1.1 "):
                    break
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()
            self.ended.set()

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        if b"content-length: " in head:
            return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        return await reader.readuntil(b"\r\n0\r\n\r\n") if b"chunked" in head else b""


def play(issued: pki.Pki, answers: list[bytes], story: Story, ca: Path | None = None) -> Server:
    """Runs the story against a server with these answers."""
    server = Server(answers)

    async def run() -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(issued.cert, issued.key)
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls, limit=1 << 26)
        port = listening.sockets[0].getsockname()[1]
        asked = Upstream(f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=ca or issued.ca))
        async with listening:
            async with asyncio.timeout(20):
                await story(server, asked)
            await asked.close()

    asyncio.run(run())
    return server


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def body_of(asked: Upstream, **given: object) -> bytes:
    answer = await asked.send(b"POST", b"/v1/x", given.get("headers", ()), given.get("body"))  # type: ignore[arg-type]
    return b"".join([piece async for piece in answer.pieces])


def test_a_request_says_its_length_or_comes_in_chunks(issued: pki.Pki) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        await body_of(asked, headers=[*LENGTH_4, (b"flwr-key", b"k")], body=pieces(b"ab", b"", b"cd"))
        await body_of(asked, body=pieces(b"ab", b"", b"c" * 17))
        await body_of(asked)
        server.host = asked._authority  # type: ignore[attr-defined]

    server = play(issued, [OK, OK, OK], story)
    start = b"POST /v1/x HTTP/1.1\r\nhost: " + server.host  # type: ignore[attr-defined]
    assert server.requests == [
        start + b"\r\ncontent-length: 4\r\nflwr-key: k\r\n\r\nabcd",
        start + b"\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n",
        start + b"\r\n\r\n",
    ]
    assert server.connections == 1


def test_status_and_headers_come_back_with_names_in_lower_case(issued: pki.Pki) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        answer = await asked.send(b"GET", b"/health", (), None)
        assert (answer.status, list(answer.headers)) == (200, [(b"content-length", b"2"), (b"x-kept", b"yes")])
        assert [piece async for piece in answer.pieces] == [b"ok"]

    play(issued, [OK], story)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", b"abcd"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + bytes(3_000_000), bytes(3_000_000)),
    ],
)
def test_a_body_is_read_whole_and_its_connection_used_again(issued: pki.Pki, answer: bytes, body: bytes) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        assert await body_of(asked) == body
        assert await body_of(asked) == b"ok"

    assert play(issued, [answer, OK], story).connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 two OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nwithout a length",
        b"HTTP/1.1 200 OK\r\nx: close\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + b"x" * (1 << 19) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_whole_answer_fails(issued: pki.Pki, answer: bytes) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        with pytest.raises(UpstreamFailed):
            await body_of(asked)
        assert asked._idle == []

    play(issued, [answer], story)


@pytest.mark.parametrize("parts", [(b"abc", b"de"), (b"abc",)])
def test_a_body_of_another_length_than_it_says_is_not_sent_as_whole(issued: pki.Pki, parts: tuple[bytes, ...]) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        with pytest.raises(UpstreamFailed):
            await body_of(asked, headers=LENGTH_4, body=pieces(*parts))
        assert asked._idle == []
        await server.ended.wait()

    assert play(issued, [OK], story).requests == []


def test_what_the_body_raises_comes_out_and_ends_the_connection(issued: pki.Pki) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError("the sender left")

    async def story(server: Server, asked: Upstream) -> None:
        with pytest.raises(LookupError, match="the sender left"):
            await body_of(asked, body=breaks())
        assert asked._idle == []
        await server.ended.wait()

    assert play(issued, [OK], story).requests == []


def test_no_connection_is_used_again_that_the_server_closes_or_that_is_old_or_half_read(
    issued: pki.Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        await body_of(asked)
        assert asked._idle == []
        answer = await asked.send(b"GET", b"/", (), None)
        await answer.pieces.aclose()
        assert asked._idle == []
        await body_of(asked)
        assert len(asked._idle) == 1
        monkeypatch.setattr(upstream, "IDLE_S", 0.0)
        await body_of(asked)

    closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    assert play(issued, [closing, OK, OK, OK], story).connections == 4


def test_what_comes_after_an_answer_is_not_taken_for_the_next_one(issued: pki.Pki) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        assert await body_of(asked) == b"ok"
        assert asked._idle == []
        assert await body_of(asked) == b"ok"

    surplus = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"
    assert play(issued, [OK + surplus, OK], story).connections == 2


def test_a_server_of_another_ca_is_not_asked(issued: pki.Pki, tmp_path: Path) -> None:
    async def story(server: Server, asked: Upstream) -> None:
        with pytest.raises(UpstreamFailed) as failure:
            await body_of(asked)
        assert isinstance(failure.value.__cause__, ssl.SSLCertVerificationError)

    assert play(issued, [OK], story, ca=pki.issue(tmp_path).ca).requests == []


def test_a_server_that_is_not_there_fails() -> None:
    async def story() -> None:
        with pytest.raises(UpstreamFailed):
            await body_of(Upstream("https://127.0.0.1:1", ssl.create_default_context()))

    asyncio.run(story())
