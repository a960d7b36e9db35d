"""The rotation is its own inverse, exactly on integers, and flattens what is concentrated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.primitives.prg import Stream
from secagg.rotate import BLOCK, TILE, flip_signs, spans, transform
from tests.quantize import reference
from tests.quantize.made import SEED, normal


@pytest.mark.parametrize("power", range(13))
def test_the_transform_of_integers_is_exactly_that_of_slow_butterflies(power: int) -> None:
    block = 1 << power
    values = np.random.default_rng(power).integers(-(2**32), 2**32, 2 * block)
    found = transform(values.astype(np.float64), np.empty(2 * block), block)
    expected = [reference.hadamard(values[i : i + block].tolist()) for i in (0, block)]
    assert found.astype(np.int64).tolist() == expected[0] + expected[1]


@pytest.mark.parametrize("power", range(13))
def test_twice_transformed_integers_come_back_exactly(power: int) -> None:
    block = 1 << power
    values = np.full(block, 2.0**32 - 1)  # the largest entry there is; its transform has the largest sum
    first = np.array(transform(values.copy(), np.empty(block), block))
    again = transform(first, np.empty(block), block)
    assert (again == values * block).all()


@given(st.integers(1, TILE), st.booleans())
def test_rotation_blocks_cover_a_tile_in_the_order_of_the_spec(count: int, rotate: bool) -> None:
    covered = [block for span, block in spans(count, rotate) for _ in range(span.start, span.stop, block)]
    assert covered == reference.rotation_blocks(count, rotate)
    stops = [span.stop for span, _ in spans(count, rotate)]
    assert [span.start for span, _ in spans(count, rotate)] == [0, *stops[:-1]]
    assert stops[-1] == count


def test_signs_are_the_bits_of_the_stream_and_flip_back() -> None:
    values = normal(1003)
    out, stream = np.empty_like(values), Stream(SEED)
    flip_signs(values[:504], stream, out[:504])
    flip_signs(values[504:], stream, out[504:])
    assert out.tolist() == (values * np.array(reference.signs(SEED, 1003), np.float32)).tolist()
    flip_signs(out, Stream(SEED), out)
    assert (out == values).all()


def test_one_large_entry_is_spread_evenly_over_its_block() -> None:
    values = np.zeros(BLOCK, np.float32)
    values[17] = 64.0
    rotated = transform(values, np.empty_like(values), BLOCK) / 64
    assert (np.abs(rotated) == 1.0).all()
