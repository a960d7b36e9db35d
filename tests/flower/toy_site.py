"""A site of the toy app as a process: python -m tests.flower.toy_site NAME SERVER CA KEY."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedclient.agent import serve
from fedclient.connection import Connection, ConnectionFailed
from tests.flower.toy_client import app


def main() -> None:
    name, server, ca, key_file = sys.argv[1:]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    key = load_pem_private_key(Path(key_file).read_bytes(), None)
    connection = Connection(server, Path(ca), key, {"site": name}, Path(key_file).with_suffix(".node"))
    try:
        serve(app, connection, stop=stop, retry_for_s=60, on_event=lambda event: print(event, flush=True))
    except ConnectionFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
