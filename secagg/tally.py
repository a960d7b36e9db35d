"""The private counts and losses of a site as words that can be summed, and their sums (spec §10.6).

They follow the value words, one uint64 word each, and are masked with them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from secagg.errors import FaultyServer, Misuse
from secagg.session import Metrics, Totals

WORDS: Final = ("sites", "weight", "examples", "train_loss", "eval_tokens", "eval_loss", "clipped", "peak")
MAX_COUNT: Final = 1 << 28
MAX_LOSS: Final = 1 << 10
MAX_PEAK: Final = 1 << 52
LOSS_UNIT: Final = 1 << 16  # a loss travels as round(loss * count * 2^16)


@dataclass(frozen=True, slots=True, repr=False)
class Tally:
    """One site's words, or their sum over sites: below 2^63 for 100 sites. Prints without them."""

    sites: int
    weight: int
    examples: int
    train_loss: int
    eval_tokens: int
    eval_loss: int
    clipped: int
    peak: int  # largest |rotated value| in units of 2^-40

    @classmethod
    def of(cls, metrics: Metrics, weight: int, clipped: int, peak: int) -> Self:
        """One site's words. Raises Misuse for a count or loss outside its range."""
        if not 1 <= metrics.examples <= MAX_COUNT or not 0 <= metrics.eval_tokens <= MAX_COUNT:
            raise Misuse(f"a site counts 1 to {MAX_COUNT} examples and at most {MAX_COUNT} held-out tokens")
        for loss in (metrics.train_loss, metrics.eval_loss):
            if not (math.isfinite(loss) and 0 <= loss <= MAX_LOSS):
                raise Misuse(f"a loss is finite and lies in 0..{MAX_LOSS}")
        return cls(
            sites=1,
            weight=weight,
            examples=metrics.examples,
            train_loss=round(metrics.train_loss * metrics.examples * LOSS_UNIT),
            eval_tokens=metrics.eval_tokens,
            eval_loss=round(metrics.eval_loss * metrics.eval_tokens * LOSS_UNIT),
            clipped=clipped,
            peak=min(peak, MAX_PEAK),
        )

    def words(self) -> NDArray[np.uint64]:
        """uint64, shape (8,), in the order of WORDS."""
        return np.array([getattr(self, name) for name in WORDS], np.uint64)

    @classmethod
    def from_sum(cls, words: NDArray[np.uint64], survivors: int, size: int, weight_cap: int) -> Self:
        """The sums over the survivors. Raises FaultyServer if they cannot be sums of that many sites."""
        total = cls(*(int(word) for word in words))
        n = survivors
        most = (n, n * weight_cap, n * MAX_COUNT, n * MAX_COUNT * MAX_LOSS * LOSS_UNIT, n * MAX_COUNT,
                n * MAX_COUNT * MAX_LOSS * LOSS_UNIT, n * size, n * MAX_PEAK)  # fmt: skip
        if total.sites != n or total.weight < n or total.examples < n:
            raise FaultyServer("the sum does not count every survivor once")
        if any(getattr(total, name) > cap for name, cap in zip(WORDS, most, strict=True)):
            raise FaultyServer("a summed metric is larger than its survivors could make it")
        return total

    def totals(self, size: int) -> Totals:
        """The means people read; size is the number of values of one update."""
        return Totals(
            sites=self.sites,
            weight=self.weight,
            examples=self.examples,
            train_loss=self.train_loss / LOSS_UNIT / self.examples,
            eval_loss=self.eval_loss / LOSS_UNIT / self.eval_tokens if self.eval_tokens else 0.0,
            eval_tokens=self.eval_tokens,
            clipped=self.clipped / (self.sites * size),
        )
