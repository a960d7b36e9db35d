"""The messages of masked mode, in the order in which they are sent (spec §11.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from secagg.config import RoundHeader
from secagg.labels import (
    BOXES,
    KEY_ROSTER,
    MASKED_WORDS,
    SEED_COMMITMENT,
    SHARE_SET,
    SUM_WORDS,
    SURVIVOR_SET,
    TRANSCRIPT,
)
from secagg.masked.params import BOX
from secagg.primitives.shamir import SHARE_BYTES
from secagg.projection import PRODUCTS
from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Signature, Struct, encode_plain


@dataclass(frozen=True, slots=True)
class RoundOpen(Struct):
    """Trip 0, server to site: the header of the attempt and the sites that are asked."""

    TAG = 10
    header: RoundHeader
    cohort: Annotated[tuple[Name, ...], Items(1, MAX_SITES, by="")]
    signature: Signature


@dataclass(frozen=True, slots=True)
class KeyAdvert(Struct):
    """Trip 0, site to server: two fresh X25519 keys and a commitment to the self-mask seed."""

    TAG = 11
    site: Name
    share_key: Key32  # its secret opens shares and is never revealed
    mask_key: Key32  # its secret makes pair masks and is revealed if the site drops out
    seed_commitment: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class KeyRoster(Struct):
    """Trip 1, server to site: every advert of U1."""

    TAG = 12
    adverts: Annotated[tuple[KeyAdvert, ...], Items(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Box(Struct):
    """Two sealed shares, for or from the named site."""

    site: Name
    ciphertext: Annotated[bytes, Length(BOX, BOX)]


@dataclass(frozen=True, slots=True)
class ShareStatement(Struct):
    """A site's word that it dealt shares to exactly the sites of U1."""

    TAG = 20
    site: Name
    key_roster: Digest  # h1
    boxes: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class SealedShares(Struct):
    """Trip 1, site to server: its statement and a box for every other site of U1."""

    TAG = 13
    statement: ShareStatement
    boxes: Annotated[tuple[Box, ...], Items(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class ShareBundle(Struct):
    """Trip 2, server to site: the statements of U2 and the boxes meant for this site, by sender."""

    TAG = 14
    statements: Annotated[tuple[ShareStatement, ...], Items(1, MAX_SITES)]
    boxes: Annotated[tuple[Box, ...], Items(0, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class MaskedVector(Struct):
    """Trip 2, site to server: the digest of the masked words that travel beside it."""

    TAG = 15
    site: Name
    share_set: Digest  # h2
    words: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class SurvivorSet(Struct):
    """Trip 3, server to site: the sites of U3, each with its own signed word of what it sent."""

    TAG = 16
    vectors: Annotated[tuple[MaskedVector, ...], Items(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class SurvivorSignature(Struct):
    """Trip 3, site to server: its signature on the one survivor set it has seen."""

    TAG = 17
    site: Name
    survivor_set: Digest  # h3
    signature: Signature


@dataclass(frozen=True, slots=True)
class SurvivorProof(Struct):
    """Trip 4, server to site: a quorum's signatures on one survivor set."""

    TAG = 18
    signatures: Annotated[tuple[SurvivorSignature, ...], Items(1, MAX_SITES)]


@dataclass(frozen=True, slots=True)
class Share(Struct):
    """One share of a secret of the named site."""

    site: Name
    share: Annotated[bytes, Length(SHARE_BYTES, SHARE_BYTES)]


@dataclass(frozen=True, slots=True)
class UnmaskShares(Struct):
    """Trip 4, site to server: seed shares of survivors and key shares of dropouts, never both of one."""

    TAG = 19
    site: Name
    survivor_set: Digest
    seeds: Annotated[tuple[Share, ...], Items(1, MAX_SITES)]
    keys: Annotated[tuple[Share, ...], Items(0, MAX_SITES)]
    signature: Signature


@dataclass(frozen=True, slots=True)
class Revealed(Struct):
    """A secret that t shares gave back."""

    site: Name
    secret: Key32


@dataclass(frozen=True, slots=True)
class RoundRecord(Struct):
    """Trip 5, server to site: the evidence for the survivor set, the secrets it revealed, the digest of the sum."""

    TAG = 21
    header: RoundHeader
    adverts: Annotated[tuple[KeyAdvert, ...], Items(1, MAX_SITES)]
    statements: Annotated[tuple[ShareStatement, ...], Items(1, MAX_SITES)]
    vectors: Annotated[tuple[MaskedVector, ...], Items(1, MAX_SITES)]
    signatures: Annotated[tuple[SurvivorSignature, ...], Items(1, MAX_SITES)]
    seeds: Annotated[tuple[Revealed, ...], Items(1, MAX_SITES)]
    keys: Annotated[tuple[Revealed, ...], Items(0, MAX_SITES)]
    sum_words: Digest

    def transcript(self) -> bytes:
        """32 bytes: what the next round's header calls `previous`, and what the survivors sign."""
        return hashlib.sha256(TRANSCRIPT + self.encode()).digest()


@dataclass(frozen=True, slots=True)
class Projections(Struct):
    """Trip 5, site to server: its masked words against the challenge of one record, 128 words of 8 bytes."""

    TAG = 22
    site: Name
    record: Digest
    values: Annotated[bytes, Length(8 * PRODUCTS, 8 * PRODUCTS)]
    signature: Signature

    def words(self) -> NDArray[np.uint64]:
        """The values, uint64 (128,)."""
        return np.frombuffer(self.values, "<u8").astype(np.uint64)


@dataclass(frozen=True, slots=True)
class MaskedAggregate(Struct):
    """The end of a round: its record, and what makes the sum beside it believable.

    Behind the sum stand the masked words of every survivor without projections, by site.
    """

    TAG = 23
    record: RoundRecord
    projections: Annotated[tuple[Projections, ...], Items(0, MAX_SITES)]


REQUESTS = (RoundOpen, KeyRoster, ShareBundle, SurvivorSet, SurvivorProof, RoundRecord)
REPLIES = (KeyAdvert, SealedShares, MaskedVector, SurvivorSignature, UnmaskShares, Projections)


def _of_list(label: bytes, header: bytes, structs: Sequence[Struct]) -> bytes:
    return hashlib.sha256(label + header + encode_plain([each.plain() for each in structs])).digest()


def key_roster_digest(header: bytes, adverts: Sequence[KeyAdvert]) -> bytes:
    """h1: 32 bytes that name U1 and every key in it. `header` is the header's digest, here and below."""
    return _of_list(KEY_ROSTER, header, adverts)


def share_set_digest(header: bytes, statements: Sequence[ShareStatement]) -> bytes:
    """h2: 32 bytes that name U2; each statement holds h1."""
    return _of_list(SHARE_SET, header, statements)


def survivor_set_digest(header: bytes, vectors: Sequence[MaskedVector]) -> bytes:
    """h3: 32 bytes that name U3 and what each of its sites sent; each vector holds h2."""
    return _of_list(SURVIVOR_SET, header, vectors)


def boxes_digest(boxes: Sequence[Box]) -> bytes:
    """32 bytes that name the boxes of one site."""
    return hashlib.sha256(BOXES + encode_plain([each.plain() for each in boxes])).digest()


def seed_commitment(header: bytes, seed: bytes) -> bytes:
    """H(b)."""
    return hashlib.sha256(SEED_COMMITMENT + header + seed).digest()


def _of_words(label: bytes, header: bytes, words: NDArray[np.uint64]) -> bytes:
    digest = hashlib.sha256(label + header)
    digest.update(np.ascontiguousarray(words, "<u8").data)
    return digest.digest()


def masked_words_digest(header: bytes, words: NDArray[np.uint64]) -> bytes:
    """H(y)."""
    return _of_words(MASKED_WORDS, header, words)


def sum_words_digest(header: bytes, words: NDArray[np.uint64]) -> bytes:
    """H(X)."""
    return _of_words(SUM_WORDS, header, words)
