"""What a sum says to who holds the shared key, and what the ciphertexts say of it to everybody (spec §21.7)."""

from __future__ import annotations

import hmac

import numpy as np

from secagg.ckks_shared import frames
from secagg.ckks_shared.checks import require_record
from secagg.ckks_shared.client import key_named
from secagg.ckks_shared.keys import key_name
from secagg.ckks_shared.messages import SharedOpening, SumRecord, ciphertext_digest
from secagg.ckks_shared.payload import Decrypted, packing_of
from secagg.config import RoundContext
from secagg.errors import FaultyServer, Malformed, Sealed
from secagg.masked.audit import require_place
from secagg.masked.messages import sum_words_digest
from secagg.masked.payload import quantizer_of
from secagg.quantize import next_range
from secagg.session import Archive, Audit, Mean, Packet, Words, require_words
from secagg.tally import Tally


def open_aggregate(context: RoundContext, aggregate: Packet, opening: bytes) -> Mean:
    """The mean update. Raises Sealed without an opening, or by blame; then nothing of it may be used."""
    record = SumRecord.decode(aggregate.head)
    require_record(context, record)
    words = _sum_of(context, record, aggregate)
    if not opening:
        raise Sealed("the sum opens to who holds the shared key")
    secret = _secret(context, record, SharedOpening.decode(opening))
    manifest, survivors = context.manifest, record.survivors()
    decrypted = Decrypted(packing_of(context.manifest), secret, words, len(survivors))
    tally = Tally.from_sum(decrypted.tally, len(survivors), manifest.size, manifest.quantizer.weight_cap)
    opened = quantizer_of(context).open_sums(decrypted.sums(), tally.weight)
    range_q40 = next_range(context.header.range_q40, tally, opened.largest, manifest.size, manifest.quantizer.levels)
    return Mean(opened.values, tally.totals(manifest.size), survivors, record.transcript(), range_q40)


def _sum_of(context: RoundContext, record: SumRecord, aggregate: Packet) -> Words:
    """The sum's words, known to be those that the record names, and ciphertexts."""
    count = packing_of(context.manifest).words
    if aggregate.words is None or aggregate.words.shape != (count,):
        raise FaultyServer(f"the sum does not have {count} words")
    words = require_words(aggregate, count)
    if sum_words_digest(context.digest, words) != record.sum_words:
        raise FaultyServer("the sum is not the one that its record names")
    try:
        frames.require_residues(words)
    except Malformed as error:
        raise FaultyServer(f"the sum is no ciphertext: {error}") from error
    return words


def _secret(context: RoundContext, record: SumRecord, opening: SharedOpening) -> bytes:
    if not hmac.compare_digest(key_name(opening.secret), key_named(context.manifest)):
        raise Malformed("the opening is of another shared key")
    own = {each.site: each for each in opening.sent}
    if any(own.get(each.site, each) != each for each in record.contributions):
        raise FaultyServer("the record misstates this site's own contribution")
    return opening.secret


def audit_aggregate(context: RoundContext, aggregate: Packet, archive: Archive) -> Audit:
    """What the ciphertexts in the archive say of the sum. Raises Malformed or by blame if the record does not hold."""
    record = SumRecord.decode(aggregate.head)
    require_place(context, record.opened.header)
    require_record(context, record)
    count = packing_of(context.manifest).words
    if aggregate.words is None or aggregate.words.shape != (count,):
        raise FaultyServer(f"the sum does not have {count} words")
    total = require_words(aggregate, count)
    again, missing, altered = np.zeros(count, np.uint64), list[str](), list[str]()
    for each in record.contributions:
        words = archive.get(each.site) if each.site in archive.sites() else None
        if words is None:
            missing.append(each.site)
        elif words.shape != (count,) or ciphertext_digest(context.digest, words) != each.words:
            altered.append(each.site)
        else:
            frames.require_residues(words)
            frames.add(again, words)
    return Audit(
        transcript=record.transcript(),
        survivors=record.survivors(),
        signatures=len(record.contributions),
        secrets=0,
        missing=tuple(missing),
        altered=tuple(altered),
        projected=(),
        false=(),
        words=count,
        is_named=sum_words_digest(context.digest, total) == record.sum_words,
        wrong_words=None if missing or altered else int(np.count_nonzero(again != total)),
    )
