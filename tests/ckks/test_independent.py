"""A second implementation, which shares no code, makes the same bytes and opens the same sums."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from secagg.ckks.params import candidate, noise_bound
from secagg.ckks.ring import ring_for
from secagg.ckks.sampling import one_time_key
from tests.ckks import independent
from tests.ckks.made import HEADER, opened, residue_sum, seed_of, site

# SHA-256 over the sum's words of the rounds below: what a later version has to make as well.
DIGESTS = {
    (4096, 3): "8ca6d5033b9c86271ea8cd8a27f096747ffeaa1feafd65657893e9cd917b4a19",
    (8192, 8): "17e487d0029d4f6b2d5754fe8a64f0d7fd6491c11065f4d4c11d21151e2d5204",
    (16384, 17): "a21c5f0a1d6192619fc063ae590a2e03ea0cbc035050780ab54436211ce36f5e",
}


@pytest.mark.parametrize(
    ("ring_size", "count"), [(4096, 3), (8192, 8), pytest.param(16384, 17, marks=pytest.mark.slow)]
)
def test_ciphertexts_sums_and_openings_are_those_of_the_other_implementation(ring_size: int, count: int) -> None:
    params = candidate(12, 3, 2, 100, ring_size, count)
    assert params
    other = independent.Packing(12, 3, 2, 100, ring_size, count)
    assert (params.primes, params.field_bits, params.fields, params.delta_bits) == (
        other.primes,
        other.width,
        other.fields,
        other.delta,
    )
    sites = [site(params, place) for place in (0, 2)]
    ciphertexts = []
    for place, each in zip((0, 2), sites, strict=True):
        floats = each.levels.astype("<f4").tobytes()
        seed = independent.seed(place.to_bytes(32, "big"), HEADER, place, floats, 1)
        assert seed == seed_of(place, each.levels)
        assert independent.one_time_key(seed, ring_size) == one_time_key(seed, ring_size).tolist()
        rows = other.encrypt(HEADER, seed, each.levels.tolist())
        assert other.words(rows) == each.words.astype("<u8").tobytes()
        ciphertexts.append(rows)
    total = other.add(ciphertexts)
    blocks = residue_sum(params, [each.words for each in sites])
    assert blocks[0].tolist() == total
    key = (sites[0].key + sites[1].key).tolist()
    slots, error = other.decrypt(HEADER, key, total)
    assert error <= noise_bound(2)
    assert slots[: params.size] == opened(params, sites, blocks).tolist()
    assert slots[params.size :] == [2] + [0] * (len(slots) - params.size - 1)
    assert hashlib.sha256(other.words(total)).hexdigest() == DIGESTS[ring_size, count]


@pytest.mark.parametrize("ring_size", [4096, 8192, 16384])
def test_the_transform_is_in_bit_reversed_order_of_the_powers_of_the_least_root(ring_size: int) -> None:
    prime = independent.largest_primes(ring_size, 1)[0]
    psi = independent.least_root(ring_size, prime)
    ring = ring_for(ring_size, (prime,))
    x = np.zeros((1, ring_size))
    x[0, 1] = 1.0
    width = ring_size.bit_length() - 1
    exponents = [2 * int(format(i, f"0{width}b")[::-1], 2) + 1 for i in range(ring_size)]
    assert [int(each) % prime for each in ring.forward(x)[0]] == [pow(psi, each, prime) for each in exponents]
