"""Sums are exact for every ring, whoever drops out, and no memory grows with what it need not."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ckks.cipher import Levels, blind, encrypt
from secagg.ckks.decoding import decrypt
from secagg.ckks.frames import read, write
from secagg.ckks.params import MOST_PRIMES, candidate, choose
from secagg.ckks.sampling import HEDGED_BYTES, errors, one_time_key
from secagg.ckks.sums import ResidueSum
from tests.ckks.made import HEADER, opened, plain_sum, residue_sum, site

SHIPPED = [(ring_size, count) for ring_size, most in MOST_PRIMES.items() for count in range(1, most + 1)]


@settings(max_examples=25, deadline=None)
@given(
    bits=st.integers(4, 20),
    cap=st.integers(1, 1000),
    size=st.sampled_from([1, 2, 7, 8, 9, 4096, 4096 * 3 - 8, 8192 * 15, 8192 * 15 - 3, 150_001]),
    alive=st.lists(st.booleans(), min_size=2, max_size=6).filter(any),
)
def test_the_sum_is_exact_whoever_drops_out(bits: int, cap: int, size: int, alive: list[bool]) -> None:
    params = choose(bits, len(alive), cap, size)
    sites = [site(params, place) for place in range(len(alive))]
    survivors = [each for each, stays in zip(sites, alive, strict=True) if stays]
    blocks = residue_sum(params, [each.words for each in survivors])
    assert np.array_equal(opened(params, survivors, blocks), plain_sum(survivors))


@pytest.mark.parametrize(("ring_size", "count"), SHIPPED)
def test_every_shipped_ring_gives_the_exact_sum(ring_size: int, count: int) -> None:
    params = candidate(4, 3, 1, 1000, ring_size, count)
    assert params
    sites = [site(params, place) for place in range(3)]
    assert np.array_equal(opened(params, sites, residue_sum(params, [each.words for each in sites])), plain_sum(sites))


@pytest.mark.parametrize("size_beside_a_whole_block", range(-9, 3))
def test_the_checks_behind_the_last_value_may_lie_in_two_blocks(size_beside_a_whole_block: int) -> None:
    whole = choose(8, 3, 1, 60_000).block_values
    params = choose(8, 3, 1, whole + size_beside_a_whole_block)
    sites = [site(params, place) for place in range(3)]
    assert np.array_equal(opened(params, sites, residue_sum(params, [each.words for each in sites])), plain_sum(sites))


def test_a_hundred_sites_with_the_largest_levels_do_not_overflow() -> None:
    params = choose(20, 100, 1023, 3)
    full = np.full(3, 1023 * params.levels, np.uint32)
    sites = [site(params, place, full) for place in range(100)]
    assert np.array_equal(opened(params, sites, residue_sum(params, [each.words for each in sites])), plain_sum(sites))


def test_more_terms_than_an_accumulator_holds_are_reduced_in_between() -> None:
    params = choose(8, 100, 1, 3)
    sites = [site(params, place) for place in range(100)]
    seeds = [os.urandom(48) for _ in range(300)]  # 700 terms of 2^23 on average are more than 2^32
    total = ResidueSum(params)
    for seed in seeds:
        total.remove_mask(seed)
    for seed in seeds:
        total.add(write(params, blind(params, seed, read(params, np.zeros(params.words, np.uint64)))))
    for each in sites:
        total.add(each.words)
    assert np.array_equal(opened(params, sites, list(total.blocks())), plain_sum(sites))


def test_a_blinded_ciphertext_adds_up_once_its_mask_is_removed_and_is_noise_before() -> None:
    params = choose(8, 3, 1, 150_000)
    sites = [site(params, place) for place in range(3)]
    seed = os.urandom(48)
    blinded = write(params, blind(params, seed, read(params, sites[0].words)))
    total = ResidueSum(params)
    for words in (blinded, sites[1].words, sites[2].words):
        total.add(words)
    same = [float(np.mean(a == b)) for a, b in zip(read(params, blinded), read(params, sites[0].words), strict=True)]
    assert max(same) < 1e-3  # one in 2^24 by chance
    total.remove_mask(seed)
    assert np.array_equal(opened(params, sites, list(total.blocks())), plain_sum(sites))


def test_the_error_of_a_sum_stays_within_its_bound_and_is_not_small_by_mistake() -> None:
    """Of 100 sites sigma is sqrt(100 * 32) = 56.6; the largest of a block's errors lies near 4 sigma."""
    total = sum(errors(bytes([place] * HEDGED_BYTES), 0, 16384).astype(np.int64) for place in range(100))
    assert 3 * 56.6 < int(np.abs(total).max()) < 6 * 56.6
    assert abs(float(np.std(total)) - 56.6) < 1.5  # 5 sigma of the estimate


class _Streaming:
    """Levels of a large update that exist one block at a time."""

    def __init__(self, size: int, step: int) -> None:
        self.size, self.step = size, step

    def __iter__(self) -> Iterator[Levels]:
        for start in range(0, self.size, self.step):
            yield np.full(min(self.step, self.size - start), start // self.step % 256, np.uint32)


def test_four_million_values_take_a_tenth_of_a_gigabyte_at_site_and_server() -> None:
    """So forty million take one: all that grows is the words, the accumulators and what the caller keeps."""
    params = choose(8, 10, 1, 4_000_000)
    seed = bytes(HEDGED_BYTES)
    levels = _Streaming(params.size, params.block_values)
    site_peak, words = _peak(lambda: write(params, encrypt(params, HEADER, seed, levels)))
    total = ResidueSum(params)
    server_peak, _ = _peak(lambda: total.add(words))
    key = one_time_key(seed, params.ring_size)
    blocks = list(total.blocks())

    def consume() -> None:
        for got, expected in zip(decrypt(params, HEADER, key, blocks, survivors=1), levels, strict=True):
            assert np.array_equal(got, expected)

    open_peak, _ = _peak(consume)
    assert max(site_peak, server_peak + sum(each.nbytes for each in blocks), open_peak) < 100e6


def _peak(work):  # type: ignore[no-untyped-def]
    tracemalloc.start()
    result = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, result
