"""How files are written (whole, durable, never over another) and read (bounded, and private if secret)."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from keys.errors import DamagedFile, ExposedFile, KeyFileError, MissingFile, WouldOverwrite

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT and the like


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be: its path, bytes and permissions."""

    path: Path
    data: bytes = field(repr=False)
    mode: int


def write_new(*files: NewFile) -> None:
    """Writes all of these files, or none. Raises WouldOverwrite if one exists, KeyFileError if it cannot."""
    placed: list[Path] = []
    try:
        for file in files:
            with _explained("write", file.path):
                _place(file)
            placed.append(file.path)
            _sync_folder(file.path.parent)
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise


def replace(path: Path, data: bytes) -> None:
    """Puts `data` in the file's place, 0600, at once and durably."""
    temporary = _beside(path)
    with _explained("write", path):
        _create(temporary, data, PRIVATE)
        temporary.replace(path)
        _sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Makes the folder 0700. Raises ExposedFile if it exists and others can read or write it."""
    with _explained("make", path):
        try:
            path.mkdir(mode=0o700, parents=True)
            path.chmod(0o700)
        except FileExistsError:
            _require_private_folder(path, 0o077)


def read_bounded(path: Path, limit: int) -> bytes:
    """The file's bytes. Raises MissingFile, or DamagedFile if there are more than `limit`."""
    with _explained("read", path), path.open("rb") as file:
        return _bounded(file.read(limit + 1), limit, path)


def read_private(path: Path, limit: int) -> bytes:
    """The bytes of a file that only its owner may read. Raises also ExposedFile."""
    with _explained("read", path), path.open("rb") as file:
        require_private(path, os.fstat(file.fileno()).st_mode)
        return _bounded(file.read(limit + 1), limit, path)


def require_private(path: Path, mode: int) -> None:
    """Raises ExposedFile if `mode` lets others at the file, or its folder lets others replace it."""
    if mode & 0o077:
        raise ExposedFile(
            f"others on this machine can read or change {path} (mode {stat.S_IMODE(mode):04o})",
            f"if nobody has read it, run: chmod 600 '{path}'; otherwise revoke the key and make a new one",
        )
    if not stat.S_ISFIFO(mode):  # a passphrase may come through a pipe
        _require_private_folder(path.parent, 0o022)


def _require_private_folder(path: Path, forbidden: int) -> None:
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise KeyFileError(f"{path} is not a folder", "name another place")
    sticky = bool(mode & stat.S_ISVTX) and forbidden == 0o022  # as in /tmp: others cannot replace our files
    if mode & forbidden and not sticky:
        verb = "write to" if forbidden == 0o022 else "look into"
        raise ExposedFile(f"others on this machine can {verb} the folder {path}", f"run: chmod 700 '{path}'")


def _bounded(data: bytes, limit: int, path: Path) -> bytes:
    if len(data) > limit:
        raise DamagedFile(f"{path} is longer than {limit} bytes", "check that this is the file you mean")
    return data


def _exists(path: Path) -> WouldOverwrite:
    return WouldOverwrite(
        f"{path} exists already and is never overwritten",
        "name another place; or move it away first, if you are sure that nobody needs it",
    )


def _place(file: NewFile) -> None:
    temporary = _beside(file.path)
    _create(temporary, file.data, file.mode)
    try:
        os.link(temporary, file.path)  # unlike a rename, fails if the name was taken meanwhile
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _create(file.path, file.data, file.mode)
    finally:
        temporary.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _create(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        try:
            if mode == PRIVATE:
                os.fchmod(file.fileno(), mode)  # whatever the umask took away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    """Turns the operating system's refusal into one that says which file and what to do."""
    try:
        yield
    except FileExistsError as error:
        raise _exists(path) from error
    except FileNotFoundError as error:
        what = path if verb == "read" else path.parent
        raise MissingFile(f"{what} does not exist", "check the path, or make it first") from error
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise KeyFileError(f"cannot {verb} {path}: {reason}", "check the path and its permissions") from error
