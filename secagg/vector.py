"""How named tensors become one flat vector: sorted names, shapes, and a digest of both (spec §10.1)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secagg.errors import Misuse
from secagg.labels import ADAPTER, LAYOUT
from secagg.wire import encode_plain

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of the tensors of an adapter, in ascending order of name.

    Raises Misuse if names repeat, are unsorted, or a dimension is not positive.
    """

    tensors: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.tensors]
        if not names or names != sorted(set(names)):
            raise Misuse("a layout lists at least one tensor, each once, in ascending order of name")
        if any(extent < 1 for _, shape in self.tensors for extent in shape):
            raise Misuse("every dimension of a tensor is at least 1")

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[np.float32]]) -> Layout:
        """The layout of these tensors."""
        return cls(tuple((name, tuple(tensors[name].shape)) for name in sorted(tensors)))

    @property
    def size(self) -> int:
        """Number of values, d."""
        return sum(math.prod(shape) for _, shape in self.tensors)

    def digest(self) -> bytes:
        """32 bytes that bind names, shapes and order."""
        listed = [[name, list(shape)] for name, shape in self.tensors]
        return hashlib.sha256(LAYOUT + encode_plain(listed)).digest()

    def flatten(self, tensors: Mapping[str, NDArray[np.float32]]) -> Vector:
        """One float32 vector of `size` values. Raises Misuse if names or shapes differ from the layout."""
        if Layout.of(tensors) != self:
            raise Misuse("the tensors' names or shapes differ from the layout")
        parts = [np.asarray(tensors[name], np.float32).reshape(-1) for name, _ in self.tensors]
        return np.concatenate(parts)

    def unflatten(self, values: Vector) -> dict[str, NDArray[np.float32]]:
        """The named tensors, as views of `values`. Raises Misuse unless it is float32 of shape (size,)."""
        if values.dtype != np.float32 or values.shape != (self.size,):
            raise Misuse(f"expected float32 values of shape ({self.size},)")
        tensors, start = {}, 0
        for name, shape in self.tensors:
            stop = start + math.prod(shape)
            tensors[name] = values[start:stop].reshape(shape)
            start = stop
        return tensors


def adapter_digest(layout: Layout, values: Vector) -> bytes:
    """32 bytes that name an adapter: its layout and every bit of its values, little-endian (spec §10.1)."""
    if values.dtype != np.float32 or values.shape != (layout.size,):
        raise Misuse(f"expected float32 values of shape ({layout.size},)")
    digest = hashlib.sha256(ADAPTER + layout.digest())
    digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.digest()
