"""SEAL is the oracle: its own Evaluator and Decryptor read our ciphertexts as we do, for every shipped ring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secagg.ckks.frames import read
from secagg.ckks.params import CHECKS, MOST_PRIMES, RingParams, candidate, choose, primes
from secagg.ckks.sampling import public_element
from tests.ckks.made import HEADER, Site, opened, plain_sum, residue_sum, site

pytest.importorskip("tenseal.sealapi")

from tests.ckks.seal import Seal, fields_of, sealapi

SHIPPED = [(ring_size, count) for ring_size, most in MOST_PRIMES.items() for count in range(1, most + 1)]


def agree(params: RingParams, survivors: list[Site], folder: Path) -> None:
    """SEAL adds the last blocks of the survivors and decrypts; and it decrypts the sum that we made."""
    seal = Seal(params, folder)
    last = params.blocks - 1
    element = public_element(params, HEADER, last).astype(np.uint64)
    minus = (np.array(params.primes, np.uint64)[:, None] - element) % np.array(params.primes, np.uint64)[:, None]
    nothing = np.zeros_like(minus)
    blocks = [list(read(params, each.words))[last] for each in survivors]
    key = np.sum([each.key for each in survivors], axis=0)
    by_seal = seal.decrypt(
        key, seal.add([seal.ciphertext(block, nothing if place else minus) for place, block in enumerate(blocks)])
    )
    ours = residue_sum(params, [each.words for each in survivors])
    count = params.coefficients(last)
    assert np.array_equal(seal.decrypt(key, seal.ciphertext(ours[last], minus))[:, :count], by_seal[:, :count])

    expected = np.zeros(params.fields * count, np.uint64)
    values = plain_sum(survivors)[last * params.block_values :]
    expected[: values.size] = values
    expected[values.size : values.size + len(CHECKS)] = len(survivors) * np.array(CHECKS, np.uint64)
    grid = expected.reshape(params.fields, count)
    for coefficient in range(0, count, max(1, count // 200)):
        assert fields_of(params, by_seal, coefficient) == grid[:, coefficient].tolist()
    assert np.array_equal(opened(params, survivors, ours), plain_sum(survivors))


@pytest.mark.parametrize(("ring_size", "count"), SHIPPED)
def test_seal_adds_and_decrypts_to_our_integers_in_every_shipped_ring(
    ring_size: int, count: int, tmp_path: Path
) -> None:
    params = candidate(4, 3, 1, 5000, ring_size, count)
    assert params
    sites = [site(params, place) for place in range(3)]
    agree(params, [sites[0], sites[2]], tmp_path)


@pytest.mark.parametrize(
    ("bits", "sites", "cap", "size", "dropped"),
    [(8, 10, 1, 60_000, 2), (12, 10, 1, 8192 * 11 + 1, 3), (16, 10, 3, 30_000, 1), (16, 100, 1, 20_000, 15)],
)
def test_seal_agrees_on_chosen_sets_with_dropouts(
    bits: int, sites: int, cap: int, size: int, dropped: int, tmp_path: Path
) -> None:
    params = choose(bits, sites, cap, size)
    everyone = [site(params, place) for place in range(sites)]
    agree(params, everyone[dropped:], tmp_path)


@pytest.mark.parametrize(("ring_size", "count"), SHIPPED)
def test_seal_takes_every_shipped_ring_for_128_bits_secure(ring_size: int, count: int, tmp_path: Path) -> None:
    params = candidate(4, 3, 1, 5000, ring_size, count)
    assert params
    assert Seal(params, tmp_path).accepts


@pytest.mark.parametrize(("ring_size", "most"), MOST_PRIMES.items())
def test_seal_would_refuse_one_prime_more(ring_size: int, most: int) -> None:
    wanted = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    wanted.set_poly_modulus_degree(ring_size)
    wanted.set_coeff_modulus([sealapi.Modulus(each) for each in primes(ring_size, most + 2)])
    context = sealapi.SEALContext(wanted, True, sealapi.SEC_LEVEL_TYPE.TC128)
    assert not context.parameters_set()
