"""The adapter that a session starts from: public, the same everywhere, and of LoRA factors only."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.errors import Misuse
from secagg.initial import initial_adapter
from secagg.vector import Layout

FACTORS = Layout((("q.lora_A.weight", (4, 8)), ("q.lora_B.weight", (6, 4))))


def test_the_adapter_changes_nothing_at_first_and_every_seed_gives_another_one() -> None:
    one, two = (initial_adapter(FACTORS, bytes([seed]) * 32) for seed in (1, 2))
    factor_a, factor_b = FACTORS.unflatten(one).values()
    assert not factor_b.any()  # so that A times B is zero
    assert np.unique(factor_a).size == factor_a.size
    assert np.abs(factor_a).max() <= 1 / np.sqrt(8)
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("name", ["q.weight", "q.lora_A.bias", "q.lora_C.weight"])
def test_a_tensor_that_is_no_lora_factor_is_our_own_mistake(name: str) -> None:
    with pytest.raises(Misuse, match="LoRA factors"):
        initial_adapter(Layout(((name, (2, 2)),)), bytes(32))


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_our_own_mistake(seed: bytes) -> None:
    with pytest.raises(Misuse, match="32 bytes"):
        initial_adapter(FACTORS, seed)
