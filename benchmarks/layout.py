"""How many values of a benchmark become the tensors of an adapter."""

from __future__ import annotations

from typing import Final

from secagg.vector import Layout

RANK: Final = 8
MODULES: Final = 10


def layout_of(size: int) -> Layout:
    """`size` values as LoRA factors of ten square modules; a multiple of 160."""
    side = size // (2 * MODULES * RANK)
    tensors = [(f"m{number}.lora_A.weight", (RANK, side)) for number in range(MODULES)]
    tensors += [(f"m{number}.lora_B.weight", (side, RANK)) for number in range(MODULES)]
    return Layout(tuple(sorted(tensors)))
