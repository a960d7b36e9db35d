"""A site's session of masked mode, asked anything in any state: a reply, or a typed error and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from secagg.errors import Malformed, SecAggError
from secagg.masked.messages import REPLIES, REQUESTS
from secagg.session import Packet
from secagg.wire import tag_of
from tests.fuzz.masked_stage import VICTIM, played
from tests.fuzz.target import Cut, resigned
from tests.sim import Dice

RESIGN, WORDS, FORGOT = 8, 16, 32  # bits of the first byte; the lowest three choose the state
_REQUESTS = {kind.TAG: kind for kind in REQUESTS}


def one(data: bytes) -> None:
    """First byte: the state, and whether signatures are made good, words come, its own are lost. Then the head."""
    game, cut = played(), Cut(data)
    flags = cut.number()
    stage = game.stages[(flags & 7) % len(game.stages)]
    round_, head = game.round, cut.rest()
    if flags & RESIGN:
        head = _resigned(head)
    keys, update = round_.consortium.keys[VICTIM], round_.updates[VICTIM]
    parts = (round_.site_context, keys, round_.policy)
    sent = None if flags & FORGOT else round_.sent[VICTIM]
    client = round_.scheme.restore(*parts, stage.saved, update, Dice("fuzz"), sent)
    words = np.ones(3, np.uint64) if flags & WORDS else None
    try:
        reply = client.handle(Packet(head, words))
    except SecAggError:
        assert client.to_bytes() == stage.saved
        return
    kind = {each.TAG: each for each in REPLIES}[tag_of(reply.head)]
    assert kind.decode(reply.head).encode() == reply.head
    assert client.to_bytes() != stage.saved
    round_.scheme.restore(*parts, client.to_bytes(), update, Dice("fuzz"))


def _resigned(head: bytes) -> bytes:
    round_ = played().round
    try:
        message = _REQUESTS[tag_of(head)].decode(head)
    except (Malformed, KeyError):
        return head
    return resigned(message, round_.consortium, round_.context.digest).encode()


def seeds() -> Iterator[bytes]:
    """Every request in its own state, with its signatures and with new ones."""
    for index, stage in enumerate(played().stages):
        yield bytes([index]) + stage.request.head
        yield bytes([index | RESIGN]) + stage.request.head
