"""What a site must still know after a crash: its log of answers, its session, its place in the chain (spec §16).

Every write is durable (fsync of file and folder) when the call returns, and a reply may leave only then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from fedclient.settings import LocalError
from fedclient.transcript import MANIFEST as _MANIFEST
from fedclient.transcript import Transcript
from keys.params import USED_KEYS_FILE
from secagg.chain import Answer, Ledger, Position
from secagg.config import Manifest
from secagg.errors import Malformed, Refused
from secagg.identity import Roster
from secagg.session import SHARED_KEY, Metrics, Packet, Update, Words
from secagg.vector import Layout, Vector

STATE: Final = "state"  # in the site's home: a folder per session
_CLIENT: Final = "client.sealed"
_UPDATES: Final = ("update-*", ".update-*")  # a crash may leave a file under its first name, with a dot
_SENT: Final = ("sent-*",)
_CLIENTS: Final = (_CLIENT, f".{_CLIENT}*")
OPENINGS: Final = "opening-*.sealed"
LOG_FILE: Final = "answers.log"
_PRIVATE: Final = 0o600
_METRICS: Final = np.dtype(
    [("weight", "<i8"), ("examples", "<i8"), ("tokens", "<i8"), ("train", "<f8"), ("eval", "<f8")]
)
_Kept = TypeVar("_Kept", Manifest, Position)


class StoreError(LocalError):
    """The site's state cannot be read or written; nothing was sent."""

    code = "storage"


class KeptSession:
    """What a site keeps of one session, to read; nothing here changes the folder."""

    def __init__(self, folder: Path, state_key: bytes = b"") -> None:
        """state_key: 32 bytes that unseal secrets at rest; not needed for what is not sealed."""
        self.folder = folder
        self._box = SecretBox(state_key or bytes(SecretBox.KEY_SIZE))

    def manifest(self) -> Manifest | None:
        """The manifest this site agreed to, if any. Raises StoreError."""
        blob = self._read(_MANIFEST)
        return None if blob is None else self._decoded(_MANIFEST, Manifest.decode, blob)

    def position(self) -> tuple[Position, Vector] | None:
        """The place in the chain and the adapter there, if the session has begun. Raises StoreError."""
        blob = self._read("position.cbor")
        if blob is None:
            return None
        position = self._decoded("position.cbor", Position.decode, blob)
        values = self._read(f"adapter-{position.round}.f32")
        if values is None or len(values) % 4:
            raise _damaged(self.folder / f"adapter-{position.round}.f32")
        return position, np.frombuffer(values, "<f4").astype(np.float32)

    def opening(self, round_: int, attempt: int) -> bytes | None:
        """What opens this aggregate, if this site has it. Raises StoreError."""
        return self._unsealed(f"opening-{round_}.{attempt}.sealed", f"{round_}.{attempt}".encode())

    def _unsealed(self, name: str, label: bytes) -> bytes | None:
        sealed = self._read(name)
        if sealed is None:
            return None
        try:
            found, _, content = self._box.decrypt(sealed).partition(b"\x00")
        except CryptoError:
            raise _damaged(self.folder / name) from None
        return content if found == label else None

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed("read", self.folder / name, error) from None

    def _decoded(self, name: str, decode: Callable[[bytes], _Kept], blob: bytes) -> _Kept:
        try:
            return decode(blob)
        except Malformed:
            raise _damaged(self.folder / name) from None


