"""A session on disk for whoever audits it, at the server and at each site: what it fixed, its rounds (spec §15.3).

    manifest.cbor  roster.cbor  layout.json
    rounds/000001/head.cbor  words.u64  round.json  vectors/SITE.u64

Everything here is public to the session's server and sites. Vectors are at the server only.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from secagg.config import Manifest
from secagg.errors import Malformed, Misuse
from secagg.identity import Roster
from secagg.session import Packet, Words
from secagg.vector import Layout

MANIFEST: Final = "manifest.cbor"
ROSTER: Final = "roster.cbor"
LAYOUT: Final = "layout.json"
ROUNDS: Final = "rounds"
VECTORS: Final = "vectors"
_NEXT: Final = ".next"
_HELD: Final = "held.json"
_PRIVATE: Final = 0o600
_PRIVATE_FOLDER: Final = 0o700
_NOT_OURS: Final = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)  # any JSON

Failed = Callable[[str, Path, OSError], Exception]  # (what was tried, where, why) -> what to raise
_Fixed = TypeVar("_Fixed", Manifest, Roster, Layout)


class Damaged(Exception):
    """A file of the transcript is missing or is not what was written. path: which."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged or missing")
        self.path = path


class Transcript:
    """One session's folder. A round's folder appears only when it is whole."""

    def __init__(self, folder: Path, failed: Failed) -> None:
        """failed: makes the exception that a disk's error becomes."""
        self.folder = folder
        self._failed = failed

    # ------------------------------------------------------------------ what the session fixes

    def describe(self, manifest: Manifest, roster: Roster, layout: Layout) -> None:
        """Keeps what an auditor needs besides the rounds, durably."""
        tensors = json.dumps([[name, list(shape)] for name, shape in layout.tensors])
        self.write(ROSTER, roster.encode())
        self.write(LAYOUT, tensors.encode())
        self.write(MANIFEST, manifest.encode())

    def manifest(self) -> Manifest:
        """Raises Damaged."""
        return self._decoded(MANIFEST, Manifest.decode)

    def roster(self) -> Roster:
        """Raises Damaged."""
        return self._decoded(ROSTER, Roster.decode)

    def layout(self) -> Layout:
        """Raises Damaged."""
        return self._decoded(LAYOUT, _layout)

    # ------------------------------------------------------------------ rounds

    def rounds(self) -> int:
        """How many rounds are finished."""
        done = 0
        while self._round(done + 1).is_dir():
            done += 1
        return done

    def archive(self) -> FolderArchive:
        """A fresh archive for the attempt that begins; `save` makes it part of the round."""
        beside = self._rounds / _NEXT
        shutil.rmtree(beside, ignore_errors=True)
        with self._writing(beside):
            for folder in (self._rounds, beside, beside / VECTORS):
                folder.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
        return FolderArchive(beside / VECTORS, self._failed)

    def hold(self, round_: int, attempt: int, blob: bytes) -> None:
        """Keeps what ends the attempt under way together with its archive, durably."""
        beside = self._rounds / _NEXT
        with self._writing(beside):
            _write(beside / _HELD, json.dumps({"round": round_, "attempt": attempt, "blob": blob.hex()}).encode())
            for path in (*beside.rglob("*"), beside):
                _sync(path)

    def held(self, round_: int) -> tuple[int, bytes, FolderArchive] | None:
        """Attempt, blob and archive that `hold` kept for this round, if it did and no attempt began since."""
        beside = self._rounds / _NEXT
        try:
            named = json.loads((beside / _HELD).read_text())
            if named["round"] != round_:
                return None
            return int(named["attempt"]), bytes.fromhex(named["blob"]), FolderArchive(beside / VECTORS, self._failed)
        except (OSError, *_NOT_OURS):
            return None

    def save(self, round_: int, attempt: int, contributors: Sequence[str], aggregate: Packet) -> None:
        """Keeps a finished round and what its archive holds, durably, as a whole or not at all."""
        folder, beside = self._round(round_), self._rounds / _NEXT
        with self._writing(beside):
            for missing in (self._rounds, beside):
                missing.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
            _write(beside / "head.cbor", aggregate.head)
            if aggregate.words is not None:
                _write(beside / "words.u64", np.ascontiguousarray(aggregate.words, "<u8").data)
            named = {"attempt": attempt, "contributors": list(contributors)}
            _write(beside / "round.json", json.dumps(named).encode())
            for path in (*beside.rglob("*"), beside):
                _sync(path)
            shutil.rmtree(folder, ignore_errors=True)  # of this round, from before its place in the chain was kept
            beside.replace(folder)
            _sync(folder.parent)
            (folder / _HELD).unlink(missing_ok=True)

    def aggregate(self, round_: int) -> Packet:
        """The aggregate of a finished round. Raises Damaged."""
        head, words = self._round(round_) / "head.cbor", self._round(round_) / "words.u64"
        try:
            return Packet(head.read_bytes(), read_words(words) if words.exists() else None)
        except OSError:
            raise Damaged(head) from None

    def size_of(self, round_: int) -> int:
        """Bytes of the aggregate of a finished round. Raises Damaged."""
        folder = self._round(round_)
        try:
            return sum(path.stat().st_size for path in (folder / "head.cbor", folder / "words.u64") if path.exists())
        except OSError:
            raise Damaged(folder) from None

    def attempt(self, round_: int) -> int:
        """The attempt in which a finished round was made. Raises Damaged."""
        return self._noted(round_)[0]

    def contributors(self, round_: int) -> tuple[str, ...]:
        """The survivors that were noted when a finished round was kept. Raises Damaged."""
        return self._noted(round_)[1]

    def _noted(self, round_: int) -> tuple[int, tuple[str, ...]]:
        path = self._round(round_) / "round.json"
        try:
            noted = json.loads(path.read_text())
            return int(noted["attempt"]), tuple(map(str, noted["contributors"]))
        except (OSError, *_NOT_OURS):
            raise Damaged(path) from None

    def vectors(self, round_: int) -> FolderArchive:
        """The masked vectors of a finished round, as far as they are here."""
        return FolderArchive(self._round(round_) / VECTORS, self._failed)

    def forget_vectors(self, round_: int) -> None:
        """Removes the masked vectors of a finished round: its sum can no longer be made again from them."""
        shutil.rmtree(self._round(round_) / VECTORS, ignore_errors=True)

    # ------------------------------------------------------------------ files

    @property
    def _rounds(self) -> Path:
        return self.folder / ROUNDS

    def _round(self, round_: int) -> Path:
        return self._rounds / f"{round_:06d}"

    def write(self, name: str, content: bytes) -> None:
        """Replaces a file of the folder as a whole, durably."""
        path, beside = self.folder / name, self.folder / f".{name}.new"
        with self._writing(path):
            _write(beside, content)
            _sync(beside)
            beside.replace(path)
            _sync(path.parent)

    def _decoded(self, name: str, decode: Callable[[bytes], _Fixed]) -> _Fixed:
        path = self.folder / name
        try:
            return decode(path.read_bytes())
        except (OSError, Malformed, Misuse):
            raise Damaged(path) from None

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed("write", path, error) from None


