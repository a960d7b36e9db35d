"""A whole toy federation on loopback, SuperLink, gateway and sites, for tests that start real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedclient.agent import serve
from fedclient.connection import Connection, Event
from fedserver.gateway import Gateway
from fedserver.superlink import InternalTls, RunStatus, SuperLink
from tests.flower import pki
from tests.flower.toy_client import app

ROOT = Path(__file__).parents[2]
SITES = ("hospital-a", "hospital-b", "hospital-c")


def wait_until(is_true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Returns when it is true; fails the test if it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class Federation:
    """Certificates, node keys and the server's side, which may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = pki.issue(folder / "pki")
        self.keys = {site: pki.node_key() for site in SITES}
        self.port = 0
        self.runs = 0

    @contextmanager
    def server(self) -> Iterator[SuperLink]:
        tls = InternalTls(self.pki.cert, self.pki.key, self.pki.ca)
        with SuperLink(self.folder / "link", tls, pythonpath=[ROOT]) as link:
            self.nodes = link.register({site: pki.public_der(key) for site, key in self.keys.items()})
            with Gateway(
                link.handover, host="127.0.0.1", port=self.port, cert=self.pki.cert, key=self.pki.key
            ) as gateway:
                self.port = gateway.port
                yield link

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connection(self, site: str) -> Connection:
        file = self.folder / f"{site}.thread.node"
        return Connection(self.address, self.pki.ca, self.keys[site], {"site": site}, file)

    @contextmanager
    def agents(self, sites: Sequence[str]) -> Iterator[list[Event]]:
        """Sites that run in threads of this process; gives what they report."""
        stop, events = threading.Event(), list[Event]()
        threads = [
            threading.Thread(
                target=serve,
                args=(app, self.connection(site)),
                kwargs={"stop": stop, "retry_for_s": 60, "on_event": events.append},
            )
            for site in sites
        ]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: sum(event.kind == "connected" for event in events) == len(sites))
            yield events
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def site_process(self, site: str) -> subprocess.Popen[str]:
        """A site in a process of its own, connected."""
        key = self.folder / f"{site}.key"
        pem = self.keys[site].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write_bytes(pem)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.flower.toy_site", site, self.address, str(self.pki.ca), str(key)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "kind='connected'" in line:
                return process
        raise AssertionError(f"{site} did not connect")

    def start(self, link: SuperLink, types: str, *, sites: Sequence[str] = SITES, **changes: object) -> int:
        """A run of the toy apps, started."""
        self.runs += 1
        config = {
            "nodes": json.dumps({site: str(self.nodes[site]) for site in sites}),
            "types": types,
            "words": 0,
            "timeout": 20.0,
            "out": str(self.folder / f"run-{self.runs}.json"),
            "crash": False,
        }
        apps = {"server_app": "tests.flower.toy_server:app", "client_app": "tests.flower.toy_client:app"}
        return link.start_run(**apps, config=config | changes)

    def report(self) -> list[dict]:
        """What the last run's ServerApp wrote so far."""
        file = self.folder / f"run-{self.runs}.json"
        return json.loads(file.read_text()) if file.exists() else []

    def run(self, link: SuperLink, types: str, **changes: object) -> tuple[RunStatus, list[dict]]:
        """A run of the toy apps, to its end."""
        status = link.wait(self.start(link, types, **changes))
        return status, self.report()
