"""What is not the sum of the survivors' ciphertexts under the sum of their keys is refused, in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from secagg.ckks.cipher import Levels, encrypt
from secagg.ckks.decoding import decrypt
from secagg.ckks.params import ETA, RingParams, candidate, choose, noise_bound
from secagg.ckks.sampling import Residues
from secagg.errors import FaultyServer, Misuse
from tests.ckks.made import HEADER, in_blocks, opened, plain_sum, random_levels, residue_sum, seed_of, site

PARAMS = choose(8, 10, 3, 40_001)
SITES = [site(PARAMS, place) for place in range(3)]
SUM = residue_sum(PARAMS, [each.words for each in SITES])
DELTA = 1 << PARAMS.delta_bits
TOP = 1 << (PARAMS.delta_bits + PARAMS.fields * PARAMS.field_bits)
WORDS = "^the sum of ciphertexts does not decrypt under the sum of the keys$"


def shifted(blocks: Sequence[Residues], amount: int, coefficient: int, block: int = 0) -> list[Residues]:
    """The sum with an integer added to one coefficient."""
    out = [each.copy() for each in blocks]
    for index, prime in enumerate(PARAMS.primes):
        out[block][index, coefficient] = (int(out[block][index, coefficient]) + amount) % prime
    return out


def slot(place: int) -> tuple[int, int, int]:
    """Block, coefficient and field of a value."""
    block, rest = divmod(place, PARAMS.block_values)
    field, coefficient = divmod(rest, PARAMS.coefficients(block))
    return block, coefficient, field


def with_value_added(place: int, amount: int) -> list[Residues]:
    block, coefficient, field = slot(place)
    return shifted(SUM, amount << (PARAMS.delta_bits + field * PARAMS.field_bits), coefficient, block)


def refuse(blocks: Sequence[Residues], **options: object) -> None:
    with pytest.raises(FaultyServer, match=WORDS):
        opened(PARAMS, SITES, blocks, **options)  # type: ignore[arg-type]


def test_the_honest_sum_opens() -> None:
    assert np.array_equal(opened(PARAMS, SITES, SUM, total_weight=9), plain_sum(SITES))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_error_beyond_the_bound_is_refused(sign: int) -> None:
    refuse(shifted(SUM, sign * 2 * noise_bound(3), 7))


def test_the_bound_is_that_of_the_survivors_not_of_all_sites() -> None:
    assert 2 * noise_bound(3) < noise_bound(10) + 64
    refuse(shifted(SUM, noise_bound(3) + 64, 7))


def test_an_integer_above_the_fields_is_refused() -> None:
    refuse(shifted(SUM, TOP, 5))


def test_an_integer_below_zero_is_refused() -> None:
    place = int(np.argmin(plain_sum(SITES)))
    block, coefficient, _ = slot(place)
    largest = (1 << (PARAMS.fields * PARAMS.field_bits)) - 1
    refuse(shifted(SUM, -DELTA * largest, coefficient, block))


def test_integers_all_over_the_ring_are_refused() -> None:
    for part in range(1, 8):
        refuse(shifted(SUM, DELTA * (PARAMS.modulus * part // 8 // DELTA), 9))


def test_a_sum_above_the_survivors_largest_is_refused() -> None:
    most = 3 * 3 * 255
    value = int(plain_sum(SITES)[100])
    assert int(opened(PARAMS, SITES, with_value_added(100, most - value))[100]) == most
    refuse(with_value_added(100, most - value + 1))


def test_a_sum_above_the_total_weight_times_the_levels_is_refused() -> None:
    assert int(plain_sum(SITES).max()) > 5 * 255
    refuse(SUM, total_weight=5)


@pytest.mark.parametrize("offset", range(8))
def test_a_check_behind_the_values_that_is_not_what_it_should_be_is_refused(offset: int) -> None:
    refuse(with_value_added(PARAMS.size + offset, 1))


def test_a_padding_value_that_is_not_zero_is_refused() -> None:
    last = PARAMS.blocks - 1
    slots = last * PARAMS.block_values + PARAMS.fields * PARAMS.coefficients(last)
    assert slots > PARAMS.slots
    refuse(with_value_added(slots - 1, 1))


@pytest.mark.parametrize("survivors", [1, 2])
def test_a_sum_of_another_number_of_sites_is_refused(survivors: int) -> None:
    """Two sites whose keys and ciphertexts add up right, told as one, and the other way round."""
    some = SITES[: 3 - survivors]
    key = np.sum([each.key for each in some], axis=0)
    blocks = residue_sum(PARAMS, [each.words for each in some])
    with pytest.raises(FaultyServer, match=WORDS):
        list(decrypt(PARAMS, HEADER, key, blocks, survivors=survivors))


def test_a_key_sum_that_no_keys_add_up_to_is_refused_before_anything_is_computed() -> None:
    key = np.zeros(PARAMS.ring_size, np.int64)
    key[3] = -3 * ETA - 1

    def untouched() -> Iterator[Residues]:
        raise AssertionError
        yield

    with pytest.raises(FaultyServer, match=WORDS):
        next(decrypt(PARAMS, HEADER, key, untouched(), survivors=3))


@pytest.mark.parametrize("place", [0, PARAMS.ring_size - 1])
def test_a_key_sum_off_by_one_is_refused(place: int) -> None:
    key = np.sum([each.key for each in SITES], axis=0)
    key[place] += 1
    with pytest.raises(FaultyServer, match=WORDS):
        list(decrypt(PARAMS, HEADER, key, SUM, survivors=3))


def test_another_header_is_refused() -> None:
    refuse(SUM, header=bytes(32))


def test_a_flipped_bit_of_a_residue_is_refused() -> None:
    """It moves the integer by a multiple of q / q_l, all over the ring. One in four or so would stay within the noise
    bound by chance, but not also in range in all twelve fields. A change by Delta is another matter: it is a valid sum,
    and what stops it are the signatures over every site's words."""
    chance = np.random.default_rng(1)
    refused = 0
    for _ in range(40):
        blocks = [each.copy() for each in SUM]
        row, column = int(chance.integers(len(PARAMS.primes))), int(chance.integers(PARAMS.coefficients(0)))
        blocks[0][row, column] ^= 1
        try:
            opened(PARAMS, SITES, blocks)
        except FaultyServer:
            refused += 1
    assert refused == 40


