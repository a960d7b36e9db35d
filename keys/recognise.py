"""Which of our files a file is, told by its content, and the fingerprints of the keys in it."""

from __future__ import annotations

from pathlib import Path

from keys.errors import DamagedFile, KeyFileError
from keys.files import read_bounded
from keys.keyfile import read_owner
from keys.params import PRIVATE_KEY_FORMAT, PUBLIC_KEY_FORMAT, ROSTER_FORMAT, ROSTER_LIMIT, SITE_FORMAT
from keys.public import fingerprint, read_public_key, read_roster, read_site_public
from keys.strictjson import parse_object
from secagg.errors import Malformed


def fingerprints_in(path: Path) -> list[tuple[str, str]]:
    """(whose, fingerprint) of every key in the file; of a CA, the certificate's. Raises KeyFileError."""
    data = read_bounded(path, ROSTER_LIMIT)
    if b"-----BEGIN CERTIFICATE-----" in data:
        return [_of_certificate(path)]
    readers = {
        SITE_FORMAT: _of_site,
        PUBLIC_KEY_FORMAT: _of_public_key,
        PRIVATE_KEY_FORMAT: _of_private_key,
        ROSTER_FORMAT: _of_roster,
    }
    try:
        reader = readers.get(str(parse_object(data).get("format")))
    except Malformed as error:
        raise _stranger(path) from error
    if reader is None:
        raise _stranger(path)
    return reader(path)


def _stranger(path: Path) -> KeyFileError:
    return DamagedFile(f"{path} is none of our files", "give a .pub, a .key, a roster.json or a certificate")


def _of_site(path: Path) -> list[tuple[str, str]]:
    site = read_site_public(path)
    return [(site.site, fingerprint(site.identity_key))]


def _of_public_key(path: Path) -> list[tuple[str, str]]:
    try:
        return [("root", fingerprint(read_public_key(path, "root")))]
    except DamagedFile:
        return [("server", fingerprint(read_public_key(path, "server")))]


def _of_private_key(path: Path) -> list[tuple[str, str]]:
    owner = read_owner(path)
    return [(owner.name, fingerprint(owner.public))]


def _of_roster(path: Path) -> list[tuple[str, str]]:
    roster = read_roster(path)
    sites = [(entry.site, fingerprint(entry.identity_key)) for entry in roster.sites]
    return [("root", fingerprint(roster.root_key)), *sites]


def _of_certificate(path: Path) -> tuple[str, str]:
    from cryptography.hazmat.primitives.serialization import Encoding

    from keys.server import read_certificate

    certificate = read_certificate(path)
    return certificate.subject.rfc4514_string(), fingerprint(certificate.public_bytes(Encoding.DER))
