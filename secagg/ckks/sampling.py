"""Where random ring elements come from: a hedged seed, the round's header, a mask's seed (spec §13).

Secret and error follow CBD(64) from SHAKE-256; a_k is uniform from SHAKE-128 of the header's digest, so nobody chooses
it; a self-mask is uniform from AES-256-CTR. Numbers in hash inputs are big-endian.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.octets import split
from secagg.ckks.params import RESIDUE_BYTES, RingParams
from secagg.errors import Misuse
from secagg.labels import CKKS_DITHER, CKKS_ERROR, CKKS_KEY, CKKS_PUBLIC, CKKS_SEED, CKKS_UPDATE
from secagg.primitives.prg import SEED_BYTES, Stream

Residues = NDArray[np.uint32]  # (primes, coefficients), row l below q_l
Small = NDArray[np.int8]  # CBD(64) values, -64..64

DIGEST_BYTES: Final = 32
HEDGED_BYTES: Final = 64
_CBD_BYTES: Final = 16  # 64 bits to add, 64 bits to subtract
_MASK_REGION: Final = 1 << 20  # bytes of the stream that belong to one prime of one block; a sixth is ever read


def update_digest(values: NDArray[np.float32], weight: int) -> bytes:
    """32 bytes that name a site's private input, C-contiguous float32 (d,) and its weight; secret."""
    digest = hashlib.sha256(CKKS_UPDATE + weight.to_bytes(8, "big"))
    digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.digest()


def hedged_seed(random: bytes, header_digest: bytes, place: int, update: bytes) -> bytes:
    """The 64 bytes from which a site derives its key, its errors and its dither in one attempt; secret.

    random: 32 bytes from the operating system. place: the site's on the roster (spec §9.1). update: `update_digest`.
    If the system repeats its random bytes after a rollback, another header or another update still gives another key:
    two ciphertexts of different values under one key differ without noise. Raises Misuse.
    """
    if not len(random) == len(header_digest) == len(update) == DIGEST_BYTES:
        raise Misuse(f"random bytes, header digest and update digest have {DIGEST_BYTES} bytes each")
    return hashlib.sha512(CKKS_SEED + random + header_digest + place.to_bytes(4, "big") + update).digest()


def dither_seed(seed: bytes) -> bytes:
    """48 bytes for the stream that rounds the update: with it the levels depend on nothing the seed does not bind."""
    return hashlib.shake_256(CKKS_DITHER + _checked(seed)).digest(SEED_BYTES)


def one_time_key(seed: bytes, ring_size: int) -> Small:
    """s, (N,): goes through the masked protocol, and only as part of the survivors' sum is it ever revealed."""
    return _centred_binomial(CKKS_KEY + _checked(seed), ring_size)


def errors(seed: bytes, block: int, count: int) -> Small:
    """e of one block's first `count` coefficients."""
    return _centred_binomial(CKKS_ERROR + _checked(seed) + block.to_bytes(4, "big"), count)


def public_element(params: RingParams, header_digest: bytes, block: int) -> Residues:
    """a_k of one block in NTT form, (primes, N); everyone derives it from the header, nobody chooses it."""
    if len(header_digest) != DIGEST_BYTES:
        raise Misuse(f"a header digest has {DIGEST_BYTES} bytes")
    out = np.empty((len(params.primes), params.ring_size), np.uint32)
    for index, prime in enumerate(params.primes):
        shake = hashlib.shake_128(CKKS_PUBLIC + header_digest + block.to_bytes(4, "big") + index.to_bytes(2, "big"))
        _fill_uniform(out[index], prime, shake.digest)
    return out


def residue_mask(params: RingParams, seed: bytes, block: int) -> Residues:
    """One block of the ciphertext's self-mask, (primes, used coefficients), uniform; blocks in any order.

    seed: 48 bytes, of this site and attempt alone. Without it a ciphertext is uniform whatever becomes of its key.
    """
    count = len(params.primes)
    out = np.empty((count, params.coefficients(block)), np.uint32)
    for index, prime in enumerate(params.primes):
        start = (block * count + index) * _MASK_REGION

        def read(size: int, start: int = start) -> bytes:
            return Stream(seed, start).read(size)

        _fill_uniform(out[index], prime, read)
    return out


def _checked(seed: bytes) -> bytes:
    if len(seed) != HEDGED_BYTES:
        raise Misuse(f"a hedged seed has {HEDGED_BYTES} bytes")
    return seed


def _centred_binomial(source: bytes, count: int) -> Small:
    """CBD(64): of each 16 bytes the set bits of the first 8 minus those of the last 8."""
    pairs = np.frombuffer(hashlib.shake_256(source).digest(_CBD_BYTES * count), np.uint64).reshape(-1, 2)
    ones = np.bitwise_count(pairs).view(np.int8)
    return np.asarray(ones[:, 0] - ones[:, 1])


def _fill_uniform(out: NDArray[np.uint32], prime: int, read: Callable[[int], bytes]) -> None:
    """Writes the first residues of a byte stream: 3 bytes each, little-endian, those not below `prime` skipped.

    read: gives the first so many bytes of the stream.
    """
    accepted = prime / (1 << (8 * RESIDUE_BYTES))
    tries = math.ceil(
        (out.size + 8 * math.sqrt(out.size) + 32) / accepted
    )  # nearly always enough; how many is no matter
    while True:
        numbers = split(read(RESIDUE_BYTES * tries))
        kept = numbers[numbers < prime]
        if kept.size >= out.size:
            out[:] = kept[: out.size]
            return
        tries *= 2
