"""What a masked aggregate says, after everything about it that a site can check (spec §11.7, §15)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from secagg.config import RoundContext
from secagg.errors import FaultyServer
from secagg.labels import SIGN_PROJECTIONS
from secagg.lanes import BLOCK_WORDS
from secagg.masked.checks import require_record, require_signed
from secagg.masked.graph import MaskSeeds, challenge_seed, seeds_in_sum
from secagg.masked.masks import Masks
from secagg.masked.messages import (
    MaskedAggregate,
    Projections,
    RoundRecord,
    masked_words_digest,
    share_set_digest,
    sum_words_digest,
)
from secagg.masked.payload import Payload, QuantizedUpdate, quantizer_of
from secagg.projection import PRODUCTS, Projector
from secagg.quantize import next_range
from secagg.session import Mean, Packet, Words, require_words
from secagg.tally import WORDS, Tally


@dataclass(frozen=True, slots=True)
class CheckedSum:
    """A sum that is that of the vectors which its survivors signed. words: without masks. tail: as summed."""

    record: RoundRecord
    transcript: bytes
    words: Words = field(repr=False)
    tail: Words = field(repr=False)


def open_aggregate(context: RoundContext, aggregate: Packet) -> Mean:
    """The mean update. Raises Malformed or by blame, and then nothing of it may be used."""
    checked = checked_sum(context, QuantizedUpdate(context), aggregate)
    manifest, quantizer, words = context.manifest, quantizer_of(context), checked.words
    survivors = tuple(each.site for each in checked.record.vectors)
    tally = Tally.from_sum(words[-len(WORDS) :], len(survivors), manifest.size, manifest.quantizer.weight_cap)
    opened = quantizer.open(words[: -len(WORDS)], tally.weight)
    range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, manifest.quantizer.levels)
    return Mean(opened.values, tally.totals(manifest.size), survivors, checked.transcript, range_q40)


def checked_sum(context: RoundContext, payload: Payload, aggregate: Packet) -> CheckedSum:
    """The sum, whatever the vectors hold. Raises Malformed or by blame."""
    head = MaskedAggregate.decode(aggregate.head)
    record, transcript = head.record, head.record.transcript()
    require_record(context, record)
    total, attached = vectors_beside(payload, head, aggregate)
    if sum_words_digest(context.digest, total) != record.sum_words:
        raise FaultyServer("the sum is not the one that its record names")
    require_projections(context, head, transcript)
    _require_attached(context, record, attached)
    checked = CheckedSum(record, transcript, total[: payload.words], total[payload.words :])
    seed = challenge_seed(context, transcript)
    masked = _masked_again(checked.words, masks_in_sum(context, record))
    expected = project_rest(payload, seed, masked, checked.tail, list(attached.values()))
    if not np.array_equal(expected, total_of(head.projections)):
        raise FaultyServer("the sum is not that of the survivors' vectors")
    return checked


def vectors_beside(payload: Payload, head: MaskedAggregate, aggregate: Packet) -> tuple[Words, dict[str, Words]]:
    """The sum with its tail, and the vectors of the survivors without projections, by site."""
    projected = {each.site for each in head.projections}
    silent = [each.site for each in head.record.vectors if each.site not in projected]
    first, each = payload.words + payload.tail_sum_words, payload.words + payload.tail_words
    count = first + len(silent) * each
    if aggregate.words is None or aggregate.words.shape != (count,):
        raise FaultyServer(f"the sum does not have {first} words, and {each} for each of {len(silent)} silent sites")
    words = require_words(aggregate, count)
    return words[:first], dict(zip(silent, words[first:].reshape(-1, each), strict=True))


def require_projections(context: RoundContext, head: MaskedAggregate, transcript: bytes) -> None:
    """They are of survivors, on this very record, and signed."""
    survivors = {each.site for each in head.record.vectors}
    for each in head.projections:
        if each.site not in survivors:
            raise FaultyServer("a site outside the survivor set gives projections")
        if each.record != transcript:
            raise FaultyServer("projections are of another record")
        require_signed(context, SIGN_PROJECTIONS, each, each.site, each.signature)


def _require_attached(context: RoundContext, record: RoundRecord, attached: dict[str, Words]) -> None:
    """The words that travel in place of projections are those their sites signed."""
    for vector in record.vectors:
        words = attached.get(vector.site)
        if words is not None and masked_words_digest(context.digest, words) != vector.words:
            raise FaultyServer(f"the words of {vector.site} are not those it signed")


def _masked_again(words: Words, seeds: MaskSeeds) -> Iterator[Words]:
    """The sum with its masks on, block by block."""
    masks = Masks(seeds.plus, seeds.minus)
    for start in range(0, words.size, BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS].copy()
        masks.apply(block)
        yield block


def project_rest(
    payload: Payload, seed: bytes, masked_sum: Iterator[Words] | Sequence[Words], tail_sum: Words, less: Sequence[Words]
) -> Words:
    """The 128 values of a sum of vectors, masks on, without some of its terms.

    masked_sum: its masked words in pieces. tail_sum: its tail as it travels. less: whole vectors.
    """
    projector, start = Projector(seed), 0
    for piece in masked_sum:
        rest = piece
        for vector in less:
            rest = rest - vector[start : start + piece.size]
        projector.add(rest)
        start += piece.size
    tails = [payload.numbers(vector[payload.words :]) for vector in less]
    for numbers in payload.sum_numbers(tail_sum):
        rest = numbers
        for tail in tails:
            rest = rest - next(tail)
        projector.add(rest)
    return projector.values


def masks_in_sum(context: RoundContext, record: RoundRecord) -> MaskSeeds:
    """The masks that the sum of the record's vectors holds, from the secrets that it reveals."""
    return seeds_in_sum(
        context,
        share_set_digest(context.digest, record.statements),
        {each.site: each.mask_key for each in record.adverts},
        {each.site: each.secret for each in record.seeds},
        {each.site: each.secret for each in record.keys},
    )


def total_of(projections: Sequence[Projections]) -> Words:
    """The sum of the sites' values, uint64 (128,), mod 2^64."""
    return sum((each.words() for each in projections), np.zeros(PRODUCTS, np.uint64))
