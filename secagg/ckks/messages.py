"""The messages of ckks mode: those of masked mode, three of them with what the blind pad needs (spec §13.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from secagg.labels import BLIND_COMMITMENT, BLIND_ROSTER
from secagg.masked.messages import KeyAdvert, SealedShares, ShareBundle
from secagg.primitives.aead import OVERHEAD
from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Signature, Struct, encode_plain

SEED: Final = 32  # bytes of a blind seed
BLIND_BOX: Final = SEED + OVERHEAD


@dataclass(frozen=True, slots=True)
class BlindAdvert(Struct):
    """Trip 0, site to server: masked mode's advert, a key for blind boxes, a commitment to the blind seed."""

    TAG = 60
    site: Name
    advert: KeyAdvert
    blind_key: Key32
    commitment: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class BlindRoster(Struct):
    """Trip 1, server to site: every advert of U1."""

    TAG = 61
    adverts: Annotated[tuple[BlindAdvert, ...], Items(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class BlindBox(Struct):
    """A blind seed, sealed for (or by) the named site."""

    site: Name
    ciphertext: Annotated[bytes, Length(BLIND_BOX, BLIND_BOX)]


@dataclass(frozen=True, slots=True)
class BlindShares(Struct):
    """Trip 1, site to server: masked mode's shares, and its blind seed for every other site of U1."""

    TAG = 62
    shares: SealedShares
    boxes: Annotated[tuple[BlindBox, ...], Items(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class BlindBundle(Struct):
    """Trip 2, server to site: masked mode's bundle, and the blind seeds of the other sites of U2."""

    TAG = 63
    bundle: ShareBundle
    boxes: Annotated[tuple[BlindBox, ...], Items(0, MAX_SITES)]


def blind_commitment(header: bytes, place: bytes, seed: bytes) -> bytes:
    """H(z) of one site. header: the header's digest. place: the site's, 4 bytes."""
    return hashlib.sha256(BLIND_COMMITMENT + header + place + seed).digest()


def blind_roster_digest(header: bytes, adverts: Sequence[BlindAdvert]) -> bytes:
    """32 bytes that name U1 and every key and commitment in it."""
    return hashlib.sha256(BLIND_ROSTER + header + encode_plain([each.plain() for each in adverts])).digest()
