"""What lies behind keys and residues in a sum is what every site put there: zeros."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.ckks.keys import key_words
from secagg.ckks.params import choose
from secagg.ckks.payload import ZEROS, KeyAndCiphertext, read_key_sum
from secagg.errors import FaultyServer, Malformed
from secagg.tally import WORDS
from tests.sim import Consortium

SIZE = next(size for size in range(1, 1000) if choose(8, 5, 1, size).residues % 2)  # the last word is half filled


def test_a_sum_of_ciphertexts_of_another_length_or_with_something_behind_its_end_is_malformed() -> None:
    consortium = Consortium(5)
    payload = KeyAndCiphertext(consortium.context(consortium.manifest(SIZE, scheme="ckks")))
    good = np.zeros(payload.tail_sum_words, np.uint64)
    assert sum(each.size for each in payload.sum_blocks(good)) == payload.params.residues
    behind = good.copy()
    behind[-1] = np.uint64(1 << 32)
    for bad in (good[:-1], np.append(good, np.uint64(0)), good[None], behind):
        with pytest.raises(Malformed, match="another length, or bytes behind its end"):
            next(payload.sum_blocks(bad))


def test_a_word_that_is_zero_at_every_site_must_be_zero_in_the_sum() -> None:
    """With a wrong or missing pad they are not, before anything else is read."""
    params = choose(8, 5, 1, SIZE)
    key = key_words(params, np.zeros(params.ring_size, np.int8))
    good = np.concatenate((key, np.zeros(ZEROS, np.uint64), np.arange(len(WORDS), dtype=np.uint64)))
    assert read_key_sum(params, good, 1)[1].tolist() == list(range(len(WORDS)))
    for place in (key.size, key.size + ZEROS - 1):
        bad = good.copy()
        bad[place] = np.uint64(1)
        with pytest.raises(FaultyServer, match="not zero in the sum"):
            read_key_sum(params, bad, 1)
