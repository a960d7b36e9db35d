"""The set that is chosen is the best of those allowed, and what does not fit is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ckks.params import (
    CHECKS,
    ETA,
    MAX_SIZE,
    MOST_PRIMES,
    MOST_TERM,
    RingParams,
    candidate,
    choose,
    noise_bound,
    primes,
)
from secagg.errors import Misuse

SIZES = st.one_of(st.integers(1, 20_000), st.integers(1, MAX_SIZE))


def sent_bytes(bits: int, sites: int, cap: int, size: int, ring_size: int, moduli: tuple[int, ...]) -> int | None:
    """Bytes of ciphertext and key, counted without the product's code; None if nothing fits."""
    q = math.prod(moduli)
    largest = sites * cap * (2**bits - 1)
    bound = next(b for b in range(64 * sites + 1) if b == 64 * sites or b * b > 110 * 64 * sites)
    delta = 1
    while delta / 2 <= bound:
        delta *= 2
    field = 1
    while field <= largest:
        field *= 2
    fields = 0
    while delta * field ** (fields + 1) <= 2 ** (q.bit_length() - 2):
        fields += 1
    if not fields:
        return None
    coefficients, left = 0, size + 8
    whole = left // (fields * ring_size)
    coefficients = whole * ring_size + math.ceil((left - whole * fields * ring_size) / fields)
    key_lanes = next(count for width, count in ((8, 8), (10, 6), (12, 5), (16, 4)) if 128 * sites < 1 << width)
    return 8 * (math.ceil(coefficients * len(moduli) * 3 / 8) + math.ceil(ring_size / key_lanes))


@settings(max_examples=150, deadline=None)
@given(bits=st.integers(4, 20), sites=st.integers(2, 100), cap=st.integers(1, 1023), size=SIZES)
def test_no_allowed_set_costs_less_than_the_chosen_one(bits: int, sites: int, cap: int, size: int) -> None:
    def cost(ring_size: int, count: int) -> float:
        sent = sent_bytes(bits, sites, cap, size, ring_size, primes(ring_size, count))
        return math.inf if sent is None else sent * (4 + math.log2(ring_size))

    costs = [cost(ring_size, count) for ring_size, most in MOST_PRIMES.items() for count in range(1, most + 1)]
    chosen = choose(bits, sites, cap, size)
    assert cost(chosen.ring_size, len(chosen.primes)) == min(costs)
    sent = sent_bytes(bits, sites, cap, size, chosen.ring_size, chosen.primes)
    assert sent == 8 * (chosen.words + chosen.key_words)


@settings(max_examples=150, deadline=None)
@given(bits=st.integers(1, 20), sites=st.integers(1, 100), cap=st.integers(1, 1023), size=SIZES)
def test_every_chosen_set_has_room_for_the_largest_sum_and_the_largest_error(
    bits: int, sites: int, cap: int, size: int
) -> None:
    params = choose(bits, sites, cap, size)
    assert sites * cap * params.levels < 1 << params.field_bits
    assert noise_bound(sites) < 1 << (params.delta_bits - 1)
    assert 1 << (params.delta_bits + params.fields * params.field_bits) <= params.modulus // 2
    assert params.block_values % 4096 == 0
    assert sum(params.data_counts()) == size
    assert params.words * 8 - 8 < params.residues * 3 <= params.words * 8
    filled = sum(params.coefficients(block) for block in {0, params.blocks - 1}) * params.fields
    assert params.blocks > 2 or 0 <= filled - size - len(CHECKS) < params.fields


@pytest.mark.parametrize(("bits", "sites", "most_bytes"), [(8, 16, 1.7), (12, 10, 2.3), (16, 16, 3.5), (16, 100, 3.5)])
def test_a_million_values_take_as_few_bytes_as_promised(bits: int, sites: int, most_bytes: float) -> None:
    assert choose(bits, sites, 1, 1_000_000).bytes_per_value <= most_bytes


@pytest.mark.parametrize("ring_size", MOST_PRIMES)
def test_the_primes_are_the_largest_that_allow_the_transform(ring_size: int) -> None:
    sieve = np.ones(1 << 24, bool)
    for each in range(2, 1 << 12):
        if sieve[each]:
            sieve[each * each :: each] = False
    allowed = [each for each in range(1 + 2 * ring_size, 1 << 24, 2 * ring_size) if sieve[each]]
    found = primes(ring_size, MOST_PRIMES[ring_size])
    assert list(found) == sorted(allowed, reverse=True)[: len(found)]


def test_primes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(Misuse, match="no 40 primes"):
        primes(16384, 40)


@pytest.mark.parametrize("sites", [1, 2, 3, 10, 100])
def test_the_noise_bound_is_exceeded_with_less_than_2_to_the_minus_128(sites: int) -> None:
    """Over the 2^29 coefficients of the largest update, by the exact tail of a sum of 128 n bits."""
    bits = 128 * sites
    first = bits // 2 + noise_bound(sites) + 1
    term, tail = math.comb(bits, first), 0
    for ones in range(first, bits + 1):
        tail += term
        term = term * (bits - ones) // (ones + 1)
    assert 2 * tail << 29 << 128 <= 1 << bits
    assert noise_bound(sites) <= ETA * sites


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 10, 1, 100),
        (21, 10, 1, 100),
        (8, 0, 1, 100),
        (8, 101, 1, 100),
        (8, 10, 0, 100),
        (8, 10, 1, 0),
        (8, 10, 1, MAX_SIZE + 1),
        (8, 10, MOST_TERM // 255 + 1, 100),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(Misuse):
        choose(*arguments)


def test_the_largest_of_everything_fits() -> None:
    assert choose(20, 100, MOST_TERM // 0xFFFFF, MAX_SIZE).size == MAX_SIZE
    assert isinstance(choose(8, 100, MOST_TERM // 255, 1), RingParams)


def test_a_ring_that_holds_no_field_is_no_candidate() -> None:
    assert candidate(20, 100, 1, 100, 4096, 1) is None


def test_the_smallest_term_beyond_30_bits_is_refused() -> None:
    assert choose(1, 10, MOST_TERM, 100).weight_cap == MOST_TERM
    with pytest.raises(Misuse, match="exceed 30 bits"):
        choose(1, 10, MOST_TERM + 1, 100)
