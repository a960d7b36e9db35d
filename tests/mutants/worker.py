"""Runs pytest again and again, each time in a fresh child of one process that has loaded the libraries.

Reads a JSON list of pytest's arguments from each line of its input, writes {"status": ..., "output": ...} for it.
Our own modules are never loaded here, so that every child reads them as they are then.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    "cbor2", "cryptography.hazmat.primitives.asymmetric.ec", "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.asymmetric.x25519", "cryptography.x509", "filelock", "flwr.app", "flwr.clientapp",
    "flwr.serverapp", "httpx", "hypothesis", "nacl.secret", "numpy", "platformdirs", "pytest", "rich.console",
    "starlette", "tenacity", "typer", "uvicorn",
)  # fmt: skip
LIMIT_S = 300  # of all cases of a test; run.py limits each of them
TIMED_OUT = -1
LOOK_S = 0.01


def main() -> None:
    """Serves until its input ends."""
    sys.path.insert(0, str(Path.cwd()))
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        status, output = run(json.loads(line))
        print(json.dumps({"status": status, "output": output}), flush=True)


def run(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of pytest in a child; TIMED_OUT if it had to be ended."""
    with tempfile.TemporaryFile() as written:
        child = os.fork()
        if not child:
            _become_pytest(arguments, written.fileno())
        status = _wait(child)
        written.seek(0)
        return status, written.read().decode("utf-8", "replace")


def _become_pytest(arguments: Sequence[str], output: int) -> None:
    status = 99
    try:
        os.setpgid(0, 0)
        for stream in (1, 2):
            os.dup2(output, stream)
        import pytest

        status = int(pytest.main(list(arguments)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(child: int) -> int:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(LOOK_S)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT


if __name__ == "__main__":
    main()
