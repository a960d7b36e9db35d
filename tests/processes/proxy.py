"""A bad network between one site and the server: a TCP proxy on loopback that a test makes stall, drop and repeat."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

PIECE = 4096
PATIENCE_S = 30.0
LONG = 1 << 62
AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass(eq=False)
class Connection:
    """One connection through the proxy, and the site's bytes in it."""

    site: socket.socket
    server: socket.socket
    sent: bytearray = field(default_factory=bytearray)
    is_lost: bool = False  # what comes is thrown away, and nobody is told
    dies_after: int = LONG  # bytes, both ways

    def cut(self) -> None:
        """Ends it with a reset, both ways."""
        for end in (self.site, self.server):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Listens on `port` and passes everything on to the server, but for what is asked of it.

    seed: of the places at which `cut_at_random` cuts.
    """

    def __init__(self, server_port: int, seed: int = 0) -> None:
        self._server_port, self._random = server_port, random.Random(seed)  # noqa: S311 - no secret
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[Connection] = []
        self._flows = threading.Event()
        self._flows.set()
        self._changed = threading.Condition()
        self._held, self._cuts_at_random, self._repeats, self._refuses = 0, False, 0, False
        self.cuts = 0
        threading.Thread(target=self._listen, daemon=True).start()

    # ------------------------------------------------------------------ what a test asks for

    def stall(self) -> None:
        """Holds every byte, both ways, until `flow`."""
        self._held = 0
        self._flows.clear()

    def flow(self) -> None:
        """Passes everything on, what was held first; connections can be made again."""
        self._cuts_at_random = self._refuses = False
        for each in self._connections:
            each.dies_after = LONG
        self._flows.set()

    def await_held(self) -> None:
        """Waits until bytes of the site or of the server are held."""
        self._await(lambda: self._held > 0)

    def cut(self) -> None:
        """Ends every connection, and refuses new ones until `flow`."""
        self._refuses = True
        self._cut_all()

    def cut_at_random(self) -> None:
        """Ends every connection, and each new one somewhere in its first bytes, until `flow`."""
        self._cuts_at_random = True
        self._cut_all()

    def await_cuts(self, number: int) -> None:
        """Waits until so many connections were cut at random."""
        self._await(lambda: self.cuts >= number)

    def lose(self) -> None:
        """Leaves every connection half open: nothing comes through, and no end is told."""
        for each in self._connections:
            each.is_lost = True

    def find(self) -> None:
        """Ends the half open connections, as a router does when it has forgotten them."""
        self._cut_all()

    def repeat_next(self, pieces: int = 1) -> None:
        """Passes the site's next pieces on twice."""
        self._repeats = pieces

    def await_repeated(self) -> None:
        """Waits until that has been done."""
        self._await(lambda: self._repeats == 0)

    def replay(self) -> tuple[int, bytes]:
        """Sends what the site has said on its longest connection again, on a new one: bytes sent, bytes answered."""
        said = max((bytes(each.sent) for each in self._connections), key=len)
        with socket.create_connection(("127.0.0.1", self._server_port), PATIENCE_S) as again:
            again.settimeout(PATIENCE_S)
            hello = 5 + int.from_bytes(said[3:5], "big")  # the first record of TLS; the answer to it is read first,
            again.sendall(said[:hello])  # for a reset, after the rest, would throw it away
            answered = again.recv(PIECE)
            with suppress(ConnectionError):
                again.sendall(said[hello:])
                while part := again.recv(PIECE):
                    answered += part
        return len(said), answered

    def close(self) -> None:
        """Ends everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self._cut_all()

    # ------------------------------------------------------------------ how it does that

    def _listen(self) -> None:
        while True:
            try:
                site, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._refuses:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                site.close()
                continue
            connection = Connection(site, server)
            if self._cuts_at_random:
                connection.dies_after = self._random.randrange(1, 2 * PIECE)
            self._connections.append(connection)
            for source, target in ((site, server), (server, site)):
                threading.Thread(target=self._carry, args=(connection, source, target), daemon=True).start()

    def _carry(self, connection: Connection, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE):
                self._count_held(len(piece))
                self._flows.wait()
                if connection.is_lost:
                    continue
                connection.dies_after -= len(piece)
                if connection.dies_after <= 0:
                    self._note_cut()
                    break
                if source is connection.site:
                    connection.sent += piece
                    piece = self._perhaps_twice(piece)
                target.sendall(piece)
        if not connection.is_lost:
            connection.cut()
            source.close()

    def _perhaps_twice(self, piece: bytes) -> bytes:
        with self._changed:
            if not self._repeats:
                return piece
            self._repeats -= 1
            self._changed.notify_all()
            return 2 * piece

    def _count_held(self, size: int) -> None:
        if not self._flows.is_set():
            with self._changed:
                self._held += size
                self._changed.notify_all()

    def _note_cut(self) -> None:
        with self._changed:
            self.cuts += 1
            self._changed.notify_all()

    def _await(self, is_so) -> None:  # type: ignore[no-untyped-def]
        with self._changed:
            assert self._changed.wait_for(is_so, PATIENCE_S)

    def _cut_all(self) -> None:
        for each in self._connections:
            each.is_lost = False
            each.cut()
        self._connections.clear()


@contextmanager
def bad_network(server_port: int, seed: int = 0) -> Iterator[Proxy]:
    """A proxy that ends with the block."""
    proxy = Proxy(server_port, seed)
    try:
        yield proxy
    finally:
        proxy.close()
