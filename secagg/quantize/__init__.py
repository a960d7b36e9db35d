"""What turns a site's update into words that can be summed, and the sum into the mean (spec §10)."""

from secagg.lanes import headroom
from secagg.quantize.blocks import Blocks
from secagg.quantize.levels import Levels
from secagg.quantize.opening import Opened
from secagg.quantize.params import MAX_RANGE_Q40, QuantizerParams
from secagg.quantize.quantizer import Quantizer
from secagg.quantize.ranges import first_range, next_range

__all__ = [
    "MAX_RANGE_Q40",
    "Blocks",
    "Levels",
    "Opened",
    "Quantizer",
    "QuantizerParams",
    "first_range",
    "headroom",
    "next_range",
]
