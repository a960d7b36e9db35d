"""The public parameters of quantising, and the limits they are held to (spec §10.1, §19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from secagg.errors import Malformed
from secagg.lanes import LANE_BITS
from secagg.wire import Range, Struct

RANGE_BITS: Final = 40  # fraction bits of a range
MAX_RANGE_Q40: Final = 1 << 52
NORM_BITS: Final = 20  # fraction bits of an L2 bound
MAX_VALUE: Final = 2.0**64  # beyond it a rotated float32 could overflow; no update comes near
NOISE_BITS: Final = 16  # taken from the dither stream for every value
_WORK_BITS: Final = 30  # bits of level and dither together, so that signed 32-bit integers hold them


@dataclass(frozen=True, slots=True)
class QuantizerParams(Struct):
    """How values are quantised in every round of a session; part of the manifest.

    bits: of one value. lane_bits: one of LANE_BITS. weight_cap: largest weight of a site.
    rotate: 1 = rotate first. clip_norm_q20: L2 bound in units of 2^-20, 0 = none. Raises Malformed.
    """

    bits: Annotated[int, Range(4, 20)]
    lane_bits: Annotated[int, Range(LANE_BITS[0], LANE_BITS[-1])]
    weight_cap: Annotated[int, Range(1, 1 << 28)]
    rotate: Annotated[int, Range(0, 1)]
    clip_norm_q20: Annotated[int, Range(0, 1 << 52)]

    def __post_init__(self) -> None:
        Struct.__post_init__(self)
        if self.lane_bits not in LANE_BITS:
            raise Malformed(f"QuantizerParams.lane_bits is not one of {LANE_BITS}")
        if self.levels * self.weight_cap >> self.lane_bits:
            raise Malformed("not even one site's largest value fits a lane")

    @property
    def levels(self) -> int:
        """Largest quantised value, 2^bits - 1."""
        return (1 << self.bits) - 1

    @property
    def dither_bits(self) -> int:
        """Fraction bits that stochastic rounding sees."""
        return min(NOISE_BITS, _WORK_BITS - self.bits)
