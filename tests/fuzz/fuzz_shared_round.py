"""What ckks-shared mode reads: a request, a contribution, a sum. A typed error, or what an honest one gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from secagg.ckks_shared.messages import Contribution, SumRecord, ciphertext_digest
from secagg.errors import Malformed, SecAggError
from secagg.masked.messages import RoundOpen, sum_words_digest
from secagg.session import InMemory, Packet, Words
from tests.fuzz.target import Cut, resigned
from tests.sim import Dice, Round, federation

REQUEST, REPLY, SUM = range(3)  # of the first byte, modulo 3
RESIGN, CONSISTENT, NO_WORDS, SHORT = 1, 2, 4, 8  # bits of the second
ME = "site-01"


@dataclass(frozen=True)
class Played:
    """One finished round."""

    round: Round
    request: bytes
    reply: Packet
    total: Packet
    opening: bytes


@cache
def played() -> Played:
    """Played once: three sites, eight values, one ciphertext."""
    round_ = federation(3, 8, manifest={"scheme": "ckks-shared"})
    request = round_.server.requests()[ME].head
    kept: list[Packet] = []
    round_.alter_reply = lambda _, site, packet: (kept.append(packet) if site == ME else None) or packet
    total = round_.run().payload
    return Played(round_, request, kept[0], total, round_.opening(round_.clients[ME].to_bytes(), ME))


def one(data: bytes) -> None:
    """Two bytes of choices; how many words are changed, by a place, a shift and a value each; then the head."""
    cut = Cut(data)
    what, flags, edits = cut.number() % 3, cut.number(), cut.number() & 15
    genuine = (played().total if what == SUM else played().reply).words
    assert genuine is not None
    words = genuine.copy()
    for _ in range(edits):
        place, shift, value = cut.number(2), cut.number() & 63, cut.number()
        words[place % words.size] ^= np.uint64(value << shift & (1 << 64) - 1)
    head = _repaired(cut.rest(), words, flags)
    try:
        [_request, _reply, _sum][what](head, None if flags & NO_WORDS else words[: -1 if flags & SHORT else None])
    except SecAggError:
        return


def _request(head: bytes, words: Words | None) -> None:
    round_ = played().round
    keys, update = round_.consortium.keys[ME], round_.updates[ME]
    client = round_.scheme.client(round_.site_context, keys, round_.policy, update, Dice(0))
    before = client.to_bytes()
    try:
        reply = client.handle(Packet(head, words if head[:1] == b"\x00" else None))
    except SecAggError:
        assert client.to_bytes() == before
        raise
    assert Contribution.decode(reply.head).site == ME
    assert reply.words is not None


def _reply(head: bytes, words: Words | None) -> None:
    round_ = played().round
    server = round_.scheme.server(round_.context, round_.consortium.server_keys, InMemory())
    try:
        server.receive([(ME, Packet(head, words))])
    finally:
        assert not server.done


def _sum(head: bytes, words: Words | None) -> None:
    round_ = played().round
    mean = round_.scheme.open(round_.site_context, Packet(head, words), played().opening)
    assert np.isfinite(mean.values).all()
    assert mean.next_range_q40 >= 1


def _repaired(head: bytes, words: Words, flags: int) -> bytes:
    """The head with good signatures and the digests of these words: what its makers could have sent."""
    round_ = played().round
    digest = round_.context.digest
    for kind in (RoundOpen, Contribution, SumRecord):
        try:
            message = kind.decode(head)
        except Malformed:
            continue
        if flags & CONSISTENT and isinstance(message, Contribution):
            message = replace(message, words=ciphertext_digest(digest, words))
        if flags & CONSISTENT and isinstance(message, SumRecord):
            message = replace(message, sum_words=sum_words_digest(digest, words))
        return resigned(message, round_.consortium, digest).encode() if flags & RESIGN else message.encode()
    return head


def seeds() -> Iterator[bytes]:
    """The real ones: as they are, signed anew, with a word changed."""
    heads = {REQUEST: played().request, REPLY: played().reply.head, SUM: played().total.head}
    for what, head in heads.items():
        yield bytes([what, 0, 0]) + head
        yield bytes([what, RESIGN | CONSISTENT, 0]) + head
        yield bytes([what, RESIGN | CONSISTENT, 1, 3, 0, 0, 1]) + head
        yield bytes([what, RESIGN | CONSISTENT, 1, 3, 0, 56, 255]) + head
        yield bytes([what, SHORT, 0]) + head
