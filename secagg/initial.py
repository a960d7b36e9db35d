"""The adapter that training starts from, from a public seed: the same bits on every machine (spec §10.1)."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from secagg.errors import Misuse
from secagg.labels import INITIAL_VALUES
from secagg.primitives.agreement import derive
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.vector import Layout, Vector

FACTOR_A: Final = ".lora_A.weight"
FACTOR_B: Final = ".lora_B.weight"
_HALF_TURN: Final = 2.0**32


def require_factors(layout: Layout) -> None:
    """Raises Misuse unless every tensor of the layout is a LoRA factor A or B."""
    if not all(name.endswith((FACTOR_A, FACTOR_B)) for name, _ in layout.tensors):
        raise Misuse("an adapter consists of LoRA factors A and B")


def initial_adapter(layout: Layout, seed: bytes) -> Vector:
    """The first adapter, float32 (d,). seed: 32 public bytes. Raises Misuse.

    Every lora_B is 0. The 48-byte stream seed is HKDF-SHA256(seed, no salt, info = INITIAL_VALUES); its
    AES-256-CTR stream is read from the front, 4 bytes a value, over all lora_A tensors in the layout's order,
    row-major. With u those bytes as a little-endian integer and fan_in the product of the tensor's dimensions
    after the first, the value is ((2u + 1 - 2^32) / 2^32) * (1 / sqrt(fan_in)), each operation in float64,
    rounded once more to float32. That is PEFT's own uniform initialisation.
    """
    if len(seed) != 32:
        raise Misuse("the seed of an initial adapter has 32 bytes")
    require_factors(layout)
    stream = Stream(derive(seed, b"", INITIAL_VALUES, SEED_BYTES))
    values = np.zeros(layout.size, np.float32)
    for name, tensor in layout.unflatten(values).items():
        if name.endswith(FACTOR_A):
            tensor[...] = _uniform(stream, tensor.shape)
    return values


def _uniform(stream: Stream, shape: tuple[int, ...]) -> Vector:
    drawn = np.frombuffer(stream.read(4 * math.prod(shape)), "<u4").reshape(shape)
    centred = (2.0 * drawn.astype(np.float64) + 1.0 - _HALF_TURN) / _HALF_TURN
    return (centred * (1.0 / math.sqrt(math.prod(shape[1:])))).astype(np.float32)
