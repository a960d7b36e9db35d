"""What the server needs to go on after it died between two messages: manifest, attempts, aggregates (spec §16)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedserver.plan import ServerError
from secagg.config import Manifest
from secagg.errors import Malformed
from secagg.session import Aggregate, Packet


class Checkpoint:
    """A folder of finished rounds; a round's folder appears only when it is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            (folder / "rounds").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServerError(f"cannot make {folder}: {error.strerror}", "choose another --out") from None

    def manifest(self) -> Manifest | None:
        """The session's manifest, if the session was agreed on. Raises ServerError."""
        path = self._folder / "manifest.cbor"
        if not path.exists():
            return None
        try:
            return Manifest.decode(path.read_bytes())
        except Malformed:
            raise ServerError(f"{path} is damaged", "start a new session with another --out") from None

    def save_manifest(self, manifest: Manifest) -> None:
        """Keeps the manifest, durably."""
        self._write(self._folder / "manifest.cbor", manifest.encode())

    def rounds(self) -> int:
        """How many rounds are finished."""
        done = 0
        while self._round(done + 1).is_dir():
            done += 1
        return done

    def begin_attempt(self, round_: int) -> int:
        """A number for the next attempt at this round that was never used before. Raises ServerError."""
        path = self._folder / "attempts.json"
        try:
            used = json.loads(path.read_text()) if path.exists() else {}
            attempt = int(used.get(str(round_), 0)) + 1
        except (OSError, ValueError, AttributeError, TypeError):
            raise ServerError(f"{path} is damaged", "start a new session with another --out") from None
        self._write(path, json.dumps(used | {str(round_): attempt}).encode())
        return attempt

    def save_round(self, round_: int, attempt: int, aggregate: Aggregate) -> None:
        """Keeps a finished round, durably, as a whole or not at all."""
        folder, beside = self._round(round_), self._folder / "rounds" / ".next"
        shutil.rmtree(beside, ignore_errors=True)
        with _writing(beside):
            beside.mkdir()
        self._write(beside / "head.cbor", aggregate.payload.head)
        if aggregate.payload.words is not None:
            self._write(beside / "words.u64", np.ascontiguousarray(aggregate.payload.words, "<u8").data)
        named = {"attempt": attempt, "contributors": list(aggregate.contributors)}
        self._write(beside / "round.json", json.dumps(named).encode())
        with _writing(folder):
            beside.replace(folder)
            _sync_folder(folder.parent)

    def aggregate(self, round_: int) -> Packet:
        """The aggregate of a finished round, read from disk."""
        folder = self._round(round_)
        head, words = (folder / "head.cbor").read_bytes(), folder / "words.u64"
        return Packet(head, np.fromfile(words, "<u8").astype(np.uint64, copy=False) if words.exists() else None)

    def attempt(self, round_: int) -> int:
        """The attempt in which a finished round was made."""
        return int(json.loads((self._round(round_) / "round.json").read_text())["attempt"])

    def _round(self, round_: int) -> Path:
        return self._folder / "rounds" / f"{round_:06d}"

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        beside = path.with_name(f".{path.name}.new")
        with _writing(path):
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            _sync_folder(path.parent)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns what the disk says into a ServerError."""
    try:
        yield
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror}"
        raise ServerError(problem, "free some space, then go on with fedserver --resume") from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
