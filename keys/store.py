"""A site's home: one private key file, its public part beside it, the pinned root (spec §6.2)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import platformdirs
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.errors import DamagedFile, KeyFileError, MissingFile
from keys.files import PUBLIC, NewFile, make_private_folder, write_new
from keys.keyfile import RESTORE, Owner, new_key_file, open_key_file
from keys.nodekey import node_public
from keys.params import NODE_SECRET_BYTES, STATE_KEY_BYTES
from keys.public import SitePublic, read_site_public, render_site_public, sign_site_public
from keys.sharedfile import load_shared_keys
from secagg.identity import SiteKeys
from secagg.wire import NAME

KEY_FILE: Final = "site.key"
PUBLIC_FILE: Final = "site.pub"
_IDENTITY_BYTES: Final = 32
_SECRET_BYTES: Final = _IDENTITY_BYTES + NODE_SECRET_BYTES + STATE_KEY_BYTES


@dataclass(frozen=True, slots=True)
class SiteHome:
    """A site's private keys and where they were read from. Printing it shows name, fingerprint and folder.

    node_key: P-384, what the site shows to Flower. state_key: 32 bytes, seals the durable state at rest.
    """

    home: Path
    keys: SiteKeys
    node_key: ec.EllipticCurvePrivateKey = field(repr=False)
    state_key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.keys.site


def default_home(name: str) -> Path:
    """Where a site of this name keeps its keys unless told otherwise. Raises KeyFileError for a bad name."""
    require_name(name, "site")
    return platformdirs.user_data_path("secagg-lora", appauthor=False) / name


def require_name(name: str, what: str) -> None:
    """Raises KeyFileError unless `name` is a name of the protocol."""
    if not NAME.fullmatch(name):
        raise KeyFileError(
            f"{name!r} is not a name for a {what}",
            "use 1 to 32 of the letters a-z, the digits and inner hyphens, such as hospital-a",
        )


def init_site(name: str, home: Path | None = None, passphrase: str | None = None) -> SiteHome:
    """A new site's home: folder 0700, site.key 0600, site.pub. Raises KeyFileError, nothing changed."""
    require_name(name, "site")
    home = default_home(name) if home is None else home
    identity = Ed25519PrivateKey.generate()
    node = ec.generate_private_key(ec.SECP384R1())
    site = SiteHome(home, SiteKeys(name, identity), node, secrets.token_bytes(STATE_KEY_BYTES))
    public = sign_site_public(site.keys, node_public(node))
    key_file = new_key_file(home / KEY_FILE, Owner("site", name, site.keys.public), _pack(site), passphrase)
    make_private_folder(home)
    write_new(key_file, NewFile(home / PUBLIC_FILE, render_site_public(public).encode(), PUBLIC))
    return site


def load_site(home: Path, passphrase: str | None = None) -> SiteHome:
    """The keys in a site's home, shared ones too. Raises KeyFileError; changes nothing."""
    path = home / KEY_FILE
    if not path.exists():
        raise MissingFile(f"{home} holds no site's keys", "make them with: fedkeys init NAME, or check the path")
    owner, secret = open_key_file(path, "site", _SECRET_BYTES, passphrase)
    site = _unpack(home, owner.name, secret, path)
    if site.keys.public != owner.public:
        raise DamagedFile(f"{path} was altered: its public key is another one", RESTORE)
    return replace(site, keys=replace(site.keys, shared=load_shared_keys(home, site.state_key)))


def read_own_public(home: Path) -> SitePublic:
    """The site's public part; needs no passphrase. Raises KeyFileError."""
    if not (home / PUBLIC_FILE).exists():
        raise MissingFile(f"{home} holds no site's keys", "make them with: fedkeys init NAME, or check the path")
    return read_site_public(home / PUBLIC_FILE)


def _pack(site: SiteHome) -> bytes:
    scalar = site.node_key.private_numbers().private_value
    return site.keys.identity.private_bytes_raw() + scalar.to_bytes(NODE_SECRET_BYTES, "big") + site.state_key


def _unpack(home: Path, name: str, secret: bytes, path: Path) -> SiteHome:
    identity, rest = secret[:_IDENTITY_BYTES], secret[_IDENTITY_BYTES:]
    scalar = int.from_bytes(rest[:NODE_SECRET_BYTES], "big")
    try:
        node = ec.derive_private_key(scalar, ec.SECP384R1())
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: it holds no P-384 key", RESTORE) from error
    keys = SiteKeys(name, Ed25519PrivateKey.from_private_bytes(identity))
    return SiteHome(home, keys, node, rest[NODE_SECRET_BYTES:])
