"""Masks are added mod 2^64 and cancel, whoever adds them and in however many threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import Misuse
from secagg.lanes import BLOCK_WORDS
from secagg.masked.masks import Masks, unmask
from secagg.primitives.prg import Stream


def seed(number: int) -> bytes:
    return number.to_bytes(48, "big")


def expand(number: int, words: int) -> list[int]:
    stream = Stream(seed(number)).read(8 * words)
    return [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]


def words_of(seed_number: int, count: int) -> np.ndarray:
    out = np.empty(count, np.uint64)
    Stream(seed(seed_number)).fill(out)
    return out


def test_masks_are_added_and_subtracted_mod_2_to_the_64() -> None:
    words = words_of(9, 1000)
    expected = [
        (word + a + b - c) % 2**64
        for word, a, b, c in zip(words.tolist(), *(expand(number, 1000) for number in (1, 2, 3)), strict=True)
    ]
    Masks([seed(1), seed(2)], [seed(3)]).apply(words)
    assert words.tolist() == expected


def test_a_32_bit_add_would_lose_the_carry_between_lanes() -> None:
    """The claim above has teeth: halves added on their own give other words, in about half of all places."""
    words, halves = words_of(9, 1000), words_of(9, 1000)
    Masks([seed(1)], []).apply(words)
    with np.errstate(over="ignore"):
        halves.view(np.uint32)[:] += words_of(1, 1000).view(np.uint32)
    assert 400 < np.count_nonzero(words != halves) < 600


def test_lanes_of_three_sites_survive_masks_that_cancel() -> None:
    packed = [np.full(100, 0x00FF_00FF_00FF_00FF, np.uint64) for _ in range(3)]
    Masks([seed(12), seed(13)], []).apply(packed[0])
    Masks([seed(23)], [seed(12)]).apply(packed[1])
    Masks([], [seed(13), seed(23)]).apply(packed[2])
    total = packed[0] + packed[1] + packed[2]
    assert (total == 0x02FD_02FD_02FD_02FD).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 3 * BLOCK_WORDS), min_size=1, max_size=4))
def test_the_mask_does_not_depend_on_how_the_vector_is_cut(lengths: list[int]) -> None:
    whole = words_of(9, sum(lengths))
    pieces = whole.copy()
    Masks([seed(1)], [seed(2)]).apply(whole)
    masks = Masks([seed(1)], [seed(2)])
    for piece in np.split(pieces, np.cumsum(lengths)[:-1]):
        masks.apply(piece)
    assert (whole == pieces).all()


def test_masks_that_start_later_are_the_rest_of_the_mask() -> None:
    whole = np.zeros(100, np.uint64)
    Masks([seed(1)], []).apply(whole)
    rest = np.zeros(60, np.uint64)
    Masks([seed(1)], [], start_word=40).apply(rest)
    assert (whole[40:] == rest).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("words", [1, BLOCK_WORDS, 3 * BLOCK_WORDS + 5])
def test_unmasking_in_slices_leaves_the_words(words: int, threads: int) -> None:
    vector = words_of(9, words)
    Masks([seed(1), seed(2)], [seed(3)]).apply(vector)
    unmask(vector, [seed(3)], [seed(1), seed(2)], threads)
    assert (vector == words_of(9, words)).all()


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(8, np.uint32),
        np.zeros(8, np.int64),
        np.zeros(16, np.uint64)[::2],
        np.zeros((2, 4), np.uint64),
    ],
)
def test_only_a_contiguous_vector_of_uint64_is_masked(vector: np.ndarray) -> None:
    with pytest.raises(Misuse):
        Masks([seed(1)], []).apply(vector)
    with pytest.raises(Misuse):
        unmask(vector, [seed(1)], [])


def test_no_thread_is_refused() -> None:
    with pytest.raises(Misuse):
        unmask(np.zeros(8, np.uint64), [], [], threads=0)


def test_an_odd_start_is_refused() -> None:
    with pytest.raises(Misuse):
        Masks([seed(1)], [], start_word=1)
