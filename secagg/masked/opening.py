"""What a masked aggregate says, after everything about it that a site can check (spec §11.7, §15)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secagg.config import RoundContext
from secagg.errors import FaultyServer
from secagg.labels import SIGN_PROJECTIONS
from secagg.lanes import BLOCK_WORDS
from secagg.masked.checks import require_record, require_signed
from secagg.masked.client import quantizer_of, words_of
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
from secagg.projection import PRODUCTS, Projector
from secagg.quantize import next_range
from secagg.session import Mean, Packet, Words, require_words
from secagg.tally import WORDS, Tally


def open_aggregate(context: RoundContext, aggregate: Packet) -> Mean:
    """The mean update. Raises Malformed or by blame, and then nothing of it may be used."""
    head = MaskedAggregate.decode(aggregate.head)
    record, transcript = head.record, head.record.transcript()
    require_record(context, record)
    words, attached = vectors_beside(context, head, aggregate)
    if sum_words_digest(context.digest, words) != record.sum_words:
        raise FaultyServer("the sum is not the one that its record names")
    require_projections(context, head, transcript)
    _require_attached(context, record, attached)
    _require_sum(context, head, transcript, words, list(attached.values()))
    return _mean(context, record, words, transcript)


def vectors_beside(context: RoundContext, head: MaskedAggregate, aggregate: Packet) -> tuple[Words, dict[str, Words]]:
    """The sum, and the masked words of the survivors without projections, by site."""
    projected = {each.site for each in head.projections}
    silent = [each.site for each in head.record.vectors if each.site not in projected]
    count = words_of(context)
    if aggregate.words is None or aggregate.words.shape != (count * (1 + len(silent)),):
        raise FaultyServer(f"the sum does not have {count} words, and as many for each of {len(silent)} silent sites")
    total, *rest = require_words(aggregate, count * (1 + len(silent))).reshape(-1, count)
    return total, dict(zip(silent, rest, strict=True))


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


def _require_sum(
    context: RoundContext, head: MaskedAggregate, transcript: bytes, words: Words, attached: Sequence[Words]
) -> None:
    """Sum plus masks, less the attached vectors, is the sum of the vectors that the projections are of."""
    seeds = masks_in_sum(context, head.record)
    masks = Masks(seeds.plus, seeds.minus)
    projector = Projector(challenge_seed(context, transcript))
    for start in range(0, words.size, BLOCK_WORDS):
        block = words[start : start + BLOCK_WORDS].copy()
        masks.apply(block)
        for vector in attached:
            block -= vector[start : start + BLOCK_WORDS]
        projector.add(block)
    if not np.array_equal(projector.values, total_of(head.projections)):
        raise FaultyServer("the sum is not that of the survivors' vectors")


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


def _mean(context: RoundContext, record: RoundRecord, words: Words, transcript: bytes) -> Mean:
    manifest, quantizer = context.manifest, quantizer_of(context)
    survivors = tuple(each.site for each in record.vectors)
    tally = Tally.from_sum(words[-len(WORDS) :], len(survivors), manifest.size, manifest.quantizer.weight_cap)
    opened = quantizer.open(words[: -len(WORDS)], tally.weight)
    range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, manifest.quantizer.levels)
    return Mean(opened.values, tally.totals(manifest.size), survivors, transcript, range_q40)
