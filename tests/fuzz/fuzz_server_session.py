"""The server's session of masked mode, answered anything in any phase: a fault of that site, or a typed error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from secagg.errors import Malformed, SecAggError
from secagg.masked.messages import REPLIES, MaskedVector, masked_words_digest
from secagg.masked.opening import open_aggregate
from secagg.masked.server import MaskedServer
from secagg.session import InMemory, Packet
from secagg.wire import tag_of
from tests.fuzz.masked_stage import VICTIM, Stage, played, words_of_size
from tests.fuzz.target import Cut, resigned

RESIGN, RESUME, SHORT_ARCHIVE = 8, 16, 32  # bits of the first byte; the lowest three choose the phase
_WORDS = ("genuine", "none", "drawn", "too few", "of another type", "in two dimensions")
_REPLIES = {kind.TAG: kind for kind in REPLIES}


def one(data: bytes) -> None:
    """First byte: phase, whether to sign anew. Second: which words. Third: where it stands among the answers."""
    game, cut = played(), Cut(data)
    flags, words_kind, place = cut.number(), cut.number(), cut.number()
    if flags & RESUME:
        _resume(cut.rest(), flags)
        return
    stage = game.stages[(flags & 7) % len(game.stages)]
    server, context = stage.fresh_server(), game.round.context
    words = _words(stage, words_kind)
    head = cut.rest()
    if flags & RESIGN:
        head = _resigned(head, words)
    replies = [(site, packet) for site, packet in sorted(stage.replies.items()) if site != VICTIM]
    replies.insert(place % (len(replies) + 1), (VICTIM, Packet(head, words)))
    if place & 128:
        replies.append((VICTIM, stage.replies[VICTIM]))  # a second answer
    try:
        server.receive(replies)
        if server.done:
            open_aggregate(context, server.result().payload)
        else:
            assert all(packet.head for packet in server.requests().values())
    except SecAggError:
        return
    assert set(server.faults) <= {VICTIM}


def _resume(blob: bytes, flags: int) -> None:
    """What a server that died after unmasking may find on its disk."""
    round_ = played().round
    archive = InMemory()
    for site in round_.consortium.names:
        words = round_.sent.get(site, np.zeros(0, np.uint64))
        archive.put(site, words[: -1 if flags & SHORT_ARCHIVE else None])
    try:
        server = MaskedServer.resumed(round_.site_context, round_.consortium.server_keys, archive, blob)
        server.receive(played().stages[-1].replies.items())
        server.result()
    except SecAggError:
        return


def _words(stage: Stage, kind: int) -> np.ndarray | None:
    genuine = stage.replies[VICTIM].words
    size = len(stage.server._sum)
    return {
        "genuine": genuine,
        "none": None,
        "drawn": words_of_size(size, kind),
        "too few": words_of_size(size - 1, kind),
        "of another type": np.zeros(size, np.int64),
        "in two dimensions": np.zeros((size, 1), np.uint64),
    }[_WORDS[kind % len(_WORDS)]]


def _resigned(head: bytes, words: np.ndarray | None) -> bytes:
    round_ = played().round
    try:
        message = _REPLIES[tag_of(head)].decode(head)
    except (Malformed, KeyError):
        return head
    if isinstance(message, MaskedVector) and words is not None and words.dtype == np.uint64:
        message = replace(message, words=masked_words_digest(round_.context.digest, words))
    return resigned(message, round_.consortium, round_.context.digest).encode()


def seeds() -> Iterator[bytes]:
    """Every answer in its own phase, with its signatures and with new ones, and a vector nobody trained."""
    for index, stage in enumerate(played().stages):
        reply = stage.replies[VICTIM]
        yield bytes([index, 0, 0]) + reply.head
        yield bytes([index | RESIGN, 0, 130]) + reply.head
        yield bytes([index | RESIGN, 2, 0]) + reply.head
    record = played().stages[-1].request.head
    yield from (bytes([flags, 0, 0]) + record for flags in (RESUME, RESUME | SHORT_ARCHIVE))
