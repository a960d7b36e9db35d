"""How a sum of ciphertexts becomes integers under the sum of the keys, and what no honest sum looks like (spec §13).

Only integers come out: the noise around them would give the key away (Li-Micciancio, IND-CPA-D).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.params import CHECKS, ETA, PRIME_BITS, RingParams, noise_bound
from secagg.ckks.ring import Real, Ring, ring_for, small_product
from secagg.ckks.sampling import Residues, public_element
from secagg.errors import FaultyServer, Misuse

Integers = NDArray[np.int64]

_LIMB: Final = PRIME_BITS
_LIMB_MASK: Final = (1 << _LIMB) - 1
_RULE: Final = "the sum of ciphertexts does not decrypt under the sum of the keys"


def decrypt(
    params: RingParams,
    header_digest: bytes,
    key_sum: Integers,
    blocks: Iterable[Residues],
    *,
    survivors: int,
    total_weight: int | None = None,
) -> Iterator[NDArray[np.uint64]]:
    """The sums of the sites' levels in order, `size` in all, one array for each block that has any.

    key_sum: (N,), the sum of the survivors' keys. blocks: the sum of their ciphertexts, masks removed.
    survivors: how many were summed. total_weight: of their weights, if known. Nothing may leave before the iterator
    has ended: the checks behind the last value come last. Raises FaultyServer, in the same words whatever is wrong.
    """
    if key_sum.shape != (params.ring_size,) or not 1 <= survivors <= params.sites:
        raise Misuse(f"expected a key sum of {params.ring_size} integers and 1..{params.sites} survivors")
    if int(np.abs(key_sum.astype(np.int64)).max()) > ETA * survivors:
        raise FaultyServer(_RULE)
    most = params.levels * (survivors * params.weight_cap if total_weight is None else total_weight)
    decoder = _Decoder(params, survivors)
    key = decoder.ring.values_of(key_sum)
    tail: list[int] = []
    for block, (count, residues) in enumerate(zip(params.data_counts(), blocks, strict=True)):
        product = decoder.ring.multiply(public_element(params, header_digest, block), key)
        sums = decoder.decode(residues - product[:, : residues.shape[1]])
        tail += sums[count:].tolist() if count < params.block_values else []
        if sums[:count].max(initial=0) > most:
            raise FaultyServer(_RULE)
        if count:
            yield sums[:count].astype(np.uint64)
    if tail[: len(CHECKS)] != [survivors * each for each in CHECKS] or any(tail[len(CHECKS) :]):
        raise FaultyServer(_RULE)


class _Decoder:
    """Residues mod every prime -> error and fields, through the integers below q in limbs of 24 bits."""

    def __init__(self, params: RingParams, survivors: int) -> None:
        self.ring: Ring = ring_for(params.ring_size, params.primes)
        self._params = params
        self._noise_bound = noise_bound(survivors)
        q = params.modulus
        self._half = np.array([[(1 << (params.delta_bits - 1)) % prime] for prime in params.primes], np.float64)
        inverses = [pow(q // prime, -1, prime) for prime in params.primes]
        centred = [
            each - prime if each > prime // 2 else each for each, prime in zip(inverses, params.primes, strict=True)
        ]
        self._inverses = np.array(centred, np.float64)[:, None]
        count = -(-q.bit_length() // _LIMB) + 1
        terms = [_limbs(q // prime, count) for prime in params.primes] + [[-limb for limb in _limbs(q, count)]]
        self._terms = np.array(terms, np.float64).T.copy()  # (limbs, primes + 1)

    def decode(self, x: Real) -> Integers:
        """All slots of a block, (fields * M,), from coefficients mod q, (primes, M). Raises FaultyServer."""
        params = self._params
        limbs = self._compose(np.add(x, self._half, out=x))
        error = _bits(limbs, 0, params.delta_bits) - (1 << (params.delta_bits - 1))
        top = params.delta_bits + params.fields * params.field_bits
        beyond = [_bits(limbs, start, _LIMB).any() for start in range(top, _LIMB * len(limbs), _LIMB)]
        if any(beyond) or int(np.abs(error).max()) > self._noise_bound:
            raise FaultyServer(_RULE)
        slots = np.empty((params.fields, x.shape[1]), np.int64)
        for field in range(params.fields):
            slots[field] = _bits(limbs, params.delta_bits + field * params.field_bits, params.field_bits)
        return slots.reshape(-1)

    def _compose(self, x: Real) -> Integers:
        """The integers that x is congruent to mod q, as limbs (limbs, M), lowest first.

        By the Chinese remainder theorem X = sum_l y_l q / q_l - alpha q with y_l = x_l (q / q_l)^-1 mod q_l, and alpha
        is the whole part of sum_l y_l / q_l. A quarter is added against rounding, so X lies in -q/4..3q/4. What
        decrypts is in 0..q/2; of a negative X the topmost limb, which is above q, has all bits set.
        """
        ring = self.ring
        scratch = np.empty_like(x)
        y = ring.reduce(np.multiply(ring.reduce(x, scratch), self._inverses, out=x), scratch)
        np.add(y, ring.modulus * (y < 0), out=y)
        alpha = np.floor(np.multiply(y, ring.inverse_modulus, out=scratch).sum(axis=0) + 0.25)
        limbs = small_product(self._terms, np.vstack((y, alpha))).astype(np.int64)
        carry = np.zeros(x.shape[1], np.int64)
        for limb in limbs:
            np.add(limb, carry, out=limb)
            np.right_shift(limb, _LIMB, out=carry)
            np.bitwise_and(limb, _LIMB_MASK, out=limb)
        return limbs


def _limbs(number: int, count: int) -> list[int]:
    return [number >> (_LIMB * place) & _LIMB_MASK for place in range(count)]


def _bits(limbs: Integers, start: int, width: int) -> Integers:
    """Bits start..start + width - 1 of every number, width at most 40; bits above the last limb are zero."""
    place, shift = divmod(start, _LIMB)
    value = limbs[place] >> shift
    have = _LIMB - shift
    while have < width and place + 1 < len(limbs):
        place += 1
        value = value | limbs[place] << have
        have += _LIMB
    return np.asarray(value & ((1 << width) - 1))
