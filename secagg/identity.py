"""Who takes part: a site's private keys, its public entry, and the roster that the root signs (spec §6)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secagg.errors import Malformed, Refused
from secagg.labels import FINGERPRINT, ROSTER, SIGN_ROSTER
from secagg.primitives.signature import is_signed, sign
from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Range, Signature, Struct

LAST_SECOND: Final = (1 << 53) - 1


def fingerprint(public: bytes) -> str:
    """16 groups of 4 hex digits that people compare by telephone: SHA-256 over the label and the key."""
    digest = hashlib.sha256(FINGERPRINT + public).hexdigest()
    return " ".join(digest[i : i + 4] for i in range(0, 64, 4))


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32-byte public half."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


@dataclass(frozen=True, slots=True)
class SharedKey:
    """A secret that all sites of a consortium hold and its server does not."""

    name: bytes  # 32 bytes: digest of the public half
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """A site's private keys. Printing them shows the name and fingerprint only.

    shared: keys that some schemes need besides.
    """

    site: str
    identity: Ed25519PrivateKey = field(repr=False)
    shared: tuple[SharedKey, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"SiteKeys(site={self.site!r}, fingerprint={fingerprint(self.public)[:9]!r}...)"

    @property
    def public(self) -> bytes:
        """The 32-byte identity key."""
        return public_bytes(self.identity)

    def shared_key(self, name: bytes) -> SharedKey:
        """The shared key of this name. Raises Refused if the site does not hold it."""
        for key in self.shared:
            if key.name == name:
                return key
        raise Refused(f"this site does not hold the shared key {name.hex()[:16]}")

    def sign(self, label: bytes, *parts: bytes) -> bytes:
        """The site's signature over label || parts."""
        return sign(self.identity, label, *parts)


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """The key with which the server signs what it opens; it protects nobody's data (spec §6.5)."""

    identity: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """The 32-byte key that the manifest names."""
        return public_bytes(self.identity)


@dataclass(frozen=True, slots=True)
class RosterEntry(Struct):
    """One site's public keys and when they cease to count."""

    site: Name
    identity_key: Key32
    node_key: Annotated[bytes, Length(1, 256)]  # P-384 SubjectPublicKeyInfo, DER: Flower's node key
    expires: Annotated[int, Range(0, LAST_SECOND)]  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Roster(Struct):
    """The sites of a consortium in one epoch, signed offline by its root.

    Raises Malformed if two sites share a key or a revoked key is listed.
    """

    TAG = 1

    consortium: Name
    epoch: Annotated[int, Range(1, LAST_SECOND)]
    expires: Annotated[int, Range(0, LAST_SECOND)]
    root_key: Key32
    sites: Annotated[tuple[RosterEntry, ...], Items(1, MAX_SITES)]
    revoked: Annotated[tuple[Key32, ...], Items(0, 1000, by="")]  # identity keys that never return
    signature: Signature

    def __post_init__(self) -> None:
        Struct.__post_init__(self)
        for kind in ("identity_key", "node_key"):
            if len({getattr(entry, kind) for entry in self.sites}) != len(self.sites):
                raise Malformed("two sites of the roster share a key")
        if {entry.identity_key for entry in self.sites} & set(self.revoked):
            raise Malformed("the roster lists a revoked key")

    def digest(self) -> bytes:
        """32 bytes that name this roster: its signed content, not the signature."""
        return hashlib.sha256(ROSTER + self.unsigned()).digest()

    def names(self) -> tuple[str, ...]:
        """The sites, ascending."""
        return tuple(entry.site for entry in self.sites)

    def entry(self, site: str) -> RosterEntry:
        """The site's entry. Raises Refused for a stranger."""
        for entry in self.sites:
            if entry.site == site:
                return entry
        raise Refused(f"{site} is not on the roster")

    def verify(self, root_key: Digest, now: int) -> None:
        """Checks signature and expiry. Raises Malformed or Refused.

        root_key: 32 bytes, pinned by the caller. now: seconds since 1970.
        """
        if self.root_key != root_key or not is_signed(root_key, self.signature, SIGN_ROSTER, self.unsigned()):
            raise Malformed("the roster is not signed by the consortium's root")
        if now > self.expires:
            raise Refused("the roster has expired")

    def verify_site(self, keys: SiteKeys, now: int) -> None:
        """Checks that these keys are on the roster and current. Raises Refused."""
        entry = self.entry(keys.site)
        if keys.public in self.revoked:
            raise Refused(f"{keys.site}'s key is revoked")
        if entry.identity_key != keys.public:
            raise Refused(f"{keys.site}'s key on the roster is another one")
        if now > entry.expires:
            raise Refused(f"{keys.site}'s entry on the roster has expired")


def sign_roster(unsigned: Roster, root: Ed25519PrivateKey) -> Roster:
    """The same roster under the root's signature (the one it holds is ignored)."""
    fields = {name: getattr(unsigned, name) for name in Roster.__dataclass_fields__}
    return Roster(**{**fields, "signature": sign(root, SIGN_ROSTER, unsigned.unsigned())})
