"""What the tests of this folder share: sites with levels, keys and ciphertexts, and the opening of their sum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.cipher import Levels, encrypt
from secagg.ckks.decoding import decrypt
from secagg.ckks.frames import read, write
from secagg.ckks.params import RingParams
from secagg.ckks.sampling import Residues, hedged_seed, one_time_key, update_digest
from secagg.ckks.sums import ResidueSum
from secagg.session import Words

HEADER = hashlib.sha256(b"header").digest()


@dataclass(frozen=True)
class Site:
    """One site's secrets and what it uploads."""

    levels: Levels
    seed: bytes
    key: NDArray[np.int64]
    words: Words


def random_levels(params: RingParams, number: int) -> Levels:
    """Levels over the whole range, its ends among them."""
    most = params.weight_cap * params.levels
    levels = np.random.default_rng(number).integers(0, most + 1, params.size, np.uint32)
    levels[:1], levels[1:2] = most, 0
    return levels


def seed_of(place: int, levels: Levels, header: bytes = HEADER, random: bytes | None = None) -> bytes:
    """A hedged seed; the system's random bytes are the site's place unless given."""
    update = update_digest(levels.astype(np.float32), 1)
    return hedged_seed(random or place.to_bytes(32, "big"), header, place, update)


def in_blocks(params: RingParams, levels: Levels) -> Iterator[Levels]:
    """The levels as `encrypt` takes them."""
    for start in range(0, levels.size, params.block_values):
        yield levels[start : start + params.block_values]


def site(params: RingParams, place: int, levels: Levels | None = None, header: bytes = HEADER) -> Site:
    """A site that has encrypted."""
    levels = random_levels(params, place) if levels is None else levels
    seed = seed_of(place, levels, header)
    words = write(params, encrypt(params, header, seed, in_blocks(params, levels)))
    return Site(levels, seed, one_time_key(seed, params.ring_size).astype(np.int64), words)


def residue_sum(params: RingParams, ciphertexts: Sequence[Words]) -> list[Residues]:
    """The sum as the sites get it: written as words by the server and read again."""
    total = ResidueSum(params)
    for words in ciphertexts:
        total.add(words)
    return list(read(params, write(params, total.blocks())))


def opened(
    params: RingParams,
    sites: Sequence[Site],
    blocks: Sequence[Residues],
    *,
    header: bytes = HEADER,
    total_weight: int | None = None,
) -> NDArray[np.uint64]:
    """What decrypts under the sum of these sites' keys."""
    key_sum = sum((each.key for each in sites), np.zeros(params.ring_size, np.int64))
    pieces = decrypt(params, header, key_sum, blocks, survivors=len(sites), total_weight=total_weight)
    return np.concatenate(list(pieces))


def plain_sum(sites: Sequence[Site]) -> NDArray[np.uint64]:
    """The sum of the levels."""
    return np.sum([each.levels for each in sites], axis=0, dtype=np.uint64)
