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

from fedclient.audit import read_fixed, unwritable
from fedclient.store import STATE, KeptSession
from fedclient.transcript import Transcript
from fedserver.superlink import LEAN
from keys.store import load_site
from secagg.chain import Position
from secagg.config import RoundContext
from secagg.initial import initial_adapter
from secagg.schemes import scheme_named
from secagg.vector import adapter_digest
from tests.processes.running import Running

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


def learnt_at(federation: Running, site: str) -> list[bytes]:
    """Pieces of each round's mean and of the adapter after it, as a site that is done reads them from its own store."""
    home = load_site(federation.consortium.homes[site])
    (folder,) = (home.home / STATE).iterdir()
    transcript, kept = Transcript(folder, unwritable), KeptSession(folder, home.state_key)
    fixed = read_fixed(transcript)
    manifest, position, pieces = fixed.manifest, Position.start(fixed.manifest), list[bytes]()
    adapter = initial_adapter(fixed.layout, manifest.nonce)
    for round_ in (1, 2):
        attempt = transcript.attempt(round_)
        context = RoundContext(manifest, fixed.roster, position.header(manifest, attempt))
        opening = kept.opening(round_, attempt) or b""
        mean = scheme_named(manifest.scheme).open(context, transcript.aggregate(round_), opening)
        adapter = np.add(adapter, mean.values, dtype=np.float32)
        position = position.after(mean, adapter_digest(fixed.layout, adapter))
        pieces += [*windows(mean.values), *windows(adapter)]
    return pieces


def held_by_server(federation: Running, pieces: list[bytes]) -> dict[str, int]:
    """How many of the pieces each process of the server holds, by its command line; each part of it is there."""
    held = {
        " ".join(process.cmdline()): len(found_in_process(process.pid, pieces))
        for process in federation.server_processes()
    }
    for part in ("fedserver.cli", LEAN.name, "flower-superexec", "flwr-serverapp"):
        assert any(part in command for command in held), held
    return held
