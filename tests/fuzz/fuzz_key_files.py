"""Rosters, key files, public files and certificates of any content: read, or refused in two lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.secret import SecretBox

from keys.dealt import read_dealt
from keys.errors import DamagedFile, KeyFileError
from keys.files import PRIVATE
from keys.keyfile import Owner, _check, is_sealed, new_key_file, read_owner
from keys.nodekey import node_public
from keys.params import PRIVATE_KEY_FORMAT, SCRYPT_N, SCRYPT_P, SCRYPT_R
from keys.pin import ROOT_FILE, pinned_root
from keys.public import (
    node_keys,
    openssh_node_key,
    read_public_key,
    read_roster,
    read_site_public,
    render_public_key,
    render_roster,
    render_site_public,
    sign_site_public,
)
from keys.recognise import fingerprints_in
from keys.rosterfile import parse_roster
from keys.server import load_server, load_tls, read_certificate, tls_files
from keys.sharedfile import load_shared_keys, path_of, shared_key_file
from keys.store import SiteHome, _pack, load_site
from keys.tls import CA_KEY_FILE, issue_tls, load_authority
from secagg.errors import Malformed
from secagg.identity import Roster, RosterEntry, SharedKey, SiteKeys, sign_roster
from secagg.schemes import shared_keys
from tests.fuzz.target import ALLOWED, Cut, folder

NOW: Final = 1_800_000_000
CHECKED: Final = 128  # bit of the first byte: give a private key file the check that fits its content


def one(data: bytes) -> None:
    """First byte: which reader. The rest: the file."""
    cut = Cut(data)
    which = cut.number()
    content = cut.rest()
    if which & CHECKED:
        content = _checked(content)
    name, read = READERS[(which & ~CHECKED) % len(READERS)]
    path = folder() / "key-files" / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(content)
    path.chmod(PRIVATE)
    try:
        read(path)
    except KeyFileError as error:
        assert error.problem and error.remedy and "\n" not in error.problem + error.remedy
    except ALLOWED as error:  # the core's own are turned into the above
        raise AssertionError(f"{type(error).__name__} came out of {name}") from error


def _checked(content: bytes) -> bytes:
    """Whoever alters a file that is not sealed can alter its check as well."""
    try:
        value = json.loads(content)
        owner = Owner(value["role"], value["name"], bytes.fromhex(value["public"]))
        value["check"] = _check(owner, bytes.fromhex(value["secret"])).hex()
        return json.dumps(value).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return content


def _roster(path: Path) -> None:
    for key in node_keys(read_roster(path)).values():
        openssh_node_key(key)


def _unsigned_roster(path: Path) -> None:
    """Reads on where a roster without the root's signature would have ended: what is whole comes back the same."""
    try:
        roster = parse_roster(path.read_bytes())
    except Malformed as error:
        raise DamagedFile("it is not a roster", "ask again") from error
    assert parse_roster(render_roster(roster).encode()) == roster


def _certificate(path: Path) -> None:
    files = tls_files(path.parent)
    for each in (files.ca, files.key):
        each.write_bytes(path.read_bytes())
        each.chmod(PRIVATE)
    read_certificate(path)
    load_tls(path.parent, NOW)


def _authority(path: Path) -> None:
    """A CA's certificate beside the CA's own key."""
    files()
    key = path.with_name(CA_KEY_FILE)
    key.write_bytes((folder() / "tls" / CA_KEY_FILE).read_bytes())
    key.chmod(PRIVATE)
    load_authority(path.parent, NOW)


def _owner(path: Path) -> None:
    read_owner(path)
    is_sealed(path)


def _dealt(path: Path) -> None:
    read_dealt(path, _made()[1])


def _shared_key(path: Path) -> None:
    """As a file that the home's own state key sealed: what is in it may be anything all the same."""
    home = path.parent / "home"
    sealed = path_of(home, bytes(32))
    sealed.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for content in (path.read_bytes(), SecretBox(bytes(32)).encrypt(path.read_bytes())):
        sealed.write_bytes(content)
        sealed.chmod(PRIVATE)
        try:
            load_shared_keys(home, bytes(32))
        except DamagedFile:
            continue


