"""An aggregate, whatever is in it: a finite mean, or a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from secagg.errors import Malformed, SecAggError
from secagg.masked.graph import challenge_seed
from secagg.masked.masks import Masks
from secagg.masked.messages import MaskedAggregate, sum_words_digest
from secagg.masked.opening import masks_in_sum, open_aggregate, total_of
from secagg.projection import project
from secagg.session import Packet
from tests.fuzz.masked_stage import played
from tests.fuzz.target import Cut, resigned

RESIGN, CONSISTENT, NO_WORDS, SHORT, ATTACHED = 1, 2, 4, 8, 16  # bits of the first byte


def one(data: bytes) -> None:
    """First byte: flags. Second: how many words are changed, by a place, a shift and a value each. Then the head."""
    game, cut = played(), Cut(data)
    flags, edits = cut.number(), cut.number() & 15
    genuine = game.aggregate.payload.words
    assert genuine is not None
    words = genuine.copy()
    for _ in range(edits):
        place, shift, value = cut.number(), cut.number() & 63, cut.number()
        words[place % words.size] ^= np.uint64(value << shift & (1 << 64) - 1)
    head, attached = _repaired(cut.rest(), words, flags)
    given = np.concatenate([words, *attached])
    try:
        mean = open_aggregate(
            game.round.site_context, Packet(head, None if flags & NO_WORDS else given[: -1 if flags & SHORT else None])
        )
    except SecAggError:
        return
    assert np.isfinite(mean.values).all()
    assert mean.next_range_q40 >= 1


def _repaired(head: bytes, words: np.ndarray, flags: int) -> tuple[bytes, list[np.ndarray]]:
    """The head with good signatures, the digest of these words and projections that fit, and the words behind the sum.

    That is what a server and as many sites as like can make; without, what is behind the checks stays unseen.
    """
    round_, attached = played().round, list[np.ndarray]()
    try:
        message = MaskedAggregate.decode(head)
    except Malformed:
        return head, attached
    context = round_.context
    if flags & CONSISTENT:
        digest = sum_words_digest(context.digest, words)
        message = replace(message, record=replace(message.record, sum_words=digest))
    if flags & RESIGN:
        message = resigned(message, round_.consortium, context.digest)
    if flags & ATTACHED and message.projections:
        attached = [round_.sent[message.projections[0].site]] if message.projections[0].site in round_.sent else []
        message = replace(message, projections=message.projections[1:])
    if flags & CONSISTENT and message.projections:
        message = resigned(_fitting(message, words, attached), round_.consortium, context.digest)
    return message.encode(), attached


def _fitting(message: MaskedAggregate, words: np.ndarray, attached: list[np.ndarray]) -> MaskedAggregate:
    """The aggregate whose first projection makes up for everything that was changed."""
    context, transcript = played().round.context, message.record.transcript()
    on_record = [replace(each, record=transcript) for each in message.projections]
    try:
        masks = masks_in_sum(context, message.record)
    except (SecAggError, KeyError):  # a record that refers to sites it lacks: refused before anybody looks there
        return replace(message, projections=tuple(on_record))
    block = words.copy()
    Masks(masks.plus, masks.minus).apply(block)
    for each in attached:
        block -= each
    rest = project(challenge_seed(context, transcript), block) - total_of(on_record[1:])
    first = replace(on_record[0], values=rest.astype("<u8").tobytes())
    return replace(message, projections=(first, *on_record[1:]))


def seeds() -> Iterator[bytes]:
    """The real aggregate: as it is, signed anew, with words behind it, with a word of values or tally changed."""
    head, words = played().aggregate.payload.head, played().aggregate.payload.words
    assert words is not None
    yield bytes([0, 0]) + head
    yield bytes([RESIGN, 0]) + head
    yield bytes([ATTACHED, 0]) + head
    yield bytes([CONSISTENT | ATTACHED, 1, 0, 0, 1]) + head
    for place in (0, *range(words.size - 8, words.size)):
        for shift, value in ((0, 1), (56, 255)):
            yield bytes([CONSISTENT, 1, place, shift, value]) + head
