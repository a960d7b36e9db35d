"""Which ring a round computes in, chosen from value bits, sites, weight cap and size (spec §13).

Every number of the scheme stands here, with its source.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from secagg.errors import Misuse
from secagg.lanes import headroom, words_for
from secagg.wire import MAX_SITES

MAX_SIZE: Final = 1 << 29
MAX_BITS: Final = 20

# Ring size N -> most primes. Twice bounded: the sum of the primes and of one more stays below the log2 q that the
# HomomorphicEncryption.org standard (2018) allows for 128 bits at this N, as SEAL checks it (109, 218, 438), and
# below the quantum column of "Security Guidelines for Implementing Homomorphic Encryption" (ePrint 2024/463, table
# 5.2, Gaussian secrets). Estimated cost of the primal uSVP attack with BDGL16 / LaaMosPol14 (quantum) / MATZOV, in
# bits, for sigma = 4.0, which is what two honest survivors' sum leaves of sigma = 5.66 of each:
#     N      primes  log2 q   bits
#     4096     3      72.0    212.6 / 195.9 / 206.2
#     8192     8     191.7    149.9 / 139.1 / 146.6
#     16384   17     404.2    140.9 / 131.1 / 138.2
# tests/ckks/test_security.py recomputes them, and finds that at that table's limits for 128 bits the same estimate
# gives 128 to 130 with MATZOV and 130 to 132 with BDGL16: of the BDGL16 column subtract 3 or 4.
MOST_PRIMES: Final = {4096: 3, 8192: 8, 16384: 17}
PRIME_BITS: Final = 24  # with it n1 products of two centred residues stay within 2^53, and residues travel in 3 bytes
RESIDUE_BYTES: Final = 3

# Secret and error are CBD(64): popcount of 64 bits minus popcount of 64 bits, variance 32. Never a ternary secret:
# the sum of two reveals 2/9 of the coordinates of both.
ETA: Final = 64
# Hoeffding for 128 n bits: P(|sum| > B) <= 2 exp(-B^2 / (64 n)); with 110 in the exponent 2^-157 for a coefficient,
# 2^-128 for the 2^29 that there are at most.
_EXPONENT: Final = 110

MOST_DELTA_BITS: Final = 40  # a longer gap under the lowest field protects nothing more
# A site's largest term: times a centred residue (2^23) it is still an exact float64.
MOST_TERM: Final = (1 << 30) - 1
# Appended to every site's values, so that their sums are known: each survivor counts once, and nothing else is there.
CHECKS: Final = (1, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class RingParams:
    """The ring of a round and how values lie in it; made by `choose` alone, the same at every site.

    A vector has `size` values and the 8 CHECKS behind them. It is cut into blocks of `block_values`; inside a block of
    M coefficients value j * M + i lies in field j of coefficient i, at bit delta_bits + j * field_bits. Only the last
    block may be shorter: its coefficients from M on are never sent.
    """

    bits: int  # of a quantised value
    sites: int  # most that are summed
    weight_cap: int
    size: int  # d
    ring_size: int  # N
    primes: tuple[int, ...]  # q_l, descending; their product is q
    field_bits: int  # w, enough for the largest possible sum
    fields: int  # k, of one coefficient
    delta_bits: int  # below the lowest field, where the error lies

    @property
    def modulus(self) -> int:
        """q."""
        return math.prod(self.primes)

    @property
    def levels(self) -> int:
        """Largest quantised value, 2^bits - 1."""
        return (1 << self.bits) - 1

    @property
    def slots(self) -> int:
        """Values and checks together."""
        return self.size + len(CHECKS)

    @property
    def block_values(self) -> int:
        """Values of a whole block, k N: a multiple of 4,096."""
        return self.fields * self.ring_size

    @property
    def blocks(self) -> int:
        """Number of blocks, at least 1."""
        return -(-self.slots // self.block_values)

    def coefficients(self, block: int) -> int:
        """M: how many coefficients of a block are used."""
        left = self.slots - block * self.block_values
        return min(self.ring_size, -(-left // self.fields))

    def data_counts(self) -> Iterator[int]:
        """How many of the `size` values lie in each block: all that fit; none in a last block of checks alone."""
        for block in range(self.blocks):
            yield max(0, min(self.block_values, self.size - block * self.block_values))

    @property
    def residues(self) -> int:
        """How many residues a site sends."""
        whole = (self.blocks - 1) * self.ring_size
        return len(self.primes) * (whole + self.coefficients(self.blocks - 1))

    @property
    def words(self) -> int:
        """8-byte words of a site's ciphertext, and of the sum's."""
        return -(-self.residues * RESIDUE_BYTES // 8)

    @property
    def key_lane_bits(self) -> int:
        """Width of a lane that holds the sum of one coefficient of the keys, each raised to 0..128."""
        return headroom(1, self.sites, 2 * ETA)

    @property
    def key_words(self) -> int:
        """8-byte words of a site's key on its way through the masked protocol."""
        return words_for(self.ring_size, self.key_lane_bits)

    @property
    def bytes_per_value(self) -> float:
        """What a site sends for one value, without the key."""
        return self.words * 8 / self.size


