"""What each request cost this site: a file in its home, for its own operator; it never leaves the site."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from secagg.session import Packet

TIMINGS: Final = "timings.jsonl"  # in the site's home, a line a request
MOST_BYTES: Final = 64 << 20  # the server decides how often it asks
PHASES: Final = {  # as the server's journal names them, by the stage that a site's log then stands at
    "advertised": "advertise", "shared": "share", "masked": "mask", "signed": "consent", "spent": "unmask",
    "checked": "check",
}  # fmt: skip
_IN_ONE: Final = ("fresh", "masked"), "contribute"  # of a scheme whose sites answer once


def phase_of(before: str, after: str) -> str:
    """The phase in which a site's session came from one stage to another."""
    stages, phase = _IN_ONE
    return phase if (before, after) == stages else PHASES[after]


@dataclass(frozen=True, slots=True)
class Timing:
    """One request. seconds, cpu: by phase; cpu is of all threads of the process. bytes: of encoded packets."""

    time: float  # since 1970
    session: str  # its digest, in hex
    round: int
    kind: str
    seconds: dict[str, float]
    cpu: dict[str, float]
    bytes_down: int
    bytes_up: int


class Laps:
    """A clock that tells what one request's parts took, one after the other."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was there and starts."""
        self.seconds, self.cpu = dict[str, float](), dict[str, float]()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, phase: str) -> None:
        """What has passed since the last lap went into `phase`."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + wall - self._wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + cpu - self._cpu
        self._wall, self._cpu = wall, cpu


def keep(home: Path, timing: Timing) -> None:
    """Appends it to the file in the site's home. A disk that does not take it costs the line and nothing else."""
    line = json.dumps({field.name: getattr(timing, field.name) for field in fields(timing)}).encode() + b"\n"
    with suppress(OSError):
        descriptor = os.open(home / TIMINGS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(descriptor).st_size < MOST_BYTES:
                os.write(descriptor, line)
        finally:
            os.close(descriptor)


def kept(file: Path) -> Iterator[Timing]:
    """Every line that is one; a torn one is passed over. Raises OSError."""
    for line in file.read_bytes().splitlines():
        with suppress(ValueError, TypeError, RecursionError):
            yield _timing(json.loads(line))


def _timing(plain: dict[str, Any]) -> Timing:
    timing = Timing(**plain)
    numbers = (*timing.seconds.values(), *timing.cpu.values(), timing.bytes_down, timing.bytes_up, timing.round)
    if not all(isinstance(each, int | float) and 0 <= each < float("inf") for each in numbers):
        raise ValueError("no such time")
    return timing


def size_of(packets: Sequence[Packet]) -> int:
    """Bytes of encoded packets: their heads, and 8 for each word."""
    return sum(len(each.head) + (0 if each.words is None else each.words.nbytes) for each in packets)
