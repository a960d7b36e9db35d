"""What anybody may read: rosters, sites' public files, public keys, fingerprints; no private keys (spec §6.3).

With `keys.server` (its own key and certificate), `keys.console` and `keys.errors`, all that fedserver imports.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from keys.errors import DamagedFile, KeyFileError, UntrustedRoot
from keys.files import read_bounded
from keys.nodekey import openssh_node_key, require_node_key
from keys.params import KEY_FILE_LIMIT, PUBLIC_KEY_FORMAT, SITE_FORMAT
from keys.rosterfile import load_roster, read_roster, render_roster, require_roster
from keys.strictjson import from_hex, parse_object, render, require_fields, require_format
from secagg.errors import Malformed
from secagg.identity import Roster, SiteKeys, fingerprint
from secagg.labels import SIGN_SITE_PUBLIC
from secagg.primitives.signature import is_signed
from secagg.wire import Key32, Length, Name, Signature, Struct

__all__ = [
    "KeyFileError",
    "SitePublic",
    "fingerprint",
    "load_roster",
    "node_keys",
    "openssh_node_key",
    "read_public_key",
    "read_roster",
    "read_site_public",
    "render_public_key",
    "render_roster",
    "render_site_public",
    "require_fingerprint",
    "require_roster",
    "sign_site_public",
]

_SITE: Final = {"format": str, "site": str, "identity_key": str, "node_key": str, "signature": str}
_KEY: Final = {"format": str, "role": str, "key": str}
_AGAIN: Final = "ask whoever sent it to send it again, as it was made"


@dataclass(frozen=True, slots=True)
class SitePublic(Struct):
    """What a site sends to the root keeper. The signature shows that it holds the identity key."""

    site: Name
    identity_key: Key32
    node_key: Annotated[bytes, Length(1, 256)]  # P-384 SubjectPublicKeyInfo, DER
    signature: Signature

    def verify(self) -> None:
        """Raises Malformed unless the identity key signed this and the node key is P-384."""
        require_node_key(self.node_key)
        if not is_signed(self.identity_key, self.signature, SIGN_SITE_PUBLIC, self.unsigned()):
            raise Malformed("it is not signed by the identity key that it holds")


def sign_site_public(keys: SiteKeys, node_key: bytes) -> SitePublic:
    """The site's public part under its own signature. node_key: DER SubjectPublicKeyInfo."""
    unsigned = SitePublic(keys.site, keys.public, node_key, bytes(64))
    return SitePublic(keys.site, keys.public, node_key, keys.sign(SIGN_SITE_PUBLIC, unsigned.unsigned()))


def render_site_public(public: SitePublic) -> str:
    """The text of a .pub file."""
    fields = {
        "site": public.site,
        "identity_key": public.identity_key.hex(),
        "node_key": public.node_key.hex(),
    }
    return render({"format": SITE_FORMAT, **fields, "signature": public.signature.hex()})


def read_site_public(path: Path) -> SitePublic:
    """The site's public part, its signature checked. Raises KeyFileError."""
    try:
        value = parse_object(read_bounded(path, KEY_FILE_LIMIT))
        require_format(value, SITE_FORMAT)
        require_fields(value, _SITE)
        keys = [from_hex(value[name], name) for name in ("identity_key", "node_key", "signature")]
        public = SitePublic(value["site"], *keys)
        public.verify()
    except Malformed as error:
        raise DamagedFile(f"{path} is not a site's public file: {error}", _AGAIN) from error
    return public


def render_public_key(role: Literal["root", "server"], key: bytes) -> str:
    """The text of root.pub or signing.pub."""
    return render({"format": PUBLIC_KEY_FORMAT, "role": role, "key": key.hex()})


def read_public_key(path: Path, role: Literal["root", "server"]) -> bytes:
    """The 32-byte public key of a root or a server. Raises KeyFileError."""
    try:
        value = parse_object(read_bounded(path, KEY_FILE_LIMIT))
        require_format(value, PUBLIC_KEY_FORMAT)
        require_fields(value, _KEY)
        key = from_hex(value["key"], "key")
        if value["role"] != role or len(key) != 32:
            raise Malformed(f"it does not hold a {role}'s key of 32 bytes")
    except Malformed as error:
        raise DamagedFile(f"{path} is not a {role}'s public key: {error}", _AGAIN) from error
    return key


def node_keys(roster: Roster) -> dict[str, bytes]:
    """Each site's node key, DER SubjectPublicKeyInfo, for `SuperLink.register`."""
    return {entry.site: entry.node_key for entry in roster.sites}


def require_fingerprint(public: bytes, expected: str) -> None:
    """Raises UntrustedRoot unless `expected` is the key's whole fingerprint; blanks and case do not count."""
    heard = "".join(expected.split()).lower()
    if not hmac.compare_digest(heard.encode(), fingerprint(public).replace(" ", "").encode()):
        raise UntrustedRoot(
            f"the fingerprint is {fingerprint(public)}, not the one given",
            "compare all 64 digits again by telephone; if they differ, the file was swapped: do not use it",
        )
