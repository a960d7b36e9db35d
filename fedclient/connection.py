"""Which server a site answers, what there is to report of it, and each way in which reaching it can fail."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

RETRYABLE: Final = frozenset({502, 503, 504})
LOST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 15.0
CLOCK_BEHIND_S: Final = 300  # Flower's TIMESTAMP_TOLERANCE and SYSTEM_TIME_TOLERANCE
CLOCK_AHEAD_S: Final = 5

HOST_MISMATCH: Final = frozenset({62, 64})  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH
EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED


class ConnectionFailed(Exception):
    """The server cannot be reached or does not accept this site: what is wrong, and what to do."""

    def __init__(self, problem: str, remedy: str, *, lasting: bool = False) -> None:
        super().__init__(f"{problem}\n{remedy}")
        self.problem = problem
        self.remedy = remedy
        self.lasting = lasting  # another try cannot help


class KeyRefused(ConnectionFailed):
    """The server knows no such node key, or thinks that its owner is still connected."""


class ClockRefused(ConnectionFailed):
    """The server does not accept the time that this site signs."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a log line. Holds no secret and nothing the server or the app wrote but the type."""

    kind: Literal["connected", "waiting", "lost", "answered", "refused", "dropped", "stopped"]
    notice: str = ""
    message_type: str = ""
    reply_bytes: int = 0
    seconds: float = 0.0  # of the app's own work


@dataclass(frozen=True, slots=True)
class Connection:
    """Which server a site answers, as whom, and with what settings for its app.

    server: HOST:PORT. ca: PEM file. node_config: what the app reads as context.node_config. node_file: where
    the node's public id is kept, so that a restart after a crash takes its place back at once.
    """

    server: str
    ca: Path
    node_key: ec.EllipticCurvePrivateKey = field(repr=False)
    node_config: dict[str, str | int | float | bool] = field(default_factory=dict)
    node_file: Path | None = None


class Outage:
    """For how long polls have failed, over as many tries as that takes; it begins with the site not connected."""

    def __init__(self, retry_for_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry_for_s, self._clock = retry_for_s, clock
        self._began: float | None = None
        self._connected, self._pause = False, LOST_PAUSE_S

    def begin(self) -> bool:
        """A poll has failed; whether it is the first."""
        first, self._connected = self._began is None, False
        self._began = self._clock() if self._began is None else self._began
        return first

    def end(self) -> bool:
        """A poll was answered; whether that is news."""
        news, self._connected = not self._connected, True
        self._began, self._pause = None, LOST_PAUSE_S
        return news

    def is_too_long(self) -> bool:
        """Whether the first failure is `retry_for_s` ago."""
        return self._began is not None and self._clock() - self._began >= self._retry_for_s

    def pause(self) -> float:
        """How long to wait now; longer each time."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
        return pause


class NodeFile:
    """The node's public id, kept beside the keys; a copy of the file, as in a cloned home, says nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> int | None:
        """The id that was written to this very file."""
        if self._path is None:
            return None
        try:
            node_id, inode = map(int, self._path.read_text(encoding="ascii").split())
            return node_id if self._path.stat().st_ino == inode else None
        except (OSError, ValueError):
            return None

    def write(self, node_id: int) -> None:
        """Binds the id to the file's inode."""
        if self._path is not None:
            self._path.touch()
            self._path.write_text(f"{node_id} {self._path.stat().st_ino}\n", encoding="ascii")


def trust(ca: Path) -> ssl.SSLContext:
    """TLS 1.3 that trusts the CA in this PEM file and no other. Raises ConnectionFailed."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConnectionFailed(
            f"{ca} holds no readable CA certificate",
            "get ca.pem from the server's administrator, and name it with --ca, or: fedkeys trust ROOT.pub --ca ca.pem",
            lasting=True,
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed in a moment."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in RETRYABLE
    return isinstance(error, httpx.TransportError)


def explain(error: httpx.HTTPError | ValueError, connection: Connection) -> ConnectionFailed:
    """The failure in the user's terms; a ValueError is an answer that is no message of Flower's."""
    if isinstance(error, ValueError):
        return _explain_status(httpx.codes.OK, connection)
    if isinstance(error, httpx.HTTPStatusError):
        return _explain_status(error.response.status_code, connection)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _explain_certificate(cause, connection)
        if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            break  # cut in the middle of a handshake: a proxy without its server, a network that drops
        if isinstance(cause, ssl.SSLError):
            return ConnectionFailed(
                f"{connection.server} does not speak TLS 1.3",
                "check HOST:PORT with whoever runs fedserver; it must be fedserver's public port",
            )
    return ConnectionFailed(
        f"cannot reach {connection.server}",
        "check HOST:PORT and the firewall, and that fedserver is running",
    )


def explain_loss(error: httpx.HTTPError | ValueError, connection: Connection) -> str:
    """Why a poll failed; a server that was started anew answers 401 to the node that it does not know."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{connection.server} does not know this connection"
    return explain(error, connection).problem


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_certificate(cause: ssl.SSLCertVerificationError, connection: Connection) -> ConnectionFailed:
    host = connection.server.rpartition(":")[0]
    if cause.verify_code in HOST_MISMATCH:
        problem, remedy = (
            f"the server's certificate is not for {host}",
            "use the name that the certificate holds",
        )
    elif cause.verify_code == EXPIRED:
        problem, remedy = "the server's certificate has expired", "ask whoever runs fedserver to renew it"
    else:
        problem = f"the server's certificate is not from the CA in {connection.ca}"
        remedy = "compare the CA file's fingerprint with the consortium; do not go on before they agree"
    return ConnectionFailed(problem, remedy, lasting=True)


def _explain_status(status: int, connection: Connection) -> ConnectionFailed:
    if status == httpx.codes.PRECONDITION_FAILED:
        return KeyRefused(
            "the server does not accept this site's node key yet",
            "stop any other fedclient that runs with this key (a crashed one is forgotten within a minute); "
            "if there is none, the server's roster lacks this site's node key",
        )
    if status == httpx.codes.UNAUTHORIZED:
        return ClockRefused(
            "this machine's clock differs from the server's, so the server does not accept the time it signs",
            f"set the clock by NTP: it may be {CLOCK_BEHIND_S} s behind the server's and {CLOCK_AHEAD_S} s ahead",
        )
    if status in RETRYABLE:
        return ConnectionFailed(
            f"{connection.server} is up, but the server behind it is not",
            "wait until fedserver has started, or ask whoever runs it",
        )
    return ConnectionFailed(
        f"{connection.server} answers HTTP {status}, which no fedserver does",
        "check HOST:PORT, and that both sides run a flwr release from 1.40 to 1.42",
    )
