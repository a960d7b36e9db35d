"""The messages of ckks-shared mode, its states and what opens a sum (spec §21.3)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from secagg.ckks_shared.keys import MAX_SECRET
from secagg.labels import CIPHERTEXTS, TRANSCRIPT
from secagg.masked.messages import RoundOpen
from secagg.session import Words
from secagg.wire import MAX_SITES, Digest, Items, Length, Name, Signature, Struct


@dataclass(frozen=True, slots=True)
class Contribution(Struct):
    """Site to server: the digest of the ciphertexts that travel beside it."""

    TAG = 82
    site: Name
    words: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class SumRecord(Struct):
    """The end of a round: how it was opened, who is in the sum with which ciphertexts, and the digest of the sum."""

    TAG = 83
    opened: RoundOpen
    contributions: Annotated[tuple[Contribution, ...], Items(1, MAX_SITES)]
    sum_words: Digest

    def transcript(self) -> bytes:
        """32 bytes: what the next round's header calls `previous`."""
        return hashlib.sha256(TRANSCRIPT + self.encode()).digest()

    def survivors(self) -> tuple[str, ...]:
        """Whose ciphertexts are in the sum."""
        return tuple(each.site for each in self.contributions)


@dataclass(frozen=True, slots=True)
class Contributed(Struct):
    """A site's state once its ciphertexts have left."""

    TAG = 84
    contribution: Contribution


@dataclass(frozen=True, slots=True)
class SharedOpening(Struct):
    """What opens a sum: what this site itself contributed, if it did, and the secret."""

    TAG = 85
    sent: Annotated[tuple[Contribution, ...], Items(0, 1)]
    secret: Annotated[bytes, Length(1, MAX_SECRET)] = field(repr=False)


def ciphertext_digest(header: bytes, words: Words) -> bytes:
    """32 bytes that name a site's ciphertexts in one attempt. header: the header's digest."""
    digest = hashlib.sha256(CIPHERTEXTS + header)
    digest.update(np.ascontiguousarray(words, "<u8").data)
    return digest.digest()
