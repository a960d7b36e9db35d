"""A toy site as a process of its own, forked from one that has loaded everything: a start costs no import.

It is a whole process to everybody: own pid, own session, own files; kill -9 ends it and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes.toy_site"])


class Forked:
    """What `subprocess.Popen` is for the other processes, as far as the tests use it."""

    def __init__(self, arguments: list[str], log: Path, temporary: Path) -> None:
        """arguments: of toy_site.py. log: gets what it prints. temporary: its TMPDIR."""
        self._process: BaseProcess = CONTEXT.Process(
            target=_toy, args=(arguments, str(log), str(temporary)), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("toy_site", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """As kill(2), unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _toy(arguments: list[str], log: str, temporary: str) -> None:
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = temporary
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    if any(word.startswith("full:") for word in arguments):
        _print_through_a_pipe()
    from tests.processes.toy_site import main

    main(arguments)


def _print_through_a_pipe() -> None:
    """As on a terminal: what the site has to say is read although none of its files may grow any more."""
    output = subprocess.Popen(["cat"], stdin=subprocess.PIPE).stdin
    assert output is not None
    for standard in (1, 2):
        os.dup2(output.fileno(), standard)
    output.close()
