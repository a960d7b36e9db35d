"""Lanes hold every sum they were chosen for, in the order the spec says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import FaultyServer, Malformed, Misuse
from secagg.lanes import BLOCK_WORDS, LANE_BITS, headroom, lanes_per_word, pack, unpack, words_for
from secagg.quantize import Quantizer, QuantizerParams
from secagg.rotate import BLOCK
from tests.quantize.made import LANES, SEED, quantizer, words_of
from tests.quantize.reference import lanes_of


@given(st.integers(4, 20), st.integers(1, 100), st.integers(1, 1 << 28))
def test_the_lane_is_the_narrowest_that_holds_the_largest_sum(bits: int, sites: int, cap: int) -> None:
    largest = sites * cap * (2**bits - 1)
    fits = [lane for lane in LANE_BITS if largest < 2**lane]
    if fits:
        assert headroom(bits, sites, cap) == fits[0]
    else:
        with pytest.raises(Misuse, match="lower the weight cap or the bits"):
            headroom(bits, sites, cap)


@pytest.mark.parametrize(
    ("bits", "sites", "cap", "lane"),
    [(4, 17, 1, 8), (4, 18, 1, 10), (8, 4, 1, 10), (8, 16, 1, 12), (8, 17, 1, 16), (20, 100, 40, 32)],
)
def test_one_more_than_fits_asks_for_the_next_lane(bits: int, sites: int, cap: int, lane: int) -> None:
    assert headroom(bits, sites, cap) == lane


def test_one_more_than_the_widest_lane_holds_is_refused() -> None:
    with pytest.raises(Misuse):
        headroom(20, 100, 41)
    with pytest.raises(Misuse, match="does not fit a lane"):
        Quantizer(QuantizerParams(4, 8, 1, 0, 0), 18, 10, 1, SEED)
    Quantizer(QuantizerParams(4, 8, 1, 0, 0), 17, 10, 1, SEED)


@pytest.mark.parametrize(
    "fields",
    [(3, 8, 1, 0, 0), (21, 32, 1, 0, 0), (8, 9, 1, 0, 0), (8, 8, 2, 0, 0), (8, 8, 1, 2, 0), (8, 8, 0, 0, 0)],
)
def test_parameters_outside_their_limits_do_not_exist(fields: tuple[int, int, int, int, int]) -> None:
    with pytest.raises(Malformed):
        QuantizerParams(*fields)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_packing_follows_the_layout_of_the_spec(lane_bits: int) -> None:
    count = 1000 * lanes_per_word(lane_bits)
    values = np.random.default_rng(0).integers(0, 2**lane_bits, count, np.uint32)
    words = pack(values, lane_bits, np.empty(2000, np.uint64))
    assert words.size == 1000
    assert lanes_of(words.tolist(), lane_bits, count) == values.tolist()
    assert unpack(words, lane_bits, np.empty(count + 5, np.uint64)).tolist() == values.tolist()


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_whole_blocks_of_words_hold_whole_rotation_blocks(lane_bits: int) -> None:
    assert BLOCK_WORDS * lanes_per_word(lane_bits) % BLOCK == 0


@pytest.mark.parametrize("lane_bits", LANE_BITS)
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_the_number_of_words_is_known_before_packing(lane_bits: int, extra: int) -> None:
    bits, sites = LANES[lane_bits]
    size = BLOCK_WORDS * lanes_per_word(lane_bits) + extra
    maker = quantizer(size, bits=bits, sites=sites, rotate=0)
    assert maker.params.lane_bits == lane_bits
    assert words_of(maker, np.zeros(size, np.float32)).size == maker.words == words_for(size, lane_bits)


@pytest.mark.parametrize("lane_bits", [lane for lane in LANE_BITS if 64 % lane])
def test_a_bit_above_the_lanes_blames_the_server(lane_bits: int) -> None:
    words = np.zeros(10, np.uint64)
    words[3] = 1 << (lanes_per_word(lane_bits) * lane_bits)
    with pytest.raises(FaultyServer):
        unpack(words, lane_bits, np.empty(100, np.uint64))


def test_a_lane_width_outside_the_list_is_refused() -> None:
    with pytest.raises(Misuse):
        words_for(10, 9)


def test_a_block_that_is_no_whole_number_of_words_or_does_not_fit_is_our_own_mistake() -> None:
    out = np.zeros(4, np.uint64)
    assert pack(np.zeros(4 * 8, np.uint32), 8, out).size == 4
    for count in (4 * 8 - 1, 4 * 8 + 1, 5 * 8):
        with pytest.raises(Misuse, match="whole number of words"):
            pack(np.zeros(count, np.uint32), 8, out)


@pytest.mark.parametrize("fields", [(0, 1, 1), (101, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 2**52 + 1)])
def test_a_quantiser_outside_its_limits_does_not_exist(fields: tuple[int, int, int]) -> None:
    params = QuantizerParams(4, 32, 1, 1, 0)
    for sites, size, range_q40 in ((1, 1, 1), (100, 1, 2**52)):
        Quantizer(params, sites, size, range_q40, SEED)
    with pytest.raises(Misuse, match=r"1\.\.100 sites"):
        Quantizer(params, *fields, SEED)


@pytest.mark.parametrize("length", [0, 32, 47, 49])
def test_a_rotation_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(Misuse, match="48 bytes"):
        Quantizer(QuantizerParams(4, 32, 1, 1, 0), 1, 1, 1, bytes(length))


def test_a_sum_of_other_numbers_than_words_is_refused() -> None:
    """As floats or signed integers, the largest words would be others."""
    maker = quantizer(10)
    for kind in (np.int64, np.float64, np.uint32):
        with pytest.raises(Misuse, match="uint64 words"):
            maker.open(np.zeros(maker.words, kind), 1)


@pytest.mark.parametrize("lane_bits", LANE_BITS)
def test_lanes_behind_the_last_value_are_zero_in_every_update(lane_bits: int) -> None:
    """The last block is shorter than the one before it: nothing of that may stand behind its values."""
    bits, sites = LANES[lane_bits]
    lanes = lanes_per_word(lane_bits)
    size = BLOCK_WORDS * lanes + 2 * lanes - 1
    maker = quantizer(size, bits=bits, sites=sites, scale=0.001)
    last = words_of(maker, np.ones(size, np.float32))[BLOCK_WORDS:]
    assert last.size == 2
    assert unpack(last, lane_bits, np.empty(2 * lanes, np.uint64))[2 * lanes - 1] == 0