@pytest.mark.parametrize(
    ("shape", "survivors"), [((PARAMS.ring_size - 1,), 3), ((PARAMS.ring_size,), 0), ((PARAMS.ring_size,), 11)]
)
def test_a_call_that_makes_no_sense_is_misuse(shape: tuple[int], survivors: int) -> None:
    with pytest.raises(Misuse):
        next(decrypt(PARAMS, HEADER, np.zeros(shape, np.int64), SUM, survivors=survivors))


def bad_levels(params: RingParams) -> dict[str, list[Levels]]:
    good = list(in_blocks(params, random_levels(params, 0)))
    too_large = good[0].copy()
    too_large[9] = 3 * 255 + 1
    return {
        "a block too few": good[:-1],
        "a block too many": [*good, good[-1]],
        "a short block": [good[0][1:], *good[1:]],
        "another type": [good[0].astype(np.uint64), *good[1:]],
        "a level too large": [too_large, *good[1:]],
    }


@pytest.mark.parametrize("name", bad_levels(PARAMS))
def test_levels_that_do_not_fit_are_not_encrypted(name: str) -> None:
    levels = random_levels(PARAMS, 0)
    with pytest.raises(Misuse):
        list(encrypt(PARAMS, HEADER, seed_of(0, levels), bad_levels(PARAMS)[name]))


def test_wide_terms_are_added_in_groups_so_that_each_stays_exact() -> None:
    """A weight cap of 2^21 makes terms of 2^29: four of them times a residue are above 2^53."""
    params = candidate(8, 3, 1 << 21, 5000, 16384, 17)
    assert params
    assert params.fields * params.levels * params.weight_cap * (max(params.primes) // 2) > 1 << 53
    full = np.full(params.size, params.levels * params.weight_cap, np.uint32)
    sites = [site(params, place, full) for place in range(3)]
    assert np.array_equal(opened(params, sites, residue_sum(params, [each.words for each in sites])), plain_sum(sites))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_error_of_the_bound_itself_is_taken_and_one_more_is_not(sign: int) -> None:
    """Under keys that add up to zero every error is known: the sum is Delta times the checks, and nothing else."""
    block, coefficient, field = slot(PARAMS.size)  # of the first check, which is the number of survivors
    zeros = [np.zeros_like(each) for each in SUM]
    exact = shifted(zeros, 3 << (PARAMS.delta_bits + field * PARAMS.field_bits), coefficient, block)
    key = np.zeros(PARAMS.ring_size, np.int64)
    pieces = decrypt(PARAMS, HEADER, key, shifted(exact, sign * noise_bound(3), 7), survivors=3)
    assert not np.concatenate(list(pieces)).any()
    with pytest.raises(FaultyServer, match=WORDS):
        list(decrypt(PARAMS, HEADER, key, shifted(exact, sign * (noise_bound(3) + 1), 7), survivors=3))
