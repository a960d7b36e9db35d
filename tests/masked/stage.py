"""Scenes for the tests of masked mode: a round driven to a phase, and the tools of those who cheat in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from secagg.config import RoundContext
from secagg.errors import SecAggError
from secagg.identity import SiteKeys
from secagg.labels import (
    SIGN_KEY_ADVERT,
    SIGN_MASKED_VECTOR,
    SIGN_PROJECTIONS,
    SIGN_ROUND_OPEN,
    SIGN_SEALED_SHARES,
    SIGN_SURVIVORS,
    SIGN_UNMASK_SHARES,
)
from secagg.masked.client import MaskedClient
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import (
    REQUESTS,
    KeyAdvert,
    MaskedAggregate,
    MaskedVector,
    Projections,
    RoundOpen,
    RoundRecord,
    ShareStatement,
    SurvivorSignature,
    UnmaskShares,
)
from secagg.primitives.signature import sign
from secagg.projection import project
from secagg.session import Packet, Words
from secagg.wire import Struct, encode_plain
from tests.sim import Round, federation

PHASES = ("advertise", "share", "mask", "consent", "unmask", "check")
ME = "site-02"  # the site that the server lies to
REQUEST_OF = dict(zip(PHASES, REQUESTS, strict=True))

_LABELS: dict[type[Struct], bytes] = {
    RoundOpen: SIGN_ROUND_OPEN,
    KeyAdvert: SIGN_KEY_ADVERT,
    ShareStatement: SIGN_SEALED_SHARES,
    MaskedVector: SIGN_MASKED_VECTOR,
    SurvivorSignature: SIGN_SURVIVORS,
    UnmaskShares: SIGN_UNMASK_SHARES,
    Projections: SIGN_PROJECTIONS,
}

S = TypeVar("S", bound=Struct)


def scene(phase: str, n: int = 5, **options: object) -> Round:
    """A round whose server is about to send the phase's requests."""
    return federation(n, **options).until(phase)


def request(round_: Round, site: str = ME) -> Struct:
    """What an honest server would send the site now."""
    return REQUEST_OF[round_.server.phase].decode(round_.server.requests()[site].head)


def sent(round_: Round, message: Struct, site: str = ME) -> Packet:
    """The site's reply to a message."""
    return round_.clients[site].handle(Packet(message.encode()))


def refuses(
    round_: Round, message: Struct | Packet, error: type[SecAggError], rule: str, site: str = ME
) -> SecAggError:
    """Asserts that the site refuses the message for this reason, and that nothing changes by it."""
    client = round_.clients[site]
    before = client.to_bytes()
    packet = message if isinstance(message, Packet) else Packet(message.encode())
    with pytest.raises(error, match=rule) as caught:
        client.handle(packet)
    assert type(caught.value) is error
    assert client.to_bytes() == before
    return caught.value


def resigned(context: RoundContext, keys: SiteKeys, message: S) -> S:
    """The message under a fresh, valid signature of these keys."""
    signature = keys.sign(_LABELS[type(message)], context.digest, message.unsigned())
    return replace(message, signature=signature)


def reopened(round_: Round, message: RoundOpen, context: RoundContext | None = None) -> RoundOpen:
    """The message under a fresh, valid signature of the server."""
    digest = (context or round_.context).digest
    key = round_.consortium.server_keys.identity
    return replace(message, signature=sign(key, SIGN_ROUND_OPEN, digest, message.unsigned()))


def swapped(items: Sequence[S], site: str, other: S) -> tuple[S, ...]:
    """The list with the site's entry replaced."""
    return tuple(other if each.site == site else each for each in items)  # type: ignore[attr-defined]


def without(items: Sequence[S], *sites: str) -> tuple[S, ...]:
    """The list without these sites' entries."""
    return tuple(each for each in items if each.site not in sites)  # type: ignore[attr-defined]


def raw(message: type[Struct], *fields: object) -> Packet:
    """A packet that no honest encoder makes: the fields as they are, in plain lists."""
    return Packet(encode_plain([message.TAG, *fields]))


def flipped(data: bytes, at: int = -1) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def client_of(round_: Round, site: str = ME) -> MaskedClient:
    """The site's session."""
    client = round_.clients[site]
    assert isinstance(client, MaskedClient)
    return client


def projections(round_: Round, record: RoundRecord, site: str, words: Words | None = None) -> Projections:
    """What the site signs of the words it sent (or of others) when it is shown this record."""
    context, transcript = round_.context, record.transcript()
    values = project(challenge_seed(context, transcript), round_.archive.get(site) if words is None else words)
    draft = Projections(site, transcript, values.astype("<u8").tobytes(), bytes(64))
    return resigned(context, round_.consortium.keys[site], draft)


def aggregate(round_: Round, record: RoundRecord, words: Words | None, liar: str = "") -> Packet:
    """What a server would publish if every survivor had signed projections for this record.

    liar: a colluder that signs for what makes the words right, whatever they are.
    """
    vectors = {each.site: round_.archive.get(each.site) for each in record.vectors}
    if liar in vectors and words is not None:
        true = round_.server.result().payload.words
        assert true is not None
        vectors[liar] = vectors[liar] + (words - true)
    signed = tuple(projections(round_, record, site, vectors[site]) for site in sorted(vectors))
    return Packet(MaskedAggregate(record, signed).encode(), words)
