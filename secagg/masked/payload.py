"""What a site's vector holds: words that are masked and summed, and a tail that protects itself (spec §11.8).

Masked mode's own payload is the quantised update with its tally, and no tail. Another scheme can send something else
through the same protocol: the masks, the survivors, the reveal and the check of the sum do not look inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from secagg.config import RoundContext
from secagg.errors import Misuse
from secagg.masked.graph import rotation_seed
from secagg.primitives.prg import SEED_BYTES, Stream
from secagg.projection import Projector
from secagg.quantize import Quantizer
from secagg.session import Rng, Update, Words
from secagg.tally import WORDS, Tally


class Contribution(Protocol):
    """One site's vector in one attempt; used once, the tail first."""

    def tail(self, seed: bytes) -> Words:
        """The last words. seed: 48 bytes that the server learns of survivors only, once their set is agreed."""

    def blocks(self) -> Iterator[Words]:
        """The words to mask, uint64, from the front; the caller may overwrite each."""


class TailSum(Protocol):
    """The server's sum of tails."""

    def add(self, tail: Words) -> None:
        """Adds one site's tail, as a whole or not at all. Raises Malformed for one that no site can have made."""

    def words(self) -> Words:
        """The sum as it travels, uint64 (tail_sum_words,)."""


class Payload(Protocol):
    """How one round's vectors are made and read. Sizes in words of 64 bits."""

    words: int  # masked words of one vector, and of their sum
    tail_words: int
    tail_sum_words: int

    def contribute(self, update: Update, rng: Rng) -> Contribution:
        """A site's vector, made of its update."""

    def tail_sum(self) -> TailSum:
        """A fresh sum of tails."""

    def numbers(self, tail: Words) -> Iterator[Words]:
        """The numbers of one site's tail that are summed, uint64. Raises Malformed."""

    def sum_numbers(self, tail_sum: Words) -> Iterator[Words]:
        """The same of a sum of tails. Raises Malformed."""


class QuantizedUpdate:
    """Masked mode's payload: the values' packed words, then the tally's."""

    def __init__(self, context: RoundContext) -> None:
        self._quantizer = quantizer_of(context)
        self.words = self._quantizer.words + len(WORDS)
        self.tail_words = self.tail_sum_words = 0

    def contribute(self, update: Update, rng: Rng) -> Contribution:
        """The update, rounded with fresh dither."""
        return _Rounded(self._quantizer, update, Stream(rng(SEED_BYTES)))

    def tail_sum(self) -> TailSum:
        """A sum of nothing."""
        return _NoTail()

    def numbers(self, tail: Words) -> Iterator[Words]:
        """None."""
        yield from ()

    def sum_numbers(self, tail_sum: Words) -> Iterator[Words]:
        """None."""
        yield from ()


class _Rounded:
    def __init__(self, quantizer: Quantizer, update: Update, dither: Stream) -> None:
        self._update = update
        self._blocks = quantizer.blocks(update.values, update.weight, dither)

    def blocks(self) -> Iterator[Words]:
        yield from self._blocks
        tally = Tally.of(self._update.metrics, self._update.weight, self._blocks.clipped, self._blocks.peak_q40)
        yield tally.words()

    def tail(self, seed: bytes) -> Words:
        raise Misuse("this payload has no tail")


class _NoTail:
    def add(self, tail: Words) -> None:
        """Adds nothing."""

    def words(self) -> Words:
        raise Misuse("this payload has no tail")


def quantizer_of(context: RoundContext) -> Quantizer:
    """The round's quantiser: the manifest's parameters, the header's range, the round's rotation."""
    manifest = context.manifest
    return Quantizer(
        manifest.quantizer,
        len(manifest.sites),
        manifest.size,
        context.header.range_q40,
        rotation_seed(context),
    )


def project_vector(payload: Payload, seed: bytes, vector: Words) -> Words:
    """The 128 values of a site's vector: of its masked words, and then of the numbers of its tail (spec §15.2)."""
    projector = Projector(seed)
    projector.add(vector[: payload.words])
    for numbers in payload.numbers(vector[payload.words :]):
        projector.add(numbers)
    return projector.values
