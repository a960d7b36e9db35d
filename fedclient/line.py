"""POST requests to one server, over TLS connections that are kept: what bundles travel by.

The standard library's HTTP client, since a general one takes longer over a small call than the server that answers
it. Failures are raised as httpx raises them, so that a caller need not know which of the two made the call.
"""

from __future__ import annotations

import select
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

OK: Final = 200
IDLE_S: Final = 3.0  # a connection that rested longer is not used again: what is between may have forgotten it
PROXY_PORT: Final = 80
MEDIA_TYPE: Final = "application/octet-stream"
_FAILURES: Final = (OSError, HTTPException)


class Line:
    """Calls to one server, one connection for each thread that calls.

    address: HOST:PORT. tls: None for plain HTTP. headers: of each request, asked for anew. max_bytes: of an answer.
    is_proxied: goes by the proxy that the environment names for HTTPS (https_proxy, no_proxy), as httpx does.
    """

    def __init__(
        self, address: str, tls: ssl.SSLContext | None, headers: Callable[[], Mapping[str, str]],
        timeout_s: float, max_bytes: int, *, is_proxied: bool = True,
    ) -> None:  # fmt: skip
        self._address, self._tls, self._headers = address, tls, headers
        self._timeout_s, self._max_bytes, self._is_proxied = timeout_s, max_bytes, is_proxied
        self._mine = threading.local()
        self._all: set[HTTPConnection] = set()

    def post(self, path: str, body: bytes) -> bytes:
        """The answer's body. Raises httpx.HTTPStatusError, httpx.TransportError, or ValueError for a senseless answer.

        Nothing is tried again.
        """
        try:
            connection = self._connection()
            try:
                headers = {"content-type": MEDIA_TYPE, "accept-encoding": "identity", **self._headers()}
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                content = answer.read(self._max_bytes + 1)
                self._mine.used_at = time.monotonic()
                if answer.length and len(content) <= self._max_bytes:
                    raise IncompleteRead(content, answer.length)  # http.client says so of a read without a limit only
                if answer.status != OK or answer.length:
                    connection.close()
            except BaseException:
                connection.close()
                raise
        except _FAILURES as error:
            raise httpx.NetworkError(f"{type(error).__name__} of {self._address}") from error
        return self._checked(path, answer, content)

    def close(self) -> None:
        """Closes every connection; a call that is under way in another thread fails."""
        for connection in list(self._all):
            connection.close()

    def _checked(self, path: str, answer: HTTPResponse, content: bytes) -> bytes:
        if answer.status != OK:
            request = httpx.Request("POST", f"https://{self._address}{path}")
            message = f"HTTP {answer.status} of {self._address}"
            raise httpx.HTTPStatusError(message, request=request, response=httpx.Response(answer.status))
        if len(content) > self._max_bytes or answer.getheader("content-encoding"):
            raise ValueError("the answer is packed, or longer than any of Flower's")
        return content

    def _connection(self) -> HTTPConnection:
        """This thread's connection, open: the kept one, unless the server has closed it meanwhile."""
        connection: HTTPConnection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._new()
            self._all.add(connection)
        elif connection.sock is not None and (
            time.monotonic() - self._mine.used_at > IDLE_S or select.select([connection.sock], [], [], 0)[0]
        ):
            connection.close()
        if connection.sock is None:
            connection.connect()
        return connection

    def _new(self) -> HTTPConnection:
        host, _, digits = self._address.rpartition(":")
        host, port = host.strip("[]"), int(digits)
        if self._tls is None:
            return HTTPConnection(host, port, timeout=self._timeout_s)
        proxy = _proxy_for(host) if self._is_proxied else None
        if proxy is None:
            return HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        connection = HTTPSConnection(
            str(proxy.hostname), proxy.port or PROXY_PORT, timeout=self._timeout_s, context=self._tls
        )
        connection.set_tunnel(host, port, _proxy_credentials(proxy))
        return connection


def _proxy_for(host: str) -> SplitResult | None:
    url = getproxies().get("https", "")
    if not url or proxy_bypass(host):
        return None
    return urlsplit(url if "//" in url else f"http://{url}")


def _proxy_credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"proxy-authorization": "Basic " + b64encode(pair.encode()).decode("ascii")}
