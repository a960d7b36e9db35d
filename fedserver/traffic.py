"""What the gateway and the exchange tell each other, so that neither asks the SuperLink in vain.

Flower's sites and ServerApps poll, each poll costs the SuperLink some milliseconds of processor, and a pull
of a reply whose upload still runs waits a full second. The gateway sees uploads begin and end without reading
them; the exchange knows when it has pushed requests. Three numbers in a shared file: the exchange pulls when
something has arrived and nothing is under way; the gateway holds a site's poll until there may be something for
it. Without the file, as under the simulation, both poll by the clock.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

UPLOADS: Final = struct.Struct("=QQ")  # begun, ended; the gateway's
REQUESTS: Final = struct.Struct("=Q")  # times that requests were pushed; the exchange's
SIZE: Final = UPLOADS.size + REQUESTS.size


@dataclass(frozen=True, slots=True)
class Reading:
    """What has happened so far."""

    begun: int
    ended: int
    requests: int

    @property
    def is_quiet(self) -> bool:
        """Whether no upload runs."""
        return self.begun == self.ended


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
        UPLOADS.pack_into(self._shared, 0, now.begun + 1, now.ended)

    def end_upload(self) -> None:
        """The gateway: an upload has ended, well or not."""
        now = self.read()
        UPLOADS.pack_into(self._shared, 0, now.begun, now.ended + 1)

    def announce_requests(self) -> None:
        """The exchange: requests wait for the sites."""
        REQUESTS.pack_into(self._shared, UPLOADS.size, self.read().requests + 1)
