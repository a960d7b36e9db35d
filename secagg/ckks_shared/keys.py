"""How the key that the sites share is made, named, and handed to each of them (spec §21.2).

One site makes it and deals it out; every other one accepts it:

    key = new_shared_key()                          # -> SharedKey
    dealt = deal(keys, roster, key)                 # -> SharedKeys, one file for all other sites: dealt.encode()
    key = accept(SharedKeys.decode(octets), keys, roster)   # -> SharedKey, at each of them

keys: the site's own `SiteKeys`. roster: verified by the caller (`Roster.verify`, `Roster.verify_site`).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from typing import Annotated, Final

from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519, crypto_sign_ed25519_sk_to_curve25519
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from secagg.ckks_shared.workers import Failed, generate, require_secret
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Refused
from secagg.identity import Roster, SharedKey, SiteKeys
from secagg.labels import SHARED_KEY_BOX, SHARED_KEY_NAME, SIGN_SHARED_KEYS
from secagg.primitives.signature import is_signed
from secagg.wire import MAX_SITES, Digest, Items, Length, Name, Signature, Struct

MAX_SECRET: Final = 64_000  # bytes; TenSEAL 0.3.16 writes 61,400 to 61,500
_SEALED: Final = 48  # a fresh X25519 key and a tag of 16 bytes


@dataclass(frozen=True, slots=True)
class DealtKey(Struct):
    """What is sealed to one site: the secret, and for whom, by whom, in which roster it is."""

    TAG = 80
    label: Annotated[bytes, Length(len(SHARED_KEY_BOX), len(SHARED_KEY_BOX))]
    maker: Name
    site: Name
    roster: Digest
    key: Digest
    secret: Annotated[bytes, Length(1, MAX_SECRET)] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SharedKeyBox(Struct):
    """A DealtKey sealed to the named site."""

    site: Name
    sealed: Annotated[bytes, Length(_SEALED + 1, _SEALED + MAX_SECRET + 256)]


@dataclass(frozen=True, slots=True)
class SharedKeys(Struct):
    """One file for all sites of a roster but its maker: the key that they share from then on."""

    TAG = 81
    LIMIT = 1 << 23
    maker: Name
    roster: Digest
    key: Digest
    boxes: Annotated[tuple[SharedKeyBox, ...], Items(1, MAX_SITES)]
    signature: Signature


def key_name(secret: bytes) -> bytes:
    """32 bytes that name a secret and say nothing else of it."""
    return hashlib.sha256(SHARED_KEY_NAME + secret).digest()


def new_shared_key() -> SharedKey:
    """A fresh key, made by TenSEAL in a process of its own. Raises Failed."""
    secret = generate()
    return SharedKey(key_name(secret), secret)


def deal(keys: SiteKeys, roster: Roster, shared: SharedKey) -> SharedKeys:
    """The key, sealed to every other site of the roster. Raises Refused or FaultySite."""
    _require_own(keys, roster)
    boxes = tuple(_box(keys, roster, shared, site) for site in roster.names() if site != keys.site)
    draft = SharedKeys(keys.site, roster.digest(), shared.name, boxes, bytes(64))
    return replace(draft, signature=keys.sign(SIGN_SHARED_KEYS, draft.unsigned()))


def _box(keys: SiteKeys, roster: Roster, shared: SharedKey, site: str) -> SharedKeyBox:
    dealt = DealtKey(SHARED_KEY_BOX, keys.site, site, roster.digest(), shared.name, shared.secret)
    try:
        public = PublicKey(crypto_sign_ed25519_pk_to_curve25519(roster.entry(site).identity_key))
        return SharedKeyBox(site, SealedBox(public).encrypt(dealt.encode()))
    except (CryptoError, RuntimeError) as error:
        raise FaultySite(site, "nothing can be sealed to its key on the roster") from error


def accept(dealt: SharedKeys, keys: SiteKeys, roster: Roster) -> SharedKey:
    """The key that was dealt to this site. Raises Refused, FaultySite for a lying maker, FaultyPeerOrServer."""
    _require_own(keys, roster)
    require_dealt(dealt, roster)
    box = next((each for each in dealt.boxes if each.site == keys.site), None)
    if box is None:
        raise Refused("the shared key was not dealt to this site")
    opened = _opened(dealt, keys, box)
    if opened != DealtKey(SHARED_KEY_BOX, dealt.maker, keys.site, dealt.roster, dealt.key, opened.secret):
        raise FaultySite(dealt.maker, "what it sealed is not what it signed")
    if not hmac.compare_digest(key_name(opened.secret), dealt.key):
        raise FaultySite(dealt.maker, "the shared key has another name")
    try:
        require_secret(opened.secret)
    except Failed as error:
        raise FaultySite(dealt.maker, "the shared key is none") from error
    return SharedKey(dealt.key, opened.secret)


def require_dealt(dealt: SharedKeys, roster: Roster) -> None:
    """Checks what anybody can: roster and maker's signature. Raises Refused or FaultyPeerOrServer."""
    if dealt.roster != roster.digest():
        raise Refused("the shared key was dealt under another roster; compare its epoch and fingerprint")
    maker = roster.entry(dealt.maker)
    if not is_signed(maker.identity_key, dealt.signature, SIGN_SHARED_KEYS, dealt.unsigned()):
        raise FaultyPeerOrServer(dealt.maker, "the shared key is not signed by its maker")


def _opened(dealt: SharedKeys, keys: SiteKeys, box: SharedKeyBox) -> DealtKey:
    own = keys.identity.private_bytes_raw() + keys.public
    secret = PrivateKey(crypto_sign_ed25519_sk_to_curve25519(own))
    try:
        return DealtKey.decode(SealedBox(secret).decrypt(box.sealed))
    except (CryptoError, Malformed) as error:
        raise FaultySite(dealt.maker, "its box with the shared key does not open") from error


def _require_own(keys: SiteKeys, roster: Roster) -> None:
    if roster.entry(keys.site).identity_key != keys.public:
        raise Refused("this site's key on the roster is another one")