READERS: Final[list[tuple[str, Callable[[Path], object]]]] = [
    ("roster.json", _roster),
    ("site.pub", read_site_public),
    ("root.pub", lambda path: read_public_key(path, "root")),
    (ROOT_FILE, lambda path: pinned_root(path.parent)),
    ("owner.key", _owner),
    ("site.key", lambda path: load_site(path.parent)),
    ("signing.key", lambda path: load_server(path.parent)),
    ("server.pem", _certificate),
    ("anything", fingerprints_in),
    ("draft.json", _unsigned_roster),
    ("ca.pem", _authority),
    ("dealt.keys", _dealt),
    ("shared.sealed", _shared_key),
]


@cache
def _made() -> tuple[list[SiteHome], Roster]:
    """Two sites and their roster; the private keys are numbers that anybody can guess."""
    root = SiteKeys("r", Ed25519PrivateKey.from_private_bytes(b"r" * 32))
    homes = [_home(name, scalar) for scalar, name in enumerate(("a", "b"), 1)]
    publics = [sign_site_public(each.keys, node_public(each.node_key)) for each in homes]
    entries = tuple(RosterEntry(each.site, each.identity_key, each.node_key, NOW) for each in publics)
    draft = Roster("test", 1, NOW, root.public, entries, (bytes(32),), bytes(64))
    return homes, sign_roster(draft, root.identity)


@cache
def files() -> dict[str, bytes]:
    """A real file for every reader."""
    server = SiteKeys("s", Ed25519PrivateKey.from_private_bytes(b"s" * 32))
    homes, signed = _made()
    publics = [sign_site_public(each.keys, node_public(each.node_key)) for each in homes]
    roster, key = render_roster(signed).encode(), SharedKey(bytes(32), b"a secret")
    tls = folder() / "tls"
    issue_tls(tls, ("localhost",), NOW)
    owner = Owner("site", "a", homes[0].keys.public)
    server_owner = Owner("server", "server", server.public)
    site_key = new_key_file(Path("x"), owner, _pack(homes[0]), None).data
    return {
        "roster.json": roster, "draft.json": roster, "site.pub": render_site_public(publics[0]).encode(),
        "root.pub": render_public_key("root", signed.root_key).encode(), "owner.key": _sealed(owner),
        "site.key": site_key,
        "signing.key": new_key_file(Path("x"), server_owner, server.identity.private_bytes_raw(), None).data,
        "server.pem": tls_files(tls).certificate.read_bytes(), "anything": tls_files(tls).ca.read_bytes(),
        "ca.pem": tls_files(tls).ca.read_bytes(),
        "dealt.keys": shared_keys.deal(homes[0].keys, signed, key).encode(),
        "shared.sealed": shared_key_file(Path("x"), bytes(32), key).data,
    }  # fmt: skip


def _home(name: str, scalar: int) -> SiteHome:
    identity = Ed25519PrivateKey.from_private_bytes(bytes([scalar]) * 32)
    return SiteHome(Path("x"), SiteKeys(name, identity), ec.derive_private_key(scalar, ec.SECP384R1()), bytes(32))


def _sealed(owner: Owner) -> bytes:
    """A key file under a passphrase, without the time that making one takes."""
    value = {
        "format": PRIVATE_KEY_FORMAT, "role": owner.role, "name": owner.name, "public": owner.public.hex(),
        "protection": "scrypt", "salt": "00" * 16, "n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "secret": "00" * 144,
    }  # fmt: skip
    return json.dumps(value, indent=2).encode()


def seeds() -> Iterator[bytes]:
    """Every reader's own file; every key file also for `anything`, which looks what it is."""
    names = [name for name, _ in READERS]
    for index, name in enumerate(names):
        yield bytes([index]) + files()["root.pub" if name == ROOT_FILE else name]
        if name.endswith(".key"):
            yield bytes([index | CHECKED]) + files()[name]
    yield from (bytes([names.index("anything")]) + content for content in files().values())