class SessionStore(KeptSession):
    """One site's durable state in one session: a folder that only this site's process writes."""

    def __init__(self, home: Path, session: bytes, state_key: bytes) -> None:
        """state_key: 32 bytes that seal secrets at rest. Raises StoreError."""
        super().__init__(home / STATE / session.hex(), state_key)
        self._session = session
        try:
            for folder in (self.folder.parent, self.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("make", self.folder, error) from None
        self._log = AnswerLog(self.folder / LOG_FILE, session)
        self._transcript = Transcript(self.folder, _failed)

    @staticmethod
    def has(home: Path, session: bytes) -> bool:
        """Whether this site agreed to the session and has its log; asking leaves nothing behind, not even a new log."""
        folder = home / STATE / session.hex()
        return (folder / _MANIFEST).exists() and (folder / LOG_FILE).exists()

    # ------------------------------------------------------------------ the log of answers

    @property
    def ledger(self) -> Ledger:
        """The rules of the log as it stands on disk."""
        return self._log.ledger

    def record(self, line: Answer) -> None:
        """Appends one answer, durably. Raises StoreError."""
        self._log.append(line)

    # ------------------------------------------------------------------ public state

    def save_session(self, manifest: Manifest, roster: Roster, layout: Layout) -> None:
        """Keeps what the session fixes. Raises StoreError."""
        self._transcript.describe(manifest, roster, layout)

    def save_round(self, round_: int, attempt: int, contributors: Sequence[str], aggregate: Packet) -> None:
        """Keeps an aggregate that was opened. Raises StoreError."""
        self._transcript.save(round_, attempt, contributors, aggregate)

    def save_position(self, position: Position, adapter: Vector) -> None:
        """Keeps the global adapter and the place in the chain that names it. Raises StoreError."""
        name = f"adapter-{position.round}.f32"
        self._write(name, np.ascontiguousarray(adapter, "<f4").data)
        self._write("position.cbor", position.encode())
        _remove(old for old in self.folder.glob("adapter-*.f32") if old.name != name)

    # ------------------------------------------------------------------ secrets of a round

    def save_client(self, round_: int, attempt: int, state: bytes) -> None:
        """Keeps a client session's state, sealed. Raises StoreError."""
        label = f"{round_}.{attempt}".encode()
        self._write(_CLIENT, self._box.encrypt(label + b"\x00" + state))

    def client(self, round_: int, attempt: int) -> bytes | None:
        """The state of this attempt's session, if there is one. Raises StoreError."""
        return self._unsealed(_CLIENT, f"{round_}.{attempt}".encode())

    def save_opening(self, round_: int, attempt: int, opening: bytes) -> None:
        """Keeps what opens a round's aggregate, sealed: a site that missed it may ask for it. Raises StoreError."""
        label = f"{round_}.{attempt}".encode()
        self._write(f"opening-{round_}.{attempt}.sealed", self._box.encrypt(label + b"\x00" + opening))

    def forget_opening(self, round_: int, attempt: int) -> None:
        """Removes an opening that opens nothing. Raises StoreError."""
        _remove([self.folder / f"opening-{round_}.{attempt}.sealed"])

    def save_update(self, round_: int, update: Update) -> None:
        """Keeps the round's update until it has left or the next round begins. Raises StoreError."""
        metrics = update.metrics
        numbers = (
            update.weight,
            metrics.examples,
            metrics.eval_tokens,
            metrics.train_loss,
            metrics.eval_loss,
        )
        self.forget_update()
        self._write(f"update-{round_}.f32", np.ascontiguousarray(update.values, "<f4").data)
        self._write(f"update-{round_}.meta", np.array([numbers], _METRICS).tobytes())

    def update(self, round_: int) -> Update | None:
        """The update this site trained for the round, if it still has it. Raises StoreError."""
        meta, values = self._read(f"update-{round_}.meta"), self._read(f"update-{round_}.f32")
        if meta is None or values is None:
            return None
        if len(meta) != _METRICS.itemsize or len(values) % 4:
            raise _damaged(self.folder / f"update-{round_}.f32")
        weight, examples, tokens, train, held_out = np.frombuffer(meta, _METRICS)[0].tolist()
        metrics = Metrics(examples, train, held_out, tokens)
        return Update(np.frombuffer(values, "<f4").astype(np.float32, copy=False), weight, metrics)

    def save_sent(self, round_: int, attempt: int, words: Words) -> None:
        """Keeps the words that leave in this attempt, as the server will have them. Raises StoreError.

        Not flushed: a crash may cost them, and then the site refuses what takes them.
        """
        self._forget(_SENT)
        path = self.folder / f"sent-{round_}.{attempt}.u64"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(np.ascontiguousarray(words, "<u8").data)
        except OSError as error:
            raise _failed("write", path, error) from None

    def sent(self, round_: int, attempt: int) -> Words | None:
        """The words that left in this attempt, if they are whole and here. Raises StoreError."""
        content = self._read(f"sent-{round_}.{attempt}.u64")
        if content is None or len(content) % 8:
            return None
        return np.frombuffer(content, "<u8").astype(np.uint64, copy=False)

    def _forget(self, *kinds: tuple[str, ...]) -> None:
        _remove(_files(self.folder, *kinds))

    def forget_update(self) -> None:
        """Removes every update: it has left the site, or nobody will ask for it again. Raises StoreError."""
        self._forget(_UPDATES)

    def forget_round(self) -> None:
        """Removes what a round that is over here needed: update, shares of others, words. Raises StoreError."""
        self._forget(_UPDATES, _CLIENTS, _SENT)

    # ------------------------------------------------------------------ files

    def _write(self, name: str, content: bytes | memoryview) -> None:
        """Replaces a file as a whole, durably."""
        path, beside = self.folder / name, self.folder / f".{name}.new"
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            _sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _failed("write", path, error) from None


def forget_other_sessions(home: Path, session: bytes) -> None:
    """Removes updates and attempts of every other session: a site takes part in one at a time (spec §16.3).

    Raises StoreError.
    """
    for folder in (home / STATE).glob("*"):
        if folder.name != session.hex():
            _remove(_files(folder, _UPDATES, _CLIENTS, _SENT))


class JoinedSessions:
    """Every session this home has agreed to: a list of session ids and nonces beside the state, which only grows."""

    def __init__(self, home: Path) -> None:
        self._home, self._list = home, _GrowingList(home / "sessions.log")

    def require_new_or_whole(self, manifest: Manifest) -> None:
        """Raises Refused for a session that this home must not begin, StoreError if it cannot tell.

        One nonce gives one initial adapter: two sessions on it, with survivor sets that differ by one site,
        would give that site's update away. A session whose log is gone could be answered twice (spec §16.1).
        """
        known = self._list.lines()
        if self._line(manifest) in known:
            if not (self._home / STATE / manifest.digest().hex() / LOG_FILE).exists():
                raise Refused("this site joined that session before, and its log of answers is gone")
        elif any(each.endswith(manifest.nonce.hex()) for each in known):
            raise Refused("another session used this nonce: its adapter would be trained twice")

    def note(self, manifest: Manifest) -> None:
        """Keeps the session for good, before anything of it is answered. Raises StoreError."""
        self._list.add(self._line(manifest))

    @staticmethod
    def _line(manifest: Manifest) -> str:
        return f"{manifest.digest().hex()} {manifest.nonce.hex()}"


class UsedKeys:
    """Which session used which shared key of this home, and which keys are given up: a list that only grows."""

    def __init__(self, home: Path) -> None:
        self._list = _GrowingList(home / USED_KEYS_FILE)

    def require_unused(self, manifest: Manifest) -> None:
        """Raises Refused if another session used the manifest's shared key, or it is given up; StoreError."""
        key = manifest.option(SHARED_KEY)
        for line in self._list.lines():
            if key and line == self._given_up(manifest):
                raise Refused(f"a sum under this shared key was refused; make a new one: fedkeys {manifest.scheme} new")
            if key and line.startswith(key) and line != self._line(manifest):
                raise Refused(f"another session used this shared key; make a new one: fedkeys {manifest.scheme} new")

    def take(self, manifest: Manifest) -> None:
        """Keeps for good that this session uses its shared key, if it has one. Raises Refused or StoreError."""
        self.require_unused(manifest)
        if manifest.option(SHARED_KEY):
            self._list.add(self._line(manifest))

    def give_up(self, manifest: Manifest) -> None:
        """Keeps for good that the shared key, if there is one, must not be used again. Raises StoreError."""
        if manifest.option(SHARED_KEY):
            self._list.add(self._given_up(manifest))

    @staticmethod
    def _line(manifest: Manifest) -> str:
        return f"{manifest.option(SHARED_KEY)} {manifest.digest().hex()}"

    @staticmethod
    def _given_up(manifest: Manifest) -> str:
        return f"refused {manifest.option(SHARED_KEY)}"


class _GrowingList:
    """Lines of a file in the site's home; each is durable when `add` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        """Every line. Raises StoreError."""
        try:
            return self._path.read_text(encoding="ascii").splitlines() if self._path.exists() else []
        except OSError as error:
            raise _failed("read", self._path, error) from None
        except UnicodeDecodeError:
            raise _damaged(self._path) from None

    def add(self, line: str) -> None:
        """Adds a line, unless it is there. Raises StoreError."""
        known = self.lines()
        if line not in known:
            try:
                self._replace([*known, line])
            except OSError as error:
                raise _failed("write", self._path, error) from None

    def _replace(self, lines: Sequence[str]) -> None:
        """Writes the list anew: a line cut short by a full disk would stand in the way of its session for good."""
        beside = self._path.with_name(f".{self._path.name}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            file.write("".join(f"{line}\n" for line in lines).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        _sync_folder(self._path.parent)


class AnswerLog:
    """An append-only file, one line of hexadecimal per answer; bound to the very file it was begun in.

    Restored from a backup it is another file, and this site may have answered since: it is refused.
    """

    def __init__(self, path: Path, session: bytes) -> None:
        """Reads the log, or begins it. Raises StoreError."""
        self._path = path
        self._length = 0  # bytes of whole lines
        self.ledger = Ledger(session)
        try:
            if path.exists():
                self._load(path.read_bytes())
            else:
                self._begin()
        except OSError as error:
            raise _failed("open", path, error) from None

    def _begin(self) -> None:
        """Makes the file; it has its name only once its first line is whole, for a torn one would be refused."""
        beside = self._path.with_name(f".{self._path.name}.new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
        with os.fdopen(descriptor, "wb") as file:
            birth = self._birth(os.fstat(file.fileno()))
            file.write(birth)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        _sync_folder(self._path.parent)
        self._length = len(birth)

    def _birth(self, found: os.stat_result) -> bytes:
        return f"{self.ledger.session.hex()} {found.st_ino:x}\n".encode()

    def _load(self, content: bytes) -> None:
        first, _, rest = content.partition(b"\n")
        if first + b"\n" != self._birth(self._path.stat()):
            raise StoreError(
                f"{self._path} is not the log that was begun here: it was copied, restored or moved",
                "leave this session: the consortium has to begin a new one with this site in it",
            )
        whole, _, torn = rest.rpartition(b"\n")
        for line in whole.split(b"\n") if whole else ():
            self.ledger = Ledger(self.ledger.session, self._answer(line))
        self._length = len(content) - len(torn)  # a torn line was cut short, so its reply never left

    def _answer(self, line: bytes) -> Answer:
        """The answer in one line. Raises StoreError unless it is of this session and later than the one before."""
        try:
            answer = Answer.decode(bytes.fromhex(line.decode("ascii")))
        except (Malformed, ValueError):
            raise _damaged(self._path) from None
        last = self.ledger.last
        is_later = last is None or _order(last) < _order(answer)
        if _line(answer) != line + b"\n" or answer.session != self.ledger.session or not is_later:
            raise _damaged(self._path)
        return answer

    def append(self, line: Answer) -> None:
        """Adds one line, durably. Raises StoreError, and then the answer must not be given."""
        content = _line(line)
        try:
            with self._path.open("r+b") as file:
                file.truncate(self._length)  # what an append that failed left behind
                file.seek(self._length)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _failed("write", self._path, error) from None
        self._length += len(content)
        self.ledger = Ledger(self.ledger.session, line)


def _line(answer: Answer) -> bytes:
    return answer.encode().hex().encode() + b"\n"


def _order(answer: Answer) -> tuple[int, int, int]:
    return answer.round, answer.attempt, answer.stage


def _files(folder: Path, *kinds: tuple[str, ...]) -> list[Path]:
    return [file for kind in kinds for pattern in kind for file in folder.glob(pattern)]


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", file, error) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(act: str, path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot {act} {path}: {error.strerror}", "free or repair the disk, then start fedclient again")


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is damaged", "move the session's state folder away and join the next session")
