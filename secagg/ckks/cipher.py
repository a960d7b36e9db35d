"""How a site's levels become a ciphertext: c_k = a_k s + e_k + Delta m_k, block by block (spec §13).

(c, -a) is a CKKS ciphertext under the one-time key s; the sum of several is one under the sum of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from secagg.ckks.params import CHECKS, RingParams
from secagg.ckks.ring import Real, Ring, ring_for, small_product
from secagg.ckks.sampling import Residues, errors, one_time_key, public_element, residue_mask
from secagg.errors import Misuse

Levels = NDArray[np.uint32]

_EXACT = 1 << 52  # of the 2^53 that a float64 holds; the rest is for error and product


def encrypt(params: RingParams, header_digest: bytes, seed: bytes, levels: Iterable[Levels]) -> Iterator[Residues]:
    """The residues of every block, (primes, coefficients).

    header_digest: 32 bytes. seed: 64 bytes, hedged, for this attempt and these levels alone. levels: weighted, each
    at most weight cap x levels; whole blocks of params.block_values and the rest, `size` values in all. Each is used
    before the next is asked for. Raises Misuse.
    """
    ring = ring_for(params.ring_size, params.primes)
    key = ring.values_of(one_time_key(seed, params.ring_size))
    scales = _scales(params)
    for block, slots in enumerate(_with_checks(params, levels)):
        count = params.coefficients(block)
        x = _encode(params, ring, scales, slots)
        np.add(x, errors(seed, block, count), out=x)
        product = ring.multiply(public_element(params, header_digest, block), key)
        np.add(x, product[:, :count], out=x)
        yield ring.residues(ring.reduce(x, np.empty_like(x)))


def blind(params: RingParams, seed: bytes, blocks: Iterable[Residues]) -> Iterator[Residues]:
    """The blocks with the self-mask of a 48-byte seed added, mod q."""
    moduli = np.array(params.primes, np.uint32)[:, None]
    for block, residues in enumerate(blocks):
        summed = residues + residue_mask(params, seed, block)  # below 2^25
        yield np.minimum(summed, summed - moduli)  # what is below q wraps to more than itself


def _with_checks(params: RingParams, levels: Iterable[Levels]) -> Iterator[NDArray[np.float64]]:
    """Every block as (fields, coefficients), with CHECKS behind the last value and zeros behind them."""
    source = iter(levels)
    most = params.weight_cap * params.levels
    checks = list(CHECKS)
    for block, count in enumerate(params.data_counts()):
        slots = np.zeros(params.fields * params.coefficients(block))
        if count:
            values = next(source, np.empty(0, np.uint32))
            if values.dtype != np.uint32 or values.shape != (count,) or int(values.max()) > most:
                raise Misuse(f"expected a block of {count} uint32 levels of at most {most}")
            slots[:count] = values
        here = checks[: slots.size - count] if count < params.block_values else []
        slots[count : count + len(here)] = here
        del checks[: len(here)]
        yield slots.reshape(params.fields, -1)
    if next(source, None) is not None:
        raise Misuse(f"expected levels of {params.size} values")


def _scales(params: RingParams) -> Real:
    """2^(delta_bits + j field_bits) mod q_l, centred, (primes, fields)."""
    powers = [1 << (params.delta_bits + field * params.field_bits) for field in range(params.fields)]
    return np.array(
        [[(power + prime // 2) % prime - prime // 2 for power in powers] for prime in params.primes], np.float64
    )


def _encode(params: RingParams, ring: Ring, scales: Real, slots: Real) -> Real:
    """Delta m mod q, |x| <= q (groups of fields are reduced before they are added), (primes, coefficients)."""
    term = params.weight_cap * params.levels * max(params.primes) // 2
    group = max(1, _EXACT // term)
    out = small_product(scales[:, :group], slots[:group])
    if group < params.fields:
        scratch = np.empty_like(out)
        ring.reduce(out, scratch)
        for start in range(group, params.fields, group):
            more = small_product(scales[:, start : start + group], slots[start : start + group])
            np.add(out, ring.reduce(more, scratch), out=out)
    return out