class FolderArchive:
    """Masked vectors as files of little-endian words; implements `secagg.session.Archive`."""

    def __init__(self, folder: Path, failed: Failed) -> None:
        self._folder, self._failed = folder, failed

    def put(self, site: str, words: Words) -> None:
        """Writes a vector; `Transcript.save` makes it durable."""
        path = self._folder / f"{site}.u64"
        try:
            _write(path, np.ascontiguousarray(words, "<u8").data)
        except OSError as error:
            raise self._failed("write", path, error) from None

    def get(self, site: str) -> Words:
        """A vector. Raises Damaged if it is not here."""
        path = self._folder / f"{site}.u64"
        try:
            return read_words(path)
        except OSError:
            raise Damaged(path) from None

    def sites(self) -> set[str]:
        """Whose vectors are here."""
        return {path.stem for path in self._folder.glob("*.u64")}


def read_words(path: Path) -> Words:
    """The words of a file. Raises Damaged unless it is whole words, OSError if it cannot be read."""
    content = path.read_bytes()
    if len(content) % 8:
        raise Damaged(path)
    return np.frombuffer(content, "<u8").astype(np.uint64, copy=False)


def _layout(content: bytes) -> Layout:
    try:
        tensors = json.loads(content)
        return Layout(tuple((str(name), tuple(int(extent) for extent in shape)) for name, shape in tensors))
    except _NOT_OURS:
        raise Malformed("not a layout") from None


def _write(path: Path, content: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
