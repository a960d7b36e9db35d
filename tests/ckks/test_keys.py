"""Keys add up as words under any masks, and words that no keys sum to are refused."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.ckks.keys import key_sum, key_words
from secagg.ckks.params import choose
from secagg.ckks.sampling import HEDGED_BYTES, one_time_key
from secagg.errors import FaultyServer, Misuse
from secagg.masked.masks import Masks

PARAMS = choose(8, 5, 1, 100_000)


@given(sites=st.integers(1, 100), drawn=st.sampled_from(["largest", "least", "random"]))
def test_the_sum_of_the_words_is_the_sum_of_the_keys(sites: int, drawn: str) -> None:
    params = choose(8, sites, 1, 100)
    size = params.ring_size
    extreme = {"largest": np.full(size, 64, np.int8), "least": np.full(size, -64, np.int8)}
    keys = [extreme.get(drawn, one_time_key(bytes([place] * HEDGED_BYTES), size)) for place in range(sites)]
    total = np.zeros(params.key_words, np.uint64)
    for each in keys:
        total += key_words(params, each)
    assert np.array_equal(key_sum(params, total, sites), np.sum(keys, axis=0, dtype=np.int64))


def test_masks_on_the_words_cancel() -> None:
    seed = os.urandom(48)
    words = [key_words(PARAMS, one_time_key(bytes([place] * HEDGED_BYTES), PARAMS.ring_size)) for place in range(2)]
    expected = key_sum(PARAMS, words[0] + words[1], 2)
    Masks([seed], []).apply(words[0])
    Masks([], [seed]).apply(words[1])
    assert np.array_equal(key_sum(PARAMS, words[0] + words[1], 2), expected)


def test_the_lanes_are_the_narrowest_that_hold_the_sum() -> None:
    assert [choose(8, sites, 1, 100).key_lane_bits for sites in (1, 7, 8, 31, 32, 100)] == [8, 10, 12, 12, 16, 16]


@pytest.mark.parametrize("change", ["above", "behind", "over the lanes"])
def test_words_that_no_keys_sum_to_are_refused(change: str) -> None:
    words = 3 * key_words(PARAMS, np.full(PARAMS.ring_size, 64, np.int8))
    assert int(key_sum(PARAMS, words, 3)[0]) == 192
    if change == "above":
        words[5] += np.uint64(1)
    elif change == "behind":
        words[-1] |= np.uint64(1) << np.uint64(PARAMS.key_lane_bits * 5)
    else:
        words[0] |= np.uint64(1) << np.uint64(63)
    with pytest.raises(FaultyServer):
        key_sum(PARAMS, words, 3)


def test_a_key_or_words_of_another_shape_or_type_are_our_own_mistake() -> None:
    key = np.zeros(PARAMS.ring_size, np.int8)
    for wrong in (key[1:], key.astype(np.int64)):
        with pytest.raises(Misuse):
            key_words(PARAMS, wrong)
    words = key_words(PARAMS, key)
    for other in (words[1:], words.astype(np.int64)):
        with pytest.raises(Misuse):
            key_sum(PARAMS, other, 1)
