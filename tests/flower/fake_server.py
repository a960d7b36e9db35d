"""A TLS server on loopback whose answers a test makes up, for sites that meet one that fails, lies or floods."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.flower.pki import Pki


@dataclass
class Answer:
    """body: bytes, or pieces that are sent one after the other until the site hangs up."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(issued: Pki, answer: Callable[[str, bytes], Answer]) -> Iterator[str]:
    """HOST:PORT of a server that gives each POST what `answer` makes of its path and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            made = answer(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            whole = made.body if isinstance(made.body, bytes) else None
            self.send_header("content-length", str(1 << 40 if whole is None else len(whole)))
            self.end_headers()
            try:
                for piece in [whole] if whole is not None else made.body:
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    server = _Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """A site that hangs up is none."""
