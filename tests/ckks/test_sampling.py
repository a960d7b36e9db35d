"""Nothing secret repeats unless everything it is hashed from repeats, and everything is as uniform as it should be."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import pairwise

import numpy as np
import pytest

from secagg.ckks import sampling
from secagg.ckks.params import choose
from secagg.ckks.sampling import (
    HEDGED_BYTES,
    dither_seed,
    errors,
    hedged_seed,
    one_time_key,
    public_element,
    residue_mask,
    update_digest,
)
from secagg.errors import Misuse
from secagg.labels import CKKS_ERROR, CKKS_KEY, CKKS_PUBLIC, CKKS_SEED, CKKS_UPDATE
from tests.ckks.made import HEADER

PARAMS = choose(8, 10, 1, 300_000)
SEED = bytes(range(HEDGED_BYTES))
VALUES = np.arange(10, dtype=np.float32)


def test_after_a_rollback_another_update_header_or_site_gives_another_seed() -> None:
    random = bytes(32)
    update = update_digest(VALUES, 1)
    same = hedged_seed(random, HEADER, 0, update)
    others = [
        hedged_seed(random, HEADER, 0, update_digest(VALUES, 2)),
        hedged_seed(random, HEADER, 0, update_digest(np.nextafter(VALUES, np.float32(9)), 1)),
        hedged_seed(random, hashlib.sha256(b"other attempt").digest(), 0, update),
        hedged_seed(random, HEADER, 1, update),
        hedged_seed(bytes(31) + b"\1", HEADER, 0, update),
    ]
    assert same == hedged_seed(random, HEADER, 0, update)
    assert len({same, *others}) == 6
    assert len({dither_seed(each) for each in (same, *others)}) == 6


def test_the_seed_is_the_hash_that_the_spec_says() -> None:
    update = hashlib.sha256(CKKS_UPDATE + struct.pack(">Q", 7) + VALUES.tobytes()).digest()
    expected = hashlib.sha512(CKKS_SEED + b"r" * 32 + HEADER + struct.pack(">I", 5) + update).digest()
    assert hedged_seed(b"r" * 32, HEADER, 5, update_digest(VALUES, 7)) == expected


@pytest.mark.parametrize("lengths", [(31, 32, 32), (32, 31, 32), (32, 32, 33)])
def test_a_part_of_another_length_is_refused_so_that_no_two_inputs_hash_alike(lengths: tuple[int, int, int]) -> None:
    random, header, update = (bytes(each) for each in lengths)
    with pytest.raises(Misuse):
        hedged_seed(random, header, 0, update)


@pytest.mark.parametrize("draw", [dither_seed, lambda seed: one_time_key(seed, 4096), lambda seed: errors(seed, 0, 1)])
def test_a_seed_of_another_length_is_refused(draw) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Misuse):
        draw(bytes(HEDGED_BYTES - 1))


def test_key_and_errors_count_bits_of_a_labelled_hash() -> None:
    def expected(source: bytes, count: int) -> list[int]:
        octets = hashlib.shake_256(source).digest(16 * count)
        numbers = struct.unpack(f"<{2 * count}Q", octets)
        return [plus.bit_count() - minus.bit_count() for plus, minus in zip(numbers[::2], numbers[1::2], strict=True)]

    assert one_time_key(SEED, 4096).tolist() == expected(CKKS_KEY + SEED, 4096)
    assert errors(SEED, 3, 50).tolist() == expected(CKKS_ERROR + SEED + struct.pack(">I", 3), 50)


def test_key_and_errors_have_mean_zero_variance_32_and_the_binomial_kurtosis() -> None:
    draws = errors(SEED, 0, 1 << 20).astype(np.float64)
    assert abs(draws.mean()) < 5 * math.sqrt(32 / draws.size)
    assert abs(draws.var() / 32 - 1) < 5 * math.sqrt(2 / draws.size)
    assert abs((draws**4).mean() / draws.var() ** 2 - (3 - 1 / 64)) < 0.05  # 10 sigma of sqrt(24 / 2^20)


def test_no_two_blocks_and_no_two_secrets_share_randomness() -> None:
    drawn = [one_time_key(SEED, 4096), *(errors(SEED, block, 4096) for block in range(4))]
    drawn += [one_time_key(bytes(HEDGED_BYTES), 4096)]
    for left, right in pairwise(drawn):
        assert abs(np.corrcoef(left, right)[0, 1]) < 6 / 64  # 6 sigma
    assert len({each.tobytes() for each in drawn}) == len(drawn)


def test_the_public_element_is_the_rejection_sample_that_the_spec_says() -> None:
    for block in (0, 1):
        element = public_element(PARAMS, HEADER, block)
        for index in (0, len(PARAMS.primes) - 1):
            prime = PARAMS.primes[index]
            source = CKKS_PUBLIC + HEADER + struct.pack(">IH", block, index)
            octets = hashlib.shake_128(source).digest(3 * 2 * PARAMS.ring_size)
            numbers = [int.from_bytes(octets[start : start + 3], "little") for start in range(0, len(octets), 3)]
            assert element[index].tolist() == [each for each in numbers if each < prime][: PARAMS.ring_size]


def test_a_header_of_another_length_is_refused() -> None:
    with pytest.raises(Misuse):
        public_element(PARAMS, HEADER + b"\0", 0)


def test_too_few_tries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = public_element(PARAMS, HEADER, 0)
    monkeypatch.setattr(sampling.math, "ceil", lambda value: int(value) // 3)
    assert np.array_equal(public_element(PARAMS, HEADER, 0), expected)


@pytest.mark.parametrize("source", ["header", "mask"])
def test_uniform_residues_are_below_their_primes_and_fill_the_range_evenly(source: str) -> None:
    drawn = public_element(PARAMS, HEADER, 0) if source == "header" else residue_mask(PARAMS, bytes(48), 0)
    for row, prime in zip(drawn, PARAMS.primes, strict=True):
        assert int(row.max()) < prime
        counts = np.histogram(row, bins=16, range=(0, prime))[0]
        chi_square = float(((counts - row.size / 16) ** 2).sum() / (row.size / 16))
        assert chi_square < 60  # 15 degrees of freedom: exceeded with 2e-7


def test_masks_of_blocks_primes_and_sites_differ_and_come_in_any_order() -> None:
    masks = [residue_mask(PARAMS, seed, block) for seed in (bytes(48), b"\1" * 48) for block in (2, 0, 1)]
    rows = [row[:100].tobytes() for mask in masks for row in mask]
    assert len(set(rows)) == len(rows)
    assert np.array_equal(residue_mask(PARAMS, bytes(48), 1), masks[2])
    assert masks[0].shape == (len(PARAMS.primes), PARAMS.coefficients(2))


@pytest.mark.parametrize("lengths", [(31, 31, 32), (31, 31, 31), (31, 32, 32)])
def test_no_two_parts_of_a_seed_may_be_short_together(lengths: tuple[int, int, int]) -> None:
    random, header, update = (bytes(each) for each in lengths)
    with pytest.raises(Misuse):
        hedged_seed(random, header, 0, update)
