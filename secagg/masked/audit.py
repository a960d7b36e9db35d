"""Whether a round's sum is that of the vectors its survivors signed, and whose bytes are wrong (spec §15.3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from secagg.config import RoundContext, RoundHeader
from secagg.errors import FaultyServer
from secagg.masked.checks import require_record
from secagg.masked.graph import challenge_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import (
    MaskedAggregate,
    MaskedVector,
    Projections,
    masked_words_digest,
    sum_words_digest,
)
from secagg.masked.opening import masks_in_sum, require_projections, vectors_beside
from secagg.masked.payload import Payload, QuantizedUpdate, project_vector
from secagg.session import Archive, Audit, Packet, Words


def audit_aggregate(
    context: RoundContext, aggregate: Packet, archive: Archive, payload: Payload | None = None
) -> Audit:
    """What the vectors say of the sum. Raises Malformed or by blame if the record itself does not hold."""
    payload = payload or QuantizedUpdate(context)
    head = MaskedAggregate.decode(aggregate.head)
    record, transcript = head.record, head.record.transcript()
    require_place(context, record.header)
    require_record(context, record)
    total, attached = vectors_beside(payload, head, aggregate)
    require_projections(context, head, transcript)
    return _Auditor(context, payload, head, transcript, total).audit(archive, attached)


def header_of(aggregate: Packet) -> RoundHeader:
    """The header in the record of an aggregate. Raises Malformed."""
    return MaskedAggregate.decode(aggregate.head).record.header


def require_place(context: RoundContext, found: RoundHeader) -> None:
    """Says in what a record's header differs from the one that its place in the chain asks for."""
    expected = context.header
    what = {
        "session": "another session",
        "round": f"round {found.round}",
        "attempt": f"attempt {found.attempt}, not {expected.attempt}",
        "roster": "another roster",
        "previous": "a chain in which another round went before",
        "adapter": "a chain with another adapter",
        "range_q40": "a chain with another range",
    }
    for name, said in what.items():
        if getattr(found, name) != getattr(expected, name):
            raise FaultyServer(f"the record is of {said}")


class _Auditor:
    """Takes one vector after the other off the sum with its masks, and so comes to zero if the sum is theirs."""

    def __init__(
        self, context: RoundContext, payload: Payload, head: MaskedAggregate, transcript: bytes, total: Words
    ) -> None:
        self._context, self._payload, self._head, self._total = context, payload, head, total
        self._seed = challenge_seed(context, transcript)
        self._projections = {each.site: each for each in head.projections}
        self._rest = total[: payload.words].copy()
        self._tails = payload.tail_sum()
        self._missing: list[str] = []
        self._altered: list[str] = []
        self._false: list[str] = []

    def audit(self, archive: Archive, attached: Mapping[str, Words]) -> Audit:
        record, here = self._head.record, archive.sites()
        for vector in record.vectors:
            self._take(vector, archive.get(vector.site) if vector.site in here else attached.get(vector.site))
        return Audit(
            transcript=self._head.record.transcript(),
            survivors=tuple(each.site for each in record.vectors),
            signatures=len(record.signatures),
            secrets=len(record.seeds) + len(record.keys),
            missing=tuple(self._missing),
            altered=tuple(self._altered),
            projected=tuple(self._projections),
            false=tuple(self._false),
            words=self._total.size,
            is_named=sum_words_digest(self._context.digest, self._total) == record.sum_words,
            wrong_words=None if self._missing or self._altered else self._wrong_words(),
        )

    def _take(self, vector: MaskedVector, words: Words | None) -> None:
        if words is None:
            self._missing.append(vector.site)
        elif words.shape != self._shape or masked_words_digest(self._context.digest, words) != vector.words:
            self._altered.append(vector.site)
        else:
            np.subtract(self._rest, words[: self._payload.words], out=self._rest)
            if self._payload.tail_words:
                self._tails.add(words[self._payload.words :])
            if not self._is_true(self._projections.get(vector.site), words):
                self._false.append(vector.site)

    def _is_true(self, projections: Projections | None, words: Words) -> bool:
        return projections is None or np.array_equal(
            projections.words(), project_vector(self._payload, self._seed, words)
        )

    def _wrong_words(self) -> int:
        masks = masks_in_sum(self._context, self._head.record)
        Masks(masks.plus, masks.minus).apply(self._rest)
        tail = self._total[self._payload.words :]
        wrong_tail = np.count_nonzero(self._tails.words() != tail) if self._payload.tail_words else 0
        return int(np.count_nonzero(self._rest)) + int(wrong_tail)

    @property
    def _shape(self) -> tuple[int]:
        return (self._payload.words + self._payload.tail_words,)