def noise_bound(sites: int) -> int:
    """The largest |sum of `sites` CBD(64) values| that is taken for noise: 64 n, or a bound exceeded with 2^-157."""
    return min(ETA * sites, math.isqrt(ETA * sites * _EXPONENT) + 1)


@cache
def primes(ring_size: int, count: int) -> tuple[int, ...]:
    """The `count` largest primes below 2^24 that are 1 mod 2N, descending. Raises Misuse if there are too few."""
    found: list[int] = []
    step = 2 * ring_size
    number = ((1 << PRIME_BITS) - 2) // step * step + 1
    while len(found) < count:
        if number < 1 << (PRIME_BITS - 1):
            raise Misuse(f"there are no {count} primes of {PRIME_BITS} bits that are 1 mod {step}")
        if _is_prime(number):
            found.append(number)
        number -= step
    return tuple(found)


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def candidate(bits: int, sites: int, weight_cap: int, size: int, ring_size: int, count: int) -> RingParams | None:
    """The fullest packing of the ring with `count` primes, or None if not one field fits."""
    chosen = primes(ring_size, count)
    capacity = math.prod(chosen).bit_length() - 2  # 2^capacity <= q / 2
    field_bits = (sites * weight_cap * ((1 << bits) - 1)).bit_length()
    least_delta = noise_bound(sites).bit_length() + 1  # half of Delta is more than the bound
    fields = (capacity - least_delta) // field_bits
    if fields < 1:
        return None
    delta_bits = min(capacity - fields * field_bits, MOST_DELTA_BITS)
    return RingParams(bits, sites, weight_cap, size, ring_size, chosen, field_bits, fields, delta_bits)


def cost(params: RingParams) -> int:
    """What `choose` makes small: bytes of ciphertext and key, times 4 + log2 N.

    The factor lets a ring twice as long win only if it saves more than 1/17 or so
    of the bytes, for its transform takes a third more work.
    """
    sent = 8 * (params.words + params.key_words)
    return sent * (4 + params.ring_size.bit_length() - 1)


@cache
def choose(bits: int, sites: int, weight_cap: int, size: int) -> RingParams:
    """The set with the least `cost`; of equals the one with the smaller ring, then with fewer primes.

    bits: 1..20 of a quantised value. sites: 1..100. weight_cap: 1.., the largest weight. size: d, 1..2^29.
    Raises Misuse for what does not fit.
    """
    if not (1 <= bits <= MAX_BITS and 1 <= sites <= MAX_SITES and weight_cap >= 1 and 1 <= size <= MAX_SIZE):
        raise Misuse("a ring is chosen for 1..20 bits, 1..100 sites, a weight cap of at least 1 and 1..2^29 values")
    if weight_cap * ((1 << bits) - 1) > MOST_TERM:
        raise Misuse(f"weight cap {weight_cap} x {(1 << bits) - 1} levels exceed 30 bits; lower one of them")
    found = [
        each
        for ring_size, most in MOST_PRIMES.items()
        for count in range(1, most + 1)
        if (each := candidate(bits, sites, weight_cap, size, ring_size, count))
    ]
    return min(found, key=lambda each: (cost(each), each.ring_size, len(each.primes)))
