"""What the gateway and the exchange tell each other, so that neither asks the SuperLink in vain.

Flower's sites and ServerApps poll, each poll costs the SuperLink some milliseconds of processor, and a pull
of a reply whose upload still runs waits a full second. The gateway sees uploads begin and end without reading
them; the exchange knows when it has pushed requests. Four numbers in a shared file: the exchange pulls when
something has arrived and the line is quiet; the gateway holds a site's poll until there may be something for
it. Without the file, as under the simulation, both poll by the clock.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

UPLOADS: Final = struct.Struct("=QQQ")  # begun, ended, time of the last change (monotonic ns); the gateway's
REQUESTS: Final = struct.Struct("=Q")  # times that requests were pushed; the exchange's
SIZE: Final = UPLOADS.size + REQUESTS.size
QUIET_S: Final = 0.03  # between a reply's announcement and its first object, one round trip passes


@dataclass(frozen=True, slots=True)
class Reading:
    """What has happened so far."""

    begun: int
    ended: int
    last_ns: int
    requests: int

    @property
    def is_quiet(self) -> bool:
        """Whether no upload runs and none has ended just now."""
        return self.begun == self.ended and time.monotonic_ns() - self.last_ns >= QUIET_S * 1e9


class Traffic:
    """The shared numbers, in two processes of one machine; a torn read costs one early or late poll."""

    def __init__(self, file: Path) -> None:
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), SIZE)

    @classmethod
    def create(cls, file: Path) -> Self:
        """The numbers, all zero, in a new file; fedserver makes it before the gateway and the run start."""
        file.write_bytes(bytes(SIZE))
        return cls(file)

    def read(self) -> Reading:
        """The numbers now."""
        return Reading(*UPLOADS.unpack_from(self._shared), *REQUESTS.unpack_from(self._shared, UPLOADS.size))

    def begin_upload(self) -> None:
        """The gateway: an upload has begun."""
        now = self.read()
        UPLOADS.pack_into(self._shared, 0, now.begun + 1, now.ended, time.monotonic_ns())

    def end_upload(self) -> None:
        """The gateway: an upload has ended, well or not."""
        now = self.read()
        UPLOADS.pack_into(self._shared, 0, now.begun, now.ended + 1, time.monotonic_ns())

    def announce_requests(self) -> None:
        """The exchange: requests wait for the sites."""
        REQUESTS.pack_into(self._shared, UPLOADS.size, self.read().requests + 1)
