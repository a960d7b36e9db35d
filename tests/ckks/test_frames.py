"""A ciphertext has one encoding; anything else is refused with the one typed error, and the sum is as it was."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.ckks.cipher import encrypt
from secagg.ckks.frames import read, write
from secagg.ckks.params import choose
from secagg.ckks.sums import ResidueSum
from secagg.errors import Malformed, Misuse
from secagg.session import Words
from tests.ckks.made import HEADER, in_blocks, random_levels, seed_of, site

PARAMS = choose(8, 10, 1, 70_000)  # three blocks, the last one short, padding in the last word
GOOD = [site(PARAMS, place).words for place in range(2)]


def test_the_bytes_are_residues_of_three_bytes_prime_by_prime_and_block_by_block() -> None:
    levels = random_levels(PARAMS, 0)
    blocks = list(encrypt(PARAMS, HEADER, seed_of(0, levels), in_blocks(PARAMS, levels)))
    octets = b"".join(int(each).to_bytes(3, "little") for block in blocks for row in block for each in row)
    padding = -len(octets) % 8
    assert padding
    assert GOOD[0].astype("<u8").tobytes() == octets + bytes(padding)
    assert [block.shape[1] for block in blocks] == [PARAMS.coefficients(block) for block in range(PARAMS.blocks)]
    assert blocks[-1].shape[1] < PARAMS.ring_size


@given(size=st.integers(1, 200_000))
def test_what_is_written_is_read_again(size: int) -> None:
    params = choose(12, 10, 1, size)
    draws = np.random.default_rng(size)
    moduli = np.array(params.primes)[:, None]
    shapes = [(len(params.primes), params.coefficients(block)) for block in range(params.blocks)]
    blocks = [draws.integers(0, moduli, shape).astype(np.uint32) for shape in shapes]
    words = write(params, blocks)
    assert words.shape == (params.words,)
    for got, expected in zip(read(params, words), blocks, strict=True):
        assert np.array_equal(got, expected)
    assert np.array_equal(write(params, read(params, words)), words)


@pytest.mark.parametrize("change", ["one missing", "one more", "another type", "another shape"])
def test_blocks_of_other_parameters_are_not_written(change: str) -> None:
    blocks = list(read(PARAMS, GOOD[0]))
    changed = {
        "one missing": blocks[:-1],
        "one more": [*blocks, blocks[-1]],
        "another type": [blocks[0].astype(np.int64), *blocks[1:]],
        "another shape": [blocks[0][:, 1:], *blocks[1:]],
    }[change]
    with pytest.raises(Misuse):
        write(PARAMS, changed)


def altered(change: Callable[[np.ndarray], None]) -> Words:
    words = GOOD[0].copy()
    change(words.view(np.uint8))
    return words


def first_residue_becomes(number: int) -> Words:
    def change(octets: np.ndarray) -> None:
        octets[:3] = np.frombuffer(number.to_bytes(3, "little"), np.uint8)

    return altered(change)


def last_residue_becomes(number: int) -> Words:
    def change(octets: np.ndarray) -> None:
        stop = 3 * PARAMS.residues
        octets[stop - 3 : stop] = np.frombuffer(number.to_bytes(3, "little"), np.uint8)

    return altered(change)


def padding_is_not_zero(octets: np.ndarray) -> None:
    octets[3 * PARAMS.residues] = 1


BAD = {
    "none": None,
    "empty": np.empty(0, np.uint64),
    "one word less": GOOD[0][:-1],
    "one word more": np.append(GOOD[0], np.uint64(0)),
    "signed": GOOD[0].view(np.int64),
    "real": GOOD[0].astype(np.float64),
    "two axes": GOOD[0][None],
    "padding": altered(padding_is_not_zero),
    "the prime itself": first_residue_becomes(PARAMS.primes[0]),
    "the largest number": first_residue_becomes(0xFFFFFF),
    "the last residue": last_residue_becomes(PARAMS.primes[-1]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_ciphertext_that_is_not_one_is_refused_and_nothing_of_it_is_added(name: str) -> None:
    total = ResidueSum(PARAMS)
    total.add(GOOD[1])
    before = write(PARAMS, total.blocks())
    with pytest.raises(Malformed):
        total.add(BAD[name])
    assert np.array_equal(write(PARAMS, total.blocks()), before)


def test_the_largest_allowed_residue_is_accepted() -> None:
    list(read(PARAMS, first_residue_becomes(PARAMS.primes[0] - 1)))


def mutate(chance: random.Random) -> Words:
    """One of ten ways to break a ciphertext, or to change it into another that could be one."""
    words = chance.choice(GOOD).copy()
    octets = words.view(np.uint8)
    start, stop = sorted(chance.sample(range(octets.size + 1), 2))
    kind = chance.randrange(10)
    if kind == 0:
        octets[chance.randrange(octets.size)] ^= 1 << chance.randrange(8)
    elif kind == 1:
        words = words[: chance.randrange(words.size)]
    elif kind == 2:
        words = np.append(words, np.zeros(chance.choice([1, 2, 3, 1 << 16]), np.uint64))
    elif kind == 3:
        octets[start:stop] = 0xFF
    elif kind == 4:
        octets[start:stop] = 0
    elif kind == 5:
        octets[start:stop] = np.frombuffer(chance.randbytes(stop - start), np.uint8)
    elif kind == 6:
        octets[:] = np.roll(octets, chance.randrange(1, 100))
    elif kind == 7:
        words[:] = np.random.default_rng(start).permutation(words)
    elif kind == 8:
        octets[start - start % 3 :][:3] = np.frombuffer(chance.choice(PARAMS.primes).to_bytes(3, "little"), np.uint8)
    else:
        words = words.astype(chance.choice([np.int64, np.uint32, np.float64, np.uint8]))
    return words


def test_a_thousand_mutants_give_the_typed_error_or_residues_in_range() -> None:
    chance = random.Random(5)  # noqa: S311 - which mutants, not a secret
    moduli = np.array(PARAMS.primes)[:, None]
    outcomes = {"refused": 0, "read": 0}
    for _ in range(1000):
        try:
            for block in read(PARAMS, mutate(chance)):
                assert (block < moduli).all()
            outcomes["read"] += 1
        except Malformed:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500
    assert outcomes["read"] > 50
