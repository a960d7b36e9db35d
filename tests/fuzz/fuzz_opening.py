"""An aggregate, whatever is in it: a finite mean, or a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from secagg.errors import Malformed, SecAggError
from secagg.masked.messages import MaskedAggregate, sum_words_digest
from secagg.masked.opening import open_aggregate
from secagg.session import Packet
from tests.fuzz.masked_stage import played
from tests.fuzz.target import Cut, resigned

RESIGN, CONSISTENT, NO_WORDS, SHORT = 1, 2, 4, 8  # bits of the first byte


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
    head = cut.rest()
    if flags & (RESIGN | CONSISTENT):
        head = _repaired(head, words, flags)
    given = None if flags & NO_WORDS else words[: -1 if flags & SHORT else None]
    try:
        mean = open_aggregate(game.round.site_context, Packet(head, given))
    except SecAggError:
        return
    assert np.isfinite(mean.values).all()
    assert mean.next_range_q40 >= 1


def _repaired(head: bytes, words: np.ndarray, flags: int) -> bytes:
    """The head with good signatures, and the digest of these words: what a server that lies can make."""
    round_ = played().round
    try:
        message = MaskedAggregate.decode(head)
    except Malformed:
        return head
    if flags & CONSISTENT:
        message = replace(message, sum_words=sum_words_digest(round_.context.digest, words))
    if flags & RESIGN:
        message = resigned(message, round_.consortium, round_.context.digest)
    return message.encode()


def seeds() -> Iterator[bytes]:
    """The real aggregate: as it is, signed anew, and with a word of the values or of the tally changed."""
    head, words = played().aggregate.payload.head, played().aggregate.payload.words
    assert words is not None
    yield bytes([0, 0]) + head
    yield bytes([RESIGN, 0]) + head
    for place in (0, *range(words.size - 8, words.size)):
        for shift, value in ((0, 1), (56, 255)):
            yield bytes([CONSISTENT, 1, place, shift, value]) + head
