"""Named tensors and one flat vector are the same adapter, and a digest names both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import Misuse
from secagg.vector import Layout, adapter_digest

shapes = st.dictionaries(st.text("abc.", min_size=1, max_size=6), st.tuples(st.integers(1, 4), st.integers(1, 4)),
                         min_size=1, max_size=6)  # fmt: skip


@given(shapes, st.integers(0, 2**32 - 1))
def test_flattening_and_unflattening_gives_every_tensor_back(named: dict[str, tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in named.items()}
    layout = Layout.of(dict(reversed(tensors.items())))
    flat = layout.flatten(tensors)
    assert (flat.dtype, flat.shape) == (np.float32, (layout.size,))
    back = layout.unflatten(flat)
    assert list(back) == sorted(tensors)
    assert all(back[name].tobytes() == tensors[name].tobytes() for name in tensors)


ONE = {"a": np.zeros((2, 3), np.float32), "b": np.ones((4,), np.float32)}


@pytest.mark.parametrize(
    "other",
    [
        {"a": ONE["a"]},
        {**ONE, "c": ONE["b"]},
        {"a": ONE["a"].T, "b": ONE["b"]},
        {"a": ONE["a"].reshape(6), "b": ONE["b"]},
    ],
)
def test_tensors_of_another_layout_are_refused(other: dict[str, np.ndarray]) -> None:
    with pytest.raises(Misuse, match="differ from the layout"):
        Layout.of(ONE).flatten(other)
    assert Layout.of(other).digest() != Layout.of(ONE).digest()


@pytest.mark.parametrize(
    "tensors",
    [(), (("b", (1,)), ("a", (1,))), (("a", (1,)), ("a", (1,))), (("a", (0, 3)),), (("a", (-1,)),)],
)
def test_a_layout_that_is_empty_unsorted_repeated_or_hollow_is_refused(tensors: tuple) -> None:
    with pytest.raises(Misuse):
        Layout(tensors)


def test_a_vector_of_another_shape_or_type_is_refused() -> None:
    layout = Layout.of(ONE)
    for wrong in (np.zeros(9, np.float32), np.zeros(10), np.zeros((10, 1), np.float32)):
        with pytest.raises(Misuse):
            layout.unflatten(wrong)  # type: ignore[arg-type]
        with pytest.raises(Misuse):
            adapter_digest(layout, wrong)  # type: ignore[arg-type]


def test_the_digest_of_an_adapter_binds_every_bit_and_the_layout() -> None:
    layout, values = Layout.of(ONE), np.zeros(10, np.float32)
    digests = {adapter_digest(layout, values)}
    values[3] = -0.0
    digests.add(adapter_digest(layout, values))
    digests.add(adapter_digest(Layout((("c", (10,)),)), values))
    assert len(digests) == 3
