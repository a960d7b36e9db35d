"""Attacks on one-time-key CKKS that worked on a scheme without the defence, and what is left of them with it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from secagg.ckks import cipher
from secagg.ckks.cipher import encrypt
from secagg.ckks.decoding import decrypt
from secagg.ckks.frames import read, write
from secagg.ckks.params import choose
from secagg.ckks.ring import ring_for
from secagg.ckks.sampling import Residues, public_element
from secagg.errors import FaultyServer
from secagg.session import Words
from tests.ckks.made import HEADER, in_blocks, opened, plain_sum, random_levels, residue_sum, seed_of, site

PARAMS = choose(12, 10, 1, 8192 * 11 - 8)  # one whole block, so that every coefficient is known
SITES = [site(PARAMS, place) for place in range(6)]
RING = ring_for(PARAMS.ring_size, PARAMS.primes)
MODULI = np.array(PARAMS.primes, np.int64)[:, None]


def only_block(words: Words) -> NDArray[np.int64]:
    (block,) = read(PARAMS, words)
    return block.astype(np.int64)


def as_words(residues: NDArray[np.int64]) -> Words:
    return write(PARAMS, [(residues % MODULI).astype(np.uint32)])


def encoded(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Delta m of one block whose slots begin with these, in plain integers, residues."""
    slots = np.zeros(PARAMS.fields * PARAMS.ring_size, np.uint64)
    slots[: values.size] = values
    grid = slots.reshape(PARAMS.fields, -1)
    out = np.zeros((len(PARAMS.primes), PARAMS.ring_size), np.int64)
    for index, prime in enumerate(PARAMS.primes):
        for field, row in enumerate(grid):
            scale = pow(2, PARAMS.delta_bits + field * PARAMS.field_bits, prime)
            out[index] = (out[index] + row.astype(np.int64) * scale) % prime
    return out


def key_from(difference: NDArray[np.int64]) -> NDArray[np.int64]:
    """The small key that a difference of ciphertext and plaintext is a multiple of: divides by a, prime 0 only."""
    centred = (difference % MODULI).astype(np.float64)
    RING.reduce(centred, np.empty_like(centred))
    values = RING.forward(centred)
    prime = PARAMS.primes[0]
    element = public_element(PARAMS, HEADER, 0)[0]
    quotient = [int(v) * pow(int(a), -1, prime) % prime if a else 0 for v, a in zip(values[0], element, strict=True)]
    found = np.zeros_like(values)
    found[0] = [each - prime if each > prime // 2 else each for each in quotient]
    return RING.inverse(found)[0].astype(np.int64)


def refused(ciphertexts: list[Words]) -> bool:
    """Whether the sum is refused under the sum of all six keys."""
    try:
        opened(PARAMS, SITES, residue_sum(PARAMS, ciphertexts))
    except FaultyServer:
        return True
    return False


HONEST = [each.words for each in SITES[:5]]


@pytest.mark.parametrize("attack", ["copies", "negates", "cancels", "sends nothing", "replays", "doubles"])
def test_a_rushing_site_that_builds_on_others_ciphertexts_gets_a_refusal_for_everyone(attack: str) -> None:
    """Its own key went into the sum before it saw theirs, so what it sends has to lie under that key."""
    first = only_block(HONEST[0])
    others = sum(only_block(each) for each in HONEST[1:])
    earlier = site(PARAMS, 5, header=bytes(32)).words
    sent = {
        "copies": HONEST[0],
        "negates": as_words(-first),
        "cancels": as_words(-others),
        "sends nothing": as_words(0 * first),
        "replays": earlier,
        "doubles": as_words(2 * first),
    }[attack]
    assert not refused([*HONEST, SITES[5].words])
    assert refused([*HONEST, sent])


def test_the_key_sum_opens_no_ciphertext_but_the_sum() -> None:
    for some in (HONEST[:1], HONEST[:2], HONEST, [*HONEST, SITES[5].words, HONEST[0]]):
        assert refused(some)


def test_keys_released_for_two_survivor_sets_would_expose_the_difference() -> None:
    """Why the sum of the keys is released once in an attempt: this is what a second release would open."""
    all_keys = sum(each.key for each in SITES)
    without_first = sum(each.key for each in SITES[1:])
    pieces = decrypt(PARAMS, HEADER, all_keys - without_first, list(read(PARAMS, SITES[0].words)), survivors=1)
    assert np.array_equal(np.concatenate(list(pieces)), SITES[0].levels)


def test_one_key_under_two_updates_leaks_their_difference_without_noise_and_the_hedge_prevents_it() -> None:
    """A machine rolled back to a snapshot may draw the same random bytes for another update."""
    other = SITES[0].levels.copy()
    other[:3] = (other[:3] + 1) % 4096
    changed = encoded(SITES[0].levels.astype(np.uint64)) - encoded(other.astype(np.uint64))

    def difference(seed: bytes) -> NDArray[np.int64]:
        (block,) = encrypt(PARAMS, HEADER, seed, in_blocks(PARAMS, other))
        return (only_block(SITES[0].words) - block - changed) % MODULI

    assert not difference(SITES[0].seed).any()
    same_random = seed_of(0, other, random=(0).to_bytes(32, "big"))
    assert np.count_nonzero(difference(same_random)) > 0.999 * changed.size


def test_a_server_that_could_choose_a_would_read_the_ciphertext(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a comes from the header alone and is no argument of `encrypt`."""

    def zero(*_: object) -> Residues:
        return np.zeros((len(PARAMS.primes), PARAMS.ring_size), np.uint32)

    levels = random_levels(PARAMS, 0)
    monkeypatch.setattr(cipher, "public_element", zero)
    blocks = list(encrypt(PARAMS, HEADER, seed_of(0, levels), in_blocks(PARAMS, levels)))
    monkeypatch.setattr("secagg.ckks.decoding.public_element", zero)
    nothing = np.zeros(PARAMS.ring_size, np.int64)
    assert np.array_equal(next(decrypt(PARAMS, HEADER, nothing, blocks, survivors=1)), levels)
    monkeypatch.undo()
    honest = list(encrypt(PARAMS, HEADER, seed_of(0, levels), in_blocks(PARAMS, levels)))
    with pytest.raises(FaultyServer):
        next(decrypt(PARAMS, HEADER, nothing, honest, survivors=1))


def test_one_site_with_another_header_makes_the_sum_refused() -> None:
    stranger = site(PARAMS, 3, header=bytes(32)).words
    assert refused([*(each.words for each in SITES[:3]), stranger, *(each.words for each in SITES[4:])])


def test_an_unrounded_plaintext_gives_the_key_away_and_the_integers_do_not() -> None:
    """Li and Micciancio 2021: c - plaintext = a S, and a is public. Rounding leaves a S + E."""
    total = sum(only_block(each.words) for each in SITES) % MODULI
    key = sum(each.key for each in SITES)
    product = RING.multiply(public_element(PARAMS, HEADER, 0), RING.values_of(key))
    unrounded = total - product.astype(np.int64)
    assert np.array_equal(key_from(total - unrounded), key)

    integers = opened(PARAMS, SITES, residue_sum(PARAMS, [each.words for each in SITES]))
    assert np.array_equal(integers, plain_sum(SITES))
    with_check = np.append(integers, np.uint64(len(SITES)))
    guess = key_from(total - encoded(with_check))
    assert np.count_nonzero(guess == key) < 10  # by chance: 8192 guesses over 2^24 residues, expected 0.0005
