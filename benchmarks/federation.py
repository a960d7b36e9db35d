"""A real fedserver and toy sites as processes on loopback TLS, for one session, and the journal it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedserver.journal import read_events
from keys.provision import provision_consortium

ROOT = Path(__file__).resolve().parents[1]
SESSION_S = 300.0
STOP_S = 10.0


class SessionFailed(Exception):
    """The server did not end well; the text is the end of its log."""


def run_session(folder: Path, sites: tuple[str, ...], size: int, rounds: int) -> list[dict[str, Any]]:
    """The events of a session of `rounds` rounds, in which training takes no time. Raises SessionFailed."""
    made = provision_consortium(folder / "consortium", sites)
    out, address = folder / "out", f"127.0.0.1:{_free_port()}"
    options = ["--model", "toy", "--rounds", str(rounds), "--first-range", "0.06", "--out", str(out)]
    options += ["--listen", address, "--roster", str(made.roster), "--keys", str(made.server)]
    processes = [_start(folder / "server.log", "fedserver.cli", *options)]
    try:
        for site in sites:
            options = [str(made.homes[site]), address, str(made.tls.ca), str(made.roster), str(size)]
            processes.append(_start(folder / f"{site}.log", "benchmarks.toy_site", *options))
        if processes[0].wait(SESSION_S) != 0:
            raise SessionFailed((folder / "server.log").read_text(errors="replace")[-2000:])
    finally:
        for process in processes:
            _end(process)
    return read_events(out / "events.jsonl")[0]


def _start(log: Path, module: str, *options: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *options],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
