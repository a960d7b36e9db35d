"""The range follows the updates in public integers, whichever way they point and however loud one is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import Misuse
from secagg.quantize import MAX_RANGE_Q40, first_range, next_range
from secagg.tally import Tally
from tests.quantize.made import Q40, dither, normal, quantizer

SIZE = 20_000


def tally_of(*, sites: int = 4, weight: int = 4, clipped: int = 0, peak: int = 0) -> Tally:
    return Tally(
        sites=sites,
        weight=weight,
        examples=sites,
        train_loss=0,
        eval_tokens=0,
        eval_loss=0,
        clipped=clipped,
        peak=peak,
    )


def test_the_next_range_is_one_and_a_half_times_the_mean_of_the_sites_peaks() -> None:
    assert next_range(100, tally_of(peak=4 * 1000), 0, SIZE, 255) == 1500


def test_a_mean_larger_than_the_mean_of_the_peaks_counts_instead() -> None:
    """One site of weight 97 and three of weight 1: the mean is nearly that site's update."""
    largest = 255 * 97  # the mean's largest entry is 0.97 of the range
    assert next_range(Q40, tally_of(weight=100, peak=Q40 + 3 * 1000), largest, SIZE, 255) > 1.45 * Q40


def test_too_much_clipping_at_least_doubles_the_range() -> None:
    allowed = 4 * SIZE // 100
    assert next_range(100, tally_of(peak=400, clipped=allowed), 0, SIZE, 255) == 150
    assert next_range(100, tally_of(peak=400, clipped=allowed + 1), 0, SIZE, 255) == 200


def test_a_range_never_becomes_zero_and_never_exceeds_its_cap() -> None:
    assert next_range(1, tally_of(), 0, SIZE, 255) == 1
    assert next_range(1, tally_of(peak=4 * MAX_RANGE_Q40), 0, SIZE, 255) == MAX_RANGE_Q40
    assert first_range(Q40, 1 << 30, 1) == MAX_RANGE_Q40


@given(st.integers(1, 1 << 52), st.integers(0, 100 << 52), st.integers(1, 100), st.integers(0, 1 << 32))
def test_the_rule_is_integer_arithmetic_within_its_limits(range_q40: int, peak: int, sites: int, largest: int) -> None:
    found = next_range(range_q40, tally_of(sites=sites, weight=sites, peak=peak), largest, SIZE, 255)
    assert type(found) is int
    assert 1 <= found <= MAX_RANGE_Q40


def test_the_first_range_is_kappa_times_what_adam_can_move() -> None:
    assert first_range(Q40 // 100, 25, 2) == 2 * 25 * (Q40 // 100)
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(Misuse):
            first_range(*wrong)


@pytest.mark.parametrize("sites", [4, 40])
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_after_one_round_hardly_anything_is_clipped_and_the_range_is_not_wasted(sites: int, shared: float) -> None:
    """Orthogonal and aligned updates, a first range 30 times too wide or too narrow: the next round clips
    below 0.1 % and spends at most 3 bits on room that no value uses."""
    common = normal(SIZE, number=99)
    updates = [shared * common + normal(SIZE, number=i) for i in range(sites)]
    for start in (100.0, 0.1):
        following = _play(updates, _play(updates, round(start * Q40))[0])
        assert following[1] < 1e-3
        assert following[0] / Q40 < 8 * max(np.abs(each).max() for each in updates)


def _play(updates: list[np.ndarray], range_q40: int) -> tuple[int, float]:
    """One round's next range and the fraction of values it clipped."""
    maker = quantizer(SIZE, sites=len(updates), scale=range_q40 / Q40)
    total, clipped, peak = np.zeros(maker.words, np.uint64), 0, 0
    for number, values in enumerate(updates):
        blocks = maker.blocks(values.astype(np.float32), 1, dither(number))
        total += np.concatenate([block.copy() for block in blocks])
        clipped, peak = clipped + blocks.clipped, peak + blocks.peak_q40
    tally = tally_of(sites=len(updates), weight=len(updates), clipped=clipped, peak=peak)
    following = next_range(range_q40, tally, maker.open(total, len(updates)).largest, SIZE, maker.params.levels)
    return following, clipped / (SIZE * len(updates))


def test_the_first_range_never_exceeds_its_cap() -> None:
    assert first_range(MAX_RANGE_Q40, 1, 1) == MAX_RANGE_Q40
    assert first_range(MAX_RANGE_Q40 // 2, 3, 1) == MAX_RANGE_Q40
