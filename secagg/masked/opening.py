"""What a masked aggregate says, after everything about it that a site can check (spec §11.7)."""

from __future__ import annotations

import hashlib

from secagg.config import RoundContext
from secagg.errors import FaultyServer
from secagg.labels import TRANSCRIPT
from secagg.masked.checks import require_adverts, require_quorum, require_statements, require_vectors
from secagg.masked.client import quantizer_of, words_of
from secagg.masked.messages import (
    MaskedAggregate,
    key_roster_digest,
    seed_commitment,
    share_set_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.primitives.agreement import public_key
from secagg.quantize import next_range
from secagg.session import Mean, Packet, Words, require_words
from secagg.tally import WORDS, Tally


def open_aggregate(context: RoundContext, aggregate: Packet) -> Mean:
    """The mean update. Raises Malformed or by blame, and then nothing of it may be used."""
    head = MaskedAggregate.decode(aggregate.head)
    if head.header != context.header:
        raise FaultyServer("the aggregate belongs to another round")
    words = _require_words(context, aggregate)
    if sum_words_digest(context.digest, words) != head.sum_words:
        raise FaultyServer("the sum is not the one that its head names")
    _require_chain(context, head)
    _require_secrets(context, head)
    return _mean(context, head, words, hashlib.sha256(TRANSCRIPT + aggregate.head).digest())


def _require_words(context: RoundContext, aggregate: Packet) -> Words:
    count = words_of(context)
    if aggregate.words is None or aggregate.words.shape != (count,):
        raise FaultyServer(f"the sum does not have {count} words")
    return require_words(aggregate, count)


def _require_chain(context: RoundContext, head: MaskedAggregate) -> None:
    """U1, U2, U3 and the quorum hang together and are signed."""
    require_adverts(context, head.adverts)
    h1 = key_roster_digest(context.digest, head.adverts)
    require_statements(context, head.adverts, h1, head.statements)
    h2 = share_set_digest(context.digest, head.statements)
    require_vectors(context, h2, head.vectors)
    survivors = [each.site for each in head.vectors]
    if not set(survivors) <= {each.site for each in head.statements}:
        raise FaultyServer("the survivor set lists a site outside the share set")
    if len(survivors) < context.manifest.least_survivors:
        raise FaultyServer("the survivor set is below the fewest survivors")
    h3 = survivor_set_digest(context.digest, head.vectors)
    require_quorum(context, h3, survivors, head.signatures)


def _require_secrets(context: RoundContext, head: MaskedAggregate) -> None:
    """Exactly the survivors' seeds and the dropouts' keys are revealed, and they are the committed ones."""
    adverts = {each.site: each for each in head.adverts}
    survivors = [each.site for each in head.vectors]
    dropped = sorted({each.site for each in head.statements} - set(survivors))
    if [each.site for each in head.seeds] != survivors or [each.site for each in head.keys] != dropped:
        raise FaultyServer("the revealed secrets are not the survivors' seeds and the dropouts' keys")
    for seed in head.seeds:
        if seed_commitment(context.digest, seed.secret) != adverts[seed.site].seed_commitment:
            raise FaultyServer(f"the revealed seed of {seed.site} is not the one it committed to")
    for key in head.keys:
        if public_key(key.secret) != adverts[key.site].mask_key:
            raise FaultyServer(f"the revealed key of {key.site} is not the one it advertised")


def _mean(context: RoundContext, head: MaskedAggregate, words: Words, transcript: bytes) -> Mean:
    manifest, quantizer = context.manifest, quantizer_of(context)
    survivors = tuple(each.site for each in head.vectors)
    tally = Tally.from_sum(words[-len(WORDS) :], len(survivors), manifest.size, manifest.quantizer.weight_cap)
    opened = quantizer.open(words[: -len(WORDS)], tally.weight)
    range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, manifest.quantizer.levels)
    return Mean(opened.values, tally.totals(manifest.size), survivors, transcript, range_q40)
