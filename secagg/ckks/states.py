"""What a site keeps between two messages of ckks mode, beside the state of its masked session (spec §13.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from secagg.wire import MAX_SITES, Digest, Items, Key32, Length, Name, Struct


@dataclass(frozen=True, slots=True, repr=False)
class Blind(Struct):
    """One site's blind seed. Prints nothing of it."""

    site: Name
    seed: Key32

    def __repr__(self) -> str:
        return "Blind(...)"


@dataclass(frozen=True, slots=True, repr=False)
class Commitment(Struct):
    """A site of U1, its key for blind boxes and its commitment."""

    site: Name
    blind_key: Key32
    commitment: Digest


@dataclass(frozen=True, slots=True, repr=False)
class BlindState(Struct):
    """blind_secret: of this site's key for boxes, gone once the boxes are open. seeds: z of every site known so far."""

    TAG = 70
    LIMIT = 1 << 22
    masked: Annotated[bytes, Length(1, 1 << 20)]  # the masked session's own state
    blind_secret: Annotated[bytes, Length(0, 32)]
    roster: Digest  # of U1; zeros before trip 1
    commitments: Annotated[tuple[Commitment, ...], Items(0, MAX_SITES)]
    seeds: Annotated[tuple[Blind, ...], Items(0, MAX_SITES)]

    def __repr__(self) -> str:
        return "BlindState(...)"


@dataclass(frozen=True, slots=True, repr=False)
class Opening(Struct):
    """What opens one round's aggregate: z of its sites. Never for the server."""

    TAG = 71
    seeds: Annotated[tuple[Blind, ...], Items(1, MAX_SITES)]

    def __repr__(self) -> str:
        return "Opening(...)"
