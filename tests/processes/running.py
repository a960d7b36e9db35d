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
from typing import Any, Protocol

import psutil

from fedserver.journal import read_events
from keys.provision import Consortium, provision_consortium
from tests.processes.faults import gate_of
from tests.processes.forking import Forked

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 90.0
ORPHANS_S = 10.0  # before a resumed server can have started a ServerApp of its own
LOOK_S = 0.01
MARK = "FEDERATION_UNDER_TEST"  # in the environment of everything that a federation starts


class Process(Protocol):
    """What a test needs of a process, however it was started."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int) -> None: ...


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
    processes: dict[str, Process] = field(default_factory=dict)
    seen_at: Path | None = None  # where `out` is seen from here, if not there

    def __post_init__(self) -> None:
        self.consortium = provision_consortium(self.folder / "consortium", self.sites)
        self.temporary.mkdir()

    @property
    def out(self) -> Path:
        """The server's folder of results."""
        return self.folder / "out"

    @property
    def temporary(self) -> Path:
        """What is /tmp to every process."""
        return self.folder / "tmp"

    @property
    def results(self) -> Path:
        """The same, as the test sees it."""
        return self.seen_at or self.out

    # ------------------------------------------------------------------ starting and ending

    def start(self, name: str, *command: str, prefix: tuple[str, ...] = ()) -> Process:
        """Starts a Python command in a group of its own; what it prints goes to NAME.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*prefix, sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "TMPDIR": str(self.temporary),
                    "TOKENIZERS_PARALLELISM": "false",
                    MARK: str(self.folder),
                },
            )
        return self.processes[name]

    def start_server(self, *options: str, name: str = "server", prefix: tuple[str, ...] = ()) -> Process:
        """Starts fedserver; give --resume or the session's options."""
        common = ["--listen", f"127.0.0.1:{self.port}", "--out", str(self.out)]
        if "--resume" not in options:
            common += ["--roster", str(self.consortium.roster), "--keys", str(self.consortium.server)]
        return self.start(name, "-m", "fedserver.cli", *common, *options, prefix=prefix)

    def start_toy(self, site: str, *faults: str, port: int = 0, **options: float) -> Process:
        """Starts a site that trains nothing. faults: see faults.py. port: of a proxy. options: of toy_site.py."""
        result = self.folder / f"{site}.f32"
        gate = gate_of(self._sign(site))
        if not gate.exists():
            os.mkfifo(gate)
        self._sign(site).unlink(missing_ok=True)
        arguments = [str(self.consortium.homes[site]), f"127.0.0.1:{port or self.port}"]
        arguments += [str(self.consortium.tls.ca), str(self.consortium.roster), str(result)]
        arguments += [word for fault in faults for word in ("--fault", fault)]
        for name, value in options.items():
            arguments += ["--" + name.replace("_", "-"), str(value)]
        self.processes[site] = Forked(arguments, self.folder / f"{site}.log", self.temporary)
        return self.processes[site]

    def start_toys(self, *sites: str, **options: float) -> None:
        """Starts these sites, or all, unhurt."""
        for site in sites or self.sites:
            self.start_toy(site, **options)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def server_processes(self) -> list[psutil.Process]:
        """Everything fedserver has started, and itself."""
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(self.processes["server"].pid)
            return [*server.children(recursive=True), server]
        return []

    def part_of_server(self, words: str) -> psutil.Process:
        """The process of the server's whose command line has these words."""
        found = [each for each in self.server_processes() if words in " ".join(each.cmdline())]
        assert len(found) == 1, (words, [each.cmdline() for each in self.server_processes()])
        return found[0]

    def kill_server(self) -> None:
        """kill -9 of every process of the server's, as when its machine stops."""
        for process in self.server_processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.processes["server"].wait(PATIENCE_S)

    def stop(self) -> None:
        """Ends everything."""
        for process in self.processes.values():
            _signal_group(process, signal.SIGTERM)
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            _signal_group(process, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def left_running(self) -> list[str]:
        """Command lines of what still runs of this federation, but for the processes that `start` gave."""
        known = {process.pid for process in self.processes.values() if process.poll() is None}
        groups = {process.pid for process in self.processes.values()}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                ours = os.getsid(process.pid) in groups or process.environ().get(MARK) == str(self.folder)
                if ours and process.pid not in known and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def await_nothing_left(self) -> None:
        """Waits until what the ended processes had started has ended too."""
        deadline = time.monotonic() + ORPHANS_S
        while left := self.left_running():
            assert time.monotonic() < deadline, left
            time.sleep(10 * LOOK_S)

    # ------------------------------------------------------------------ watching

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The journal, or its events of one name."""
        return [each for each in read_events(self.results / "events.jsonl")[0] if name in ("", each["event"])]

    def await_event(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event that fits, once it is there; fails with the logs if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        start, path = 0, self.results / "events.jsonl"
        while time.monotonic() < deadline:
            events, start = read_events(path, start)
            for event in events:
                if wanted(event):
                    return event
            if not events and self.processes["server"].poll() not in (None, 0):
                break
            time.sleep(LOOK_S)
        raise AssertionError(self.logs())

    def await_one(self, event: str, **facts: Any) -> dict[str, Any]:
        """The first event of that name with these facts."""
        return self.await_event(lambda each: facts.items() <= each.items() and each["event"] == event)

    def await_words(self, name: str, words: str, times: int = 1) -> None:
        """Waits until a process has printed these words so often."""
        deadline = time.monotonic() + PATIENCE_S
        while self.log(name).count(words) < times:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(LOOK_S)

    def await_file(self, path: Path) -> None:
        """Waits until a file is there."""
        deadline = time.monotonic() + PATIENCE_S
        while not path.exists():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(LOOK_S)

    def logs(self) -> str:
        """What every process has printed."""
        return "\n".join(f"--- {name}\n{self.log(name)}" for name in self.processes)

    def wait(self, name: str) -> int:
        """The exit code of a process, once it has ended by itself."""
        try:
            return self.processes[name].wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.logs()) from None

    # ------------------------------------------------------------------ hurt sites

    def _sign(self, site: str) -> Path:
        return self.folder / f"{site}.sign"

    def signs(self, site: str) -> list[str]:
        """What the site has told about its faults since it was started."""
        sign = self._sign(site)
        return sign.read_text().splitlines() if sign.exists() else []

    def await_sign(self, site: str, fault: str) -> None:
        """Waits until the site is where this fault strikes."""
        deadline = time.monotonic() + PATIENCE_S
        while not any(each.startswith(fault) for each in self.signs(site)):
            assert time.monotonic() < deadline, f"{site} did not get to {fault}\n{self.logs()}"
            time.sleep(LOOK_S)

    def let_go(self, site: str) -> None:
        """Lets a held site go on."""
        gate_of(self._sign(site)).open("wb").close()


def _signal_group(process: Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def running(folder: Path, *sites: str) -> Iterator[Running]:
    """A consortium whose processes do not outlive the block."""
    federation = Running(folder, sites)
    try:
        yield federation
    finally:
        federation.stop()
