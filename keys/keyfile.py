"""The private key file: its owner and its secret, plain (0600) or sealed under a passphrase (spec §6.2)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from keys.errors import DamagedFile, KeyFileError, PassphraseNeeded, WrongPassphrase
from keys.files import PRIVATE, NewFile, read_private
from keys.params import (
    KEY_FILE_LIMIT,
    LEAST_PASSPHRASE,
    PRIVATE_KEY_FORMAT,
    SALT_BYTES,
    SCRYPT_N,
    SCRYPT_N_MOST,
    SCRYPT_P,
    SCRYPT_R,
)
from keys.strictjson import from_hex, parse_object, render, require_fields, require_format
from secagg.errors import Malformed
from secagg.labels import KEY_AT_REST, KEY_CHECK
from secagg.primitives.aead import seal, unseal
from secagg.wire import NAME, encode_plain

Role = Literal["site", "root", "server"]
RESTORE: Final = "put the file back from a backup, or make a new key and tell the root keeper"

_COMMON: Final = {"format": str, "role": str, "name": str, "public": str, "protection": str, "secret": str}
_PLAIN: Final = {**_COMMON, "check": str}
_SEALED: Final = {**_COMMON, "salt": str, "n": int, "r": int, "p": int}


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose key it is: the role, the name, and the 32-byte Ed25519 public key. Nothing secret."""

    role: Role
    name: str
    public: bytes

    def encode(self) -> bytes:
        """The bytes that bind the secret to its owner."""
        return encode_plain([self.role, self.name, self.public])


@dataclass(frozen=True, slots=True)
class _Cost:
    salt: bytes
    n: int
    r: int
    p: int

    def __post_init__(self) -> None:
        power = self.n & (self.n - 1) == 0
        if not (power and SCRYPT_N >> 3 <= self.n <= SCRYPT_N_MOST and (self.r, self.p) == (SCRYPT_R, SCRYPT_P)):
            raise Malformed("its scrypt parameters are outside the limits")
        if len(self.salt) != SALT_BYTES:
            raise Malformed("its salt has the wrong length")

    def key(self, passphrase: str) -> bytes:
        text = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogatepass")
        return Scrypt(self.salt, 32, self.n, self.r, self.p).derive(text)

    def aad(self, owner: Owner) -> bytes:
        return KEY_AT_REST + encode_plain([*_items(owner), self.salt, self.n, self.r, self.p])


def _items(owner: Owner) -> list[object]:
    return [owner.role, owner.name, owner.public]


def new_key_file(path: Path, owner: Owner, secret: bytes, passphrase: str | None) -> NewFile:
    """The file to write, 0600. Raises KeyFileError for a short passphrase."""
    head = {
        "format": PRIVATE_KEY_FORMAT,
        "role": owner.role,
        "name": owner.name,
        "public": owner.public.hex(),
    }
    body = _plain_body(owner, secret) if passphrase is None else _sealed_body(owner, secret, passphrase)
    return NewFile(path, render({**head, **body}).encode(), PRIVATE)


def _plain_body(owner: Owner, secret: bytes) -> dict[str, str | int]:
    return {"protection": "none", "check": _check(owner, secret).hex(), "secret": secret.hex()}


def _sealed_body(owner: Owner, secret: bytes, passphrase: str) -> dict[str, str | int]:
    if len(passphrase) < LEAST_PASSPHRASE:
        raise KeyFileError(
            f"the passphrase has fewer than {LEAST_PASSPHRASE} characters",
            "choose a longer one, such as five words",
        )
    cost = _Cost(secrets.token_bytes(SALT_BYTES), SCRYPT_N, SCRYPT_R, SCRYPT_P)
    sealed = seal(cost.key(passphrase), secret, cost.aad(owner))  # the salt is new, so the key seals once
    numbers: dict[str, str | int] = {"n": cost.n, "r": cost.r, "p": cost.p}
    return {"protection": "scrypt", "salt": cost.salt.hex(), **numbers, "secret": sealed.hex()}


def _check(owner: Owner, secret: bytes) -> bytes:
    return hashlib.sha256(KEY_CHECK + owner.encode() + secret).digest()


def read_owner(path: Path) -> Owner:
    """Whose key file it is, without opening the secret. Raises KeyFileError."""
    return _parse(path)[0]


def is_sealed(path: Path) -> bool:
    """Whether the file asks for a passphrase. Raises KeyFileError."""
    return bool(_parse(path)[1]["protection"] == "scrypt")


def open_key_file(path: Path, role: Role, length: int, passphrase: str | None) -> tuple[Owner, bytes]:
    """The owner and the secret of `length` bytes. Raises KeyFileError."""
    owner, value = _parse(path)
    if owner.role != role:
        raise DamagedFile(f"{path} is a {owner.role}'s key, not a {role}'s", "check that this is the file you mean")
    sealed = value["protection"] == "scrypt"
    secret = _unseal(path, owner, value, passphrase) if sealed else _plain(path, owner, value, passphrase)
    if len(secret) != length:
        raise DamagedFile(f"{path} is damaged: its secret has the wrong length", RESTORE)
    return owner, secret


def _plain(path: Path, owner: Owner, value: dict[str, Any], passphrase: str | None) -> bytes:
    if passphrase is not None:
        raise KeyFileError(f"a passphrase was given, but {path} is not sealed under one", "leave the passphrase out")
    secret = from_hex(value["secret"], "secret")
    if not hmac.compare_digest(_check(owner, secret).hex().encode(), value["check"].encode()):
        raise DamagedFile(f"{path} was altered: its check does not match", RESTORE)
    return secret


def _unseal(path: Path, owner: Owner, value: dict[str, Any], passphrase: str | None) -> bytes:
    if passphrase is None:
        raise PassphraseNeeded(f"{path} is sealed under a passphrase", "give it with --passphrase-file FILE")
    cost = _cost(value)
    try:
        return unseal(cost.key(passphrase), from_hex(value["secret"], "secret"), cost.aad(owner))
    except Malformed as error:
        raise WrongPassphrase(
            f"the passphrase does not open {path}, or the file was altered",
            "try the passphrase again; if it is right, " + RESTORE,
        ) from error


def _cost(value: dict[str, Any]) -> _Cost:
    return _Cost(from_hex(value["salt"], "salt"), value["n"], value["r"], value["p"])


def _parse(path: Path) -> tuple[Owner, dict[str, Any]]:
    try:
        value = parse_object(read_private(path, KEY_FILE_LIMIT))
        require_format(value, PRIVATE_KEY_FORMAT)
        require_fields(value, _SEALED if value.get("protection") == "scrypt" else _PLAIN)
        if value["protection"] not in ("none", "scrypt"):
            raise Malformed("it is protected in an unknown way")
        for name in ("secret", "check", "salt"):
            from_hex(value.get(name, ""), name)
        if value["protection"] == "scrypt":
            _cost(value)
        return _owner(value), value
    except Malformed as error:
        raise DamagedFile(f"{path} is not a whole private key file: {error}", RESTORE) from error


def _owner(value: dict[str, Any]) -> Owner:
    public = from_hex(value["public"], "public")
    if value["role"] not in ("site", "root", "server") or not NAME.fullmatch(value["name"]) or len(public) != 32:
        raise Malformed("it does not say whose key it is")
    return Owner(value["role"], value["name"], public)
