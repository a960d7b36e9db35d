"""Who shares a mask with whom, with which sign, and from which keys (spec §9, §12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from secagg.config import RoundContext
from secagg.labels import CHALLENGE, PAIR_MASK, ROTATION, SELF_MASK, SHARE_AAD, SHARE_KEY, VECTOR_TAIL, VECTOR_UPDATE
from secagg.primitives.agreement import Loaded, agree, derive, load
from secagg.primitives.prg import SEED_BYTES


@dataclass(frozen=True, slots=True)
class MaskSeeds:
    """48-byte stream seeds to add and to subtract."""

    plus: tuple[bytes, ...]
    minus: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"MaskSeeds({len(self.plus)} added, {len(self.minus)} subtracted)"


def place(context: RoundContext, site: str) -> bytes:
    """The site's place on the roster, from 1, as 4 big-endian bytes: its name in key derivations."""
    return context.points[site].to_bytes(4, "big")


def pair_seed(
    context: RoundContext, share_set: bytes, secret: bytes | Loaded, own: str, peer: str, peer_key: bytes
) -> bytes:
    """The 48-byte seed that `own` and `peer` alone derive."""
    first, second = sorted((place(context, own), place(context, peer)))
    info = PAIR_MASK + first + second + share_set + VECTOR_UPDATE
    return derive(agree(secret, peer_key), context.digest, info, SEED_BYTES)


def self_seed(context: RoundContext, share_set: bytes, site: str, seed: bytes, vector: bytes = VECTOR_UPDATE) -> bytes:
    """The 48-byte seed of a site's own mask, from its 32-byte secret b. vector: the label of what it masks."""
    info = SELF_MASK + place(context, site) + share_set + vector
    return derive(seed, context.digest, info, SEED_BYTES)


def tail_seed(context: RoundContext, share_set: bytes, site: str, seed: bytes) -> bytes:
    """The 48-byte seed that a site may use for the tail of its vector, from its 32-byte secret b (spec §11.8)."""
    return self_seed(context, share_set, site, seed, VECTOR_TAIL)


def neighbour_seeds(
    context: RoundContext, share_set: bytes, secret: bytes, own: str, keys: Iterable[tuple[str, bytes]]
) -> MaskSeeds:
    """The pair masks of `own`: it adds those shared with later sites and subtracts those with earlier ones.

    keys: (site, mask key) of its neighbours, without itself; every key has passed `require_advert`.
    """
    loaded = load(secret)
    plus: list[bytes] = []
    minus: list[bytes] = []
    for peer, key in keys:
        seed = pair_seed(context, share_set, loaded, own, peer, key)
        (plus if context.points[own] < context.points[peer] else minus).append(seed)
    return MaskSeeds(tuple(plus), tuple(minus))


def seeds_in_sum(
    context: RoundContext,
    share_set: bytes,
    mask_keys: Mapping[str, bytes],
    revealed_seeds: Mapping[str, bytes],
    revealed_keys: Mapping[str, bytes],
) -> MaskSeeds:
    """The masks that the survivors' vectors still hold when they are summed: what to take off to get the sum.

    mask_keys: of all U1. revealed_seeds: b of every survivor. revealed_keys: the mask secret of every dropout.
    """
    plus = [self_seed(context, share_set, site, seed) for site, seed in revealed_seeds.items()]
    minus: list[bytes] = []
    for gone, secret in revealed_keys.items():
        peers = [(site, mask_keys[site]) for site in revealed_seeds]
        pairs = neighbour_seeds(context, share_set, secret, gone, peers)
        plus += pairs.minus  # what the dropout would have subtracted, the survivors added
        minus += pairs.plus
    return MaskSeeds(tuple(plus), tuple(minus))


def box_key(context: RoundContext, shared: bytes, sender: str, receiver: str) -> bytes:
    """The 32-byte key of the one box from sender to receiver; `shared` is their agreement on share keys."""
    return derive(shared, context.digest, SHARE_KEY + place(context, sender) + place(context, receiver), 32)


def box_aad(context: RoundContext, key_roster: bytes, sender: str, receiver: str) -> bytes:
    """What the box is bound to besides its key: header, h1, sender, receiver."""
    return SHARE_AAD + context.digest + key_roster + place(context, sender) + place(context, receiver)


def challenge_seed(context: RoundContext, record: bytes) -> bytes:
    """The 48-byte public seed of the bits against which the vectors of a record are projected (spec §15.2)."""
    return derive(record, context.digest, CHALLENGE, SEED_BYTES)


def rotation_seed(context: RoundContext) -> bytes:
    """The 48-byte public seed of the round's rotation signs."""
    return derive(context.digest, b"", ROTATION, SEED_BYTES)
