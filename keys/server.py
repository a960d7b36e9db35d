"""The server's own private part: the key it signs rounds with, and where its TLS files are (spec §6.5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.errors import DamagedFile, KeyFileError, MissingFile
from keys.files import PUBLIC, NewFile, make_private_folder, read_bounded, read_private, write_new
from keys.keyfile import RESTORE, Owner, new_key_file, open_key_file
from keys.params import CERTIFICATE_LIMIT
from keys.public import render_public_key
from keys.strictjson import date_of
from secagg.identity import ServerKeys

SIGNING_FILE: Final = "signing.key"
SIGNING_PUBLIC_FILE: Final = "signing.pub"
TLS_FOLDER: Final = "tls"
_REISSUE: Final = "make a new one: fedkeys tls --host HOST --ca OLD --out NEW"


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """PEM files: the CA that sites are given, the server's certificate, and its private key (0600)."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class ServerHome:
    """The server's keys and the folder they were read from. Printing it shows the folder only."""

    home: Path
    keys: ServerKeys


def init_server(home: Path, passphrase: str | None = None) -> ServerHome:
    """A new server's home: folder 0700, signing.key 0600, signing.pub. Raises KeyFileError."""
    server = ServerHome(home, ServerKeys(Ed25519PrivateKey.generate()))
    owner = Owner("server", "server", server.keys.public)
    secret = server.keys.identity.private_bytes_raw()
    key_file = new_key_file(home / SIGNING_FILE, owner, secret, passphrase)
    make_private_folder(home)
    public = render_public_key("server", server.keys.public).encode()
    write_new(key_file, NewFile(home / SIGNING_PUBLIC_FILE, public, PUBLIC))
    return server


def load_server(home: Path, passphrase: str | None = None) -> ServerHome:
    """The server's signing key. Raises KeyFileError."""
    path = home / SIGNING_FILE
    if not path.exists():
        raise MissingFile(f"{home} holds no server's key", f"make it: fedkeys server init --out '{home}'")
    owner, secret = open_key_file(path, "server", 32, passphrase)
    keys = ServerKeys(Ed25519PrivateKey.from_private_bytes(secret))
    if keys.public != owner.public:
        raise DamagedFile(f"{path} was altered: its public key is another one", RESTORE)
    return ServerHome(home, keys)


def tls_files(folder: Path) -> TlsPaths:
    """Where `fedkeys tls` puts its files in a folder; says nothing about whether they are there."""
    return TlsPaths(folder / "ca.pem", folder / "server.pem", folder / "server.key")


def load_tls(folder: Path, now: int) -> TlsPaths:
    """The server's TLS files, present, private where they must be, and valid. Raises KeyFileError."""
    paths = tls_files(folder)
    if not paths.certificate.exists():
        raise MissingFile(f"{folder} holds no certificate", f"make it: fedkeys tls --host HOST --out '{folder}'")
    read_private(paths.key, CERTIFICATE_LIMIT)
    for path in (paths.ca, paths.certificate):
        ends = int(read_certificate(path).not_valid_after_utc.timestamp())
        if now > ends:
            raise KeyFileError(f"the certificate {path} has expired on {date_of(max(0, ends))}", _REISSUE)
    return paths


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate in a PEM file. Raises KeyFileError."""
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(path, CERTIFICATE_LIMIT))
        _ = certificate.not_valid_after_utc, certificate.subject  # read only now, and wrong if the file is
        return certificate
    except (ValueError, x509.InvalidVersion) as error:
        raise DamagedFile(f"{path} is not a certificate in PEM", "check that this is the file you mean") from error
