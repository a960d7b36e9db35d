"""Real processes of a federation on loopback, started, watched, injured and ended by a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedserver.journal import read_events
from keys.provision import Consortium, provision_consortium

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Running:
    """One consortium under a folder, and its processes."""

    folder: Path
    sites: tuple[str, ...]
    consortium: Consortium = field(init=False)
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consortium = provision_consortium(self.folder / "consortium", self.sites)

    @property
    def out(self) -> Path:
        """The server's folder of results."""
        return self.folder / "out"

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Starts a Python command in a group of its own; what it prints goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
            )
        return self.processes[name]

    def start_server(self, *options: str, name: str = "server") -> subprocess.Popen[bytes]:
        """Starts fedserver; give --resume or the session's options."""
        common = ["--listen", f"127.0.0.1:{self.port}", "--out", str(self.out)]
        if "--resume" not in options:
            common += ["--roster", str(self.consortium.roster), "--keys", str(self.consortium.server)]
        return self.start(name, "-m", "fedserver.cli", *common, *options)

    def start_toy(self, site: str) -> subprocess.Popen[bytes]:
        """Starts a site that trains nothing."""
        return self.start(
            site,
            "-m",
            "tests.processes.toy_site",
            str(self.consortium.homes[site]),
            f"127.0.0.1:{self.port}",
            str(self.consortium.tls.ca),
            str(self.consortium.roster),
            str(self.folder / f"{site}.f32"),
        )

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The journal, or its events of one name."""
        return [each for each in read_events(self.out / "events.jsonl")[0] if name in ("", each["event"])]

    def await_event(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that fits, once it is there; fails with the logs if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for event in self.events():
                if wanted(event):
                    return event
            if self.processes["server"].poll() not in (None, 0):
                break
            time.sleep(0.01)
        raise AssertionError("\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes))

    def wait(self, name: str) -> int:
        """The exit code of a process, once it has ended by itself."""
        return self.processes[name].wait(PATIENCE_S)

    def descendants(self) -> list[int]:
        """Processes that still run in one of our process groups."""
        groups = {process.pid for process in self.processes.values()}
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError, ProcessLookupError):
                if entry.name.isdigit() and os.getsid(int(entry.name)) in groups:
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state != "Z" else []
        return found

    def stop(self) -> None:
        """Ends everything."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def running(folder: Path, *sites: str) -> Iterator[Running]:
    """A consortium whose processes do not outlive the block."""
    federation = Running(folder, sites)
    try:
        yield federation
    finally:
        federation.stop()
