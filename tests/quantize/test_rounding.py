"""Quantised values are unbiased and within their levels, and an update that is not finite is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import Misuse
from secagg.lanes import BLOCK_WORDS, LANE_BITS, lanes_per_word
from tests.quantize import reference
from tests.quantize.made import LANES, Q40, dither, normal, quantizer, words_of


class EveryDither:
    """Not random: each of the 2^16 dithers once, so that the mean over them is the expectation itself."""

    def fill(self, out: np.ndarray) -> None:
        out[:] = np.arange(1 << 16)


@pytest.mark.parametrize("bits", [4, 8, 14, 16, 20])
@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.9, 1 - 2**-18, 2**-13 * 0.7])
def test_stochastic_rounding_is_unbiased(bits: int, place: float) -> None:
    """The expectation is the value, but for half a unit of the dither's fraction, where values are rounded to
    nearest before the dither is added, and half a unit of float32, in which the value is scaled."""
    count, levels = 1 << 16, 2**bits - 1
    maker = quantizer(count, bits=bits, sites=1, rotate=0)
    value = np.float32((levels // 3 + place) * 2 / levels - 1)
    words = np.concatenate(list(maker.blocks(np.full(count, value), 1, EveryDither())))  # type: ignore[arg-type]
    found = np.array(reference.lanes_of(words.tolist(), maker.params.lane_bits, count))
    expected = (float(value) + 1) * levels / 2
    lost = 2.0 ** -(maker.params.dither_bits + 1) + levels * 2.0**-25
    assert abs(found.mean() - expected) <= lost
    assert np.abs(found - expected).max() < 1 + lost


def test_the_dither_is_the_stream_16_bits_per_value() -> None:
    """Spec §10.3 to the letter, at the least (f = 10) and the most (f = 16) bits of dither."""
    values = normal(100_000, 0.3)
    for bits in (8, 20):
        maker = quantizer(100_000, bits=bits, sites=1, rotate=0)
        levels, f = maker.params.levels, maker.params.dither_bits
        bound = levels << (f - 1)
        noise = np.frombuffer(dither().read(200_000), "<u2") >> (16 - f)
        scaled = np.rint(np.clip(values * np.float32(bound), -bound, bound)).astype(np.int64)
        expected = (scaled + bound + noise) >> f
        words = words_of(maker, values)
        assert reference.lanes_of(words.tolist(), maker.params.lane_bits, 100_000) == expected.tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**64), 2.0**64, width=32), min_size=1, max_size=300),
    st.sampled_from([4, 8, 16, 20]),
    st.sampled_from([1, Q40, 1 << 52]),
    st.integers(0, 1),
    st.sampled_from([0, 1, 1 << 20]),
)
def test_every_finite_update_gives_values_of_0_to_levels(
    values: list[float], bits: int, range_q40: int, rotate: int, clip: int
) -> None:
    maker = quantizer(len(values), bits=bits, sites=1, rotate=rotate, clip=clip, scale=range_q40 / Q40)
    blocks = maker.blocks(np.array(values, np.float32), 1, dither())
    words = np.concatenate([block.copy() for block in blocks])
    found = reference.lanes_of(words.tolist(), maker.params.lane_bits, len(values))
    assert max(found) <= maker.params.levels
    assert 0 <= blocks.clipped <= len(values)
    assert 0 <= blocks.peak_q40 <= 1 << 52


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_an_update_that_is_not_finite_is_refused_before_any_block(bad: float, place: int) -> None:
    values = normal(100_000)
    values[place] = bad
    with pytest.raises(Misuse, match="not finite"):
        quantizer(100_000).blocks(values, 1, dither())


def test_an_absurd_value_is_refused() -> None:
    with pytest.raises(Misuse, match="beyond"):
        quantizer(1).blocks(np.array([1e20], np.float32), 1, dither())


@pytest.mark.parametrize("values", [np.zeros(9, np.float32), np.zeros(10, np.float64), np.zeros(20, np.float32)[::2]])
def test_another_shape_type_or_stride_is_refused(values: np.ndarray) -> None:
    with pytest.raises(Misuse):
        quantizer(10).blocks(values, 1, dither())


@pytest.mark.parametrize("weight", [0, -1, 4])
def test_a_weight_outside_its_cap_is_refused(weight: int) -> None:
    with pytest.raises(Misuse):
        quantizer(10, cap=3).blocks(np.zeros(10, np.float32), weight, dither())


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_a_block_does_not_depend_on_what_comes_after_it(lane_bits: int) -> None:
    bits, sites = LANES[lane_bits]
    whole = BLOCK_WORDS * lanes_per_word(lane_bits)
    values = normal(whole + 777)
    long = words_of(quantizer(whole + 777, bits=bits, sites=sites, scale=5), values)
    short = words_of(quantizer(whole, bits=bits, sites=sites, scale=5), values[:whole])
    assert (long[:BLOCK_WORDS] == short).all()


def test_the_update_is_left_as_it_was() -> None:
    values = normal(50_000)
    words_of(quantizer(50_000, clip=1 << 20), values)
    assert (values == normal(50_000)).all()


def test_values_outside_the_range_are_counted_and_the_peak_is_measured_before_clipping() -> None:
    values = np.array([0.5, -1.0, 1.0, 1.5, -3.0, 0.0], np.float32)
    blocks = quantizer(6, rotate=0).blocks(values, 1, dither())
    assert len(list(blocks)) == 1
    assert blocks.clipped == 2
    assert blocks.peak_q40 == pytest.approx(3 * Q40, rel=2**-22)  # float32 scaling


def test_an_update_above_its_l2_bound_is_scaled_down_to_it() -> None:
    values = np.array([3.0, -4.0] * 8, np.float32)  # norm 5 * sqrt(8)
    step = 2 * 4 / (2**20 - 1)
    wide = quantizer(16, bits=20, sites=1, rotate=0, clip=5 << 20, scale=4)
    assert np.abs(wide.open(words_of(wide, values), 1).values - values / np.sqrt(8)).max() < 2 * step


def test_an_update_below_its_l2_bound_is_not_scaled() -> None:
    values = normal(5000)
    assert (words_of(quantizer(5000), values) == words_of(quantizer(5000, clip=1 << 40), values)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_value_is_two_to_the_64(sign: int) -> None:
    largest = np.array([sign * 2.0**64], np.float32)
    quantizer(1).blocks(largest, 1, dither())
    with pytest.raises(Misuse, match="beyond"):
        quantizer(1).blocks(np.nextafter(largest, np.float32(sign * np.inf)), 1, dither())
