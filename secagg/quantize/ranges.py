"""How wide the quantiser's range is: public integers only, so that every site finds the same (spec §10.7)."""

from __future__ import annotations

from typing import Final

from secagg.errors import Misuse
from secagg.quantize.params import MAX_RANGE_Q40
from secagg.tally import Tally

_MARGIN: Final = (3, 2)  # 1.5 times the largest entry: below, one loud site is clipped; above, noise grows
_GROWTH: Final = 2  # at least, after a round that clipped too much
_CLIPPED_PER_MILLE: Final = 10


def first_range(learning_rate_q40: int, local_steps: int, kappa: int) -> int:
    """R of round 1 in units of 2^-40: kappa times the most that Adam's steps can move a value.

    learning_rate_q40: peak rate in the same units, from 1. local_steps, kappa: from 1. Raises Misuse.
    """
    if min(learning_rate_q40, local_steps, kappa) < 1:
        raise Misuse("a first range takes a positive learning rate, number of steps and factor")
    return min(kappa * learning_rate_q40 * local_steps, MAX_RANGE_Q40)


def next_range(range_q40: int, tally: Tally, largest: int, size: int, levels: int) -> int:
    """R of the next round in units of 2^-40: one and a half times the largest entry of this one.

    "Largest entry" is the larger of the mean's (after rotation) and the mean over sites of each site's own:
    updates that point apart shrink the former by the root of their number, a heavy site escapes the latter.
    At least twice `range_q40` if over 1 % of all values were clipped. tally: sums over the survivors.
    largest: `Opened.largest`. size: values of one update. levels: `QuantizerParams.levels`.
    """
    of_mean = _ceil_ratio(largest * range_q40, levels * tally.weight)
    of_sites = _ceil_ratio(tally.peak, tally.sites)
    wanted = _ceil_ratio(_MARGIN[0] * max(of_mean, of_sites), _MARGIN[1])
    if 1000 * tally.clipped > _CLIPPED_PER_MILLE * tally.sites * size:
        wanted = max(wanted, _GROWTH * range_q40)
    return min(max(wanted, 1), MAX_RANGE_Q40)


def _ceil_ratio(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
