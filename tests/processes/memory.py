"""What a process has in memory: whether some bytes are in it, read through /proc while it runs."""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

WINDOW_BYTES: Final = 64
WINDOWS: Final = 3  # of one vector
CHUNK_BYTES: Final = 1 << 24
_MAPPING: Final = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) r(.)", re.ASCII)


def windows(values: np.ndarray) -> list[bytes]:
    """Pieces of 16 float32 values each, from all over the vector."""
    content = values.astype("<f4").tobytes()
    step = len(content) // WINDOWS // 4 * 4
    assert step >= WINDOW_BYTES
    return [content[at : at + WINDOW_BYTES] for at in range(0, WINDOWS * step, step)]


def found_in_process(pid: int, pieces: Sequence[bytes]) -> list[bytes]:
    """Those of the pieces that are in the memory which the process can write to."""
    found = set[bytes]()
    for content in _memory(pid):
        found |= {piece for piece in pieces if piece in content}
    return sorted(found)


def _memory(pid: int) -> Iterator[bytes]:
    """All of it that can be read, in chunks, each with the end of the one before it in the same mapping."""
    maps = Path(f"/proc/{pid}/maps").read_bytes().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for at, end in (_range(line) for line in maps if _is_written(line)):
            yield from _mapping(memory, at, end)


def _mapping(memory: io.FileIO, at: int, end: int) -> Iterator[bytes]:
    tail = b""
    while at < end:
        content = b""
        with suppress(OSError):  # a page that is gone since
            memory.seek(at)
            content = memory.read(min(CHUNK_BYTES, end - at)) or b""
        if content:
            yield tail + content
        tail = content[1 - WINDOW_BYTES :]
        at += len(content) or mmap.PAGESIZE


def _is_written(line: bytes) -> bool:
    match = _MAPPING.match(line)
    return match is not None and match[3] == b"w" and not line.endswith((b"[vvar]", b"[vsyscall]"))


def _range(line: bytes) -> tuple[int, int]:
    match = _MAPPING.match(line)
    assert match
    return int(match[1], 16), int(match[2], 16)


def found_in_files(folder: Path, pieces: Sequence[bytes]) -> list[Path]:
    """The files under a folder that hold one of the pieces."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_socket()]
    return [path for path in files if any(piece in path.read_bytes() for piece in pieces)]
