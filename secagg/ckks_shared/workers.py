"""Who runs TenSEAL's jobs: processes of our own, as many as there are processors, kept for the next jobs (spec §21.6).

Bytes from outside reach TenSEAL there and nowhere else: what kills such a process is an error here.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Final

from secagg.errors import Misuse

MOST_WORKERS: Final = 16
MOST_REPLY: Final = 1 << 23  # bytes
# The protocol's bytes; secagg.ckks_shared.worker has the other side, and is not imported here, nor tenseal with it.
GENERATE: Final = b"g"
LOAD: Final = b"l"
ENCRYPT: Final = b"e"
DECRYPT: Final = b"d"
DONE: Final = b"+"
HEAD_BYTES: Final = 9
_START: Final = "import sys; sys.path[:] = {!r}; from secagg.ckks_shared.worker import main; main()"
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Failed(Misuse):
    """The process refused the job or died of it; who is to blame, the caller knows."""


class Worker:
    """One process, and the digest of the secret that it has loaded."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.loaded = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START.format(sys.path)], env={**os.environ, **_ONE_THREAD},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def load(self, secret: bytes) -> None:
        """Makes this secret the one of the next jobs. Raises Failed."""
        name = hashlib.sha256(secret).digest()
        if name != self.loaded:
            self.loaded = b""
            self.send(LOAD, secret)
            self.receive()
            self.loaded = name

    def send(self, kind: bytes, job: bytes) -> None:
        """Starts a job. Raises Failed if the process is dead."""
        try:
            into = _pipe(self.process.stdin)
            into.write(kind + len(job).to_bytes(8, "little") + job)
            into.flush()
        except (OSError, ValueError) as error:
            raise Failed("the process that runs TenSEAL died") from error

    def receive(self) -> bytes:
        """The answer to the oldest job. Raises Failed."""
        out = _pipe(self.process.stdout)
        header = out.read(HEAD_BYTES)
        size = int.from_bytes(header[1:], "little")
        reply = out.read(size) if size <= MOST_REPLY else b""
        if len(header) != HEAD_BYTES or len(reply) != size:
            self.stop()
            raise Failed("the process that runs TenSEAL died")
        if header[:1] != DONE:
            raise Failed("TenSEAL refuses the bytes")
        return reply

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                _pipe(pipe).close()
            except OSError:  # what was not flushed has nobody to go to
                continue
        self.process.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise Failed("the process that runs TenSEAL has no pipe")
    return pipe


_lock: Final = threading.Lock()
_idle: Final[list[Worker]] = []


def idle() -> tuple[Worker, ...]:
    """The workers that wait for a job in this process."""
    with _lock:
        return tuple(each for each in _idle if each.owner == os.getpid())


def stop_idle() -> None:
    """Ends the workers that wait for a job."""
    with _lock:
        ours = [each for each in _idle if each.owner == os.getpid()]
        _idle.clear()
    for each in ours:
        each.stop()


atexit.register(stop_idle)


def _take(secret: bytes) -> Worker:
    with _lock:
        while _idle:
            found = _idle.pop()
            if found.owner == os.getpid() and found.process.poll() is None:
                break
        else:
            found = Worker()
    try:
        found.load(secret)
    except Failed:
        _give(found)
        raise
    except BaseException:
        found.stop()
        raise
    return found


def _give(worker: Worker) -> None:
    """Takes back a worker that owes no answer."""
    if worker.process.poll() is None:
        with _lock:
            _idle.append(worker)


def run(secret: bytes, kind: bytes, jobs: Iterable[bytes]) -> Iterator[bytes]:
    """The answers in the order of the jobs, which are taken as processes are free. Raises Failed.

    However it ends, a process that still owes an answer is ended too.
    """
    most = min(os.cpu_count() or 1, MOST_WORKERS)
    busy: deque[Worker] = deque()
    try:
        for job in jobs:
            answers = []
            if len(busy) < most:
                worker = _take(secret)
            else:
                worker = busy.popleft()
                answers.append(_answer(worker))
            busy.append(worker)
            worker.send(kind, job)
            yield from answers
        while busy:
            worker = busy.popleft()
            answer = _answer(worker)
            _give(worker)
            yield answer
    finally:
        for worker in busy:
            worker.stop()


def _answer(worker: Worker) -> bytes:
    try:
        return worker.receive()
    except Failed:
        _give(worker)
        raise


def generate() -> bytes:
    """A new secret: TenSEAL's context with the secret key alone. Raises Failed."""
    worker = Worker()
    try:
        worker.send(GENERATE, b"")
        return worker.receive()
    finally:
        worker.stop()


def require_secret(secret: bytes) -> None:
    """Raises Failed unless a process can load it as a secret key, alone, of the scheme's parameters."""
    _give(_take(secret))
