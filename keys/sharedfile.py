"""Shared keys in a site's home: a file each, 0600, sealed under the state key that site.key holds (spec §6.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from keys.errors import DamagedFile
from keys.files import PRIVATE, NewFile, read_private
from keys.params import SHARED_KEY_LIMIT
from secagg.identity import SharedKey

FOLDER: Final = "shared-keys"
_ENDING: Final = ".sealed"
_NAME_BYTES: Final = 32


def shared_key_file(home: Path, state_key: bytes, key: SharedKey) -> NewFile:
    """The file to write; who can open site.key can open it. state_key: 32 bytes."""
    sealed = SecretBox(state_key).encrypt(_label(key.name) + key.secret)
    return NewFile(path_of(home, key.name), sealed, PRIVATE)


def path_of(home: Path, name: bytes) -> Path:
    """Where the key of this name lies."""
    return home / FOLDER / f"{name.hex()}{_ENDING}"


def names_in(home: Path) -> tuple[bytes, ...]:
    """The names of the shared keys in a home, ascending; takes no key. Raises DamagedFile for a stranger's file."""
    return tuple(_name_of(path) for path in sorted((home / FOLDER).glob(f"*{_ENDING}")))


def load_shared_keys(home: Path, state_key: bytes) -> tuple[SharedKey, ...]:
    """Every shared key in a home. Raises KeyFileError."""
    return tuple(_load(home, state_key, name) for name in names_in(home))


def _load(home: Path, state_key: bytes, name: bytes) -> SharedKey:
    path, label = path_of(home, name), _label(name)
    try:
        content = SecretBox(state_key).decrypt(read_private(path, SHARED_KEY_LIMIT))
    except (CryptoError, ValueError):
        raise _damaged(path) from None
    if not content.startswith(label):
        raise _damaged(path)
    return SharedKey(name, content[len(label) :])


def _label(name: bytes) -> bytes:
    return f"{FOLDER} {name.hex()}\0".encode()


def _name_of(path: Path) -> bytes:
    try:
        name = bytes.fromhex(path.name.removesuffix(_ENDING))
    except ValueError:
        raise _damaged(path) from None
    if len(name) != _NAME_BYTES:
        raise _damaged(path)
    return name


def _damaged(path: Path) -> DamagedFile:
    return DamagedFile(
        f"{path} is damaged, or no shared key of this home", "remove it, and accept the file that its maker sent again"
    )
