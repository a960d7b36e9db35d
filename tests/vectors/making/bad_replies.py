"""What a site may try on the server: its reply does not count, and it is named (spec §11.6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from secagg.masked.messages import (
    KeyAdvert,
    Projections,
    SealedShares,
    ShareStatement,
    SurvivorSignature,
    UnmaskShares,
    boxes_digest,
)
from secagg.session import Packet
from tests.vectors.form import Json, case_file, drawn
from tests.vectors.making.bad_requests import ALIASES, LOW_ORDER
from tests.vectors.making.lies import FIVE, OTHER, PEER, SERVER_REFUSES, at, flipped, rejected, resigned
from tests.vectors.scene import Played

Lie = Callable[[Played, Packet], Packet]
SITE, BOTH = "faulty-site", "faulty-peer-or-server"


def _case(phase: str, name: str, lie: Lie, code: str) -> Json:
    """One lie of the peer in attempt 2."""
    played = at(phase, attempt=2)
    blamed = PEER if code in (SITE, BOTH) else ""
    return rejected(name, played, PEER, lambda packet: lie(played, packet), code, blamed)


def _file(phase: str, rows: dict[str, tuple[Lie, str]], spec: str, about: str = "") -> Json:
    about = about or f"Replies to {phase} that do not count; the attempt goes on without the site."
    return case_file(about, spec, [_case(phase, name, lie, code) for name, (lie, code) in rows.items()], SERVER_REFUSES)


def _usual(phase: str, kind: Any, replayed: str) -> dict[str, tuple[Lie, str]]:
    """Lies that every reply is open to."""
    old = Played(FIVE, salt="first").run().reply(phase, PEER)

    def renamed(_: Played, packet: Packet) -> Packet:
        return Packet(replace(kind.decode(packet.head), site=OTHER).encode(), packet.words)

    def unsigned(_: Played, packet: Packet) -> Packet:
        message = kind.decode(packet.head)
        return Packet(replace(message, signature=flipped(message.signature, 40)).encode(), packet.words)

    return {
        "replayed from attempt 1": (lambda _, packet: old, replayed),
        "cut short": (lambda _, packet: Packet(packet.head[:-1], packet.words), "malformed"),
        "a byte too many": (lambda _, packet: Packet(packet.head + b"\x00", packet.words), "malformed"),
        **({"in another site's name": (renamed, SITE), "a false signature": (unsigned, BOTH)} if kind else {}),
        **({} if phase == "mask" else {"a word beside it": (_with_word, "malformed")}),
    }  # fmt: skip


def _with_word(_: Played, packet: Packet) -> Packet:
    return Packet(packet.head, np.ones(1, np.uint64))


def _changed(kind: Any, **changes: Callable[[Any], object]) -> Lie:
    """The message with other fields, well signed."""

    def lie(played: Played, packet: Packet) -> Packet:
        message = kind.decode(packet.head)
        message = replace(message, **{name: make(message) for name, make in changes.items()})
        return Packet(resigned(played.context, played.session.keys(PEER), message).encode(), packet.words)

    return lie


def bad_reply_advertise() -> Json:
    rows = _usual("advertise", KeyAdvert, BOTH)
    for name, key in (("of low order", LOW_ORDER["of order 8"]), ("in a second encoding", ALIASES["p + 1, that is 1"])):
        rows[f"a mask key {name}"] = _changed(KeyAdvert, mask_key=lambda _, key=key: key), SITE  # type: ignore[misc]
    rows["one key for two uses"] = _changed(KeyAdvert, share_key=lambda advert: advert.mask_key), SITE
    return _file("advertise", rows, "11.6.1")


def bad_reply_share() -> Json:
    def boxes(make: Callable[[Any], Any], *, restated: bool) -> Lie:
        def lie(played: Played, packet: Packet) -> Packet:
            message = SealedShares.decode(packet.head)
            changed = make(message.boxes)
            statement = message.statement
            if restated:
                statement = replace(statement, boxes=boxes_digest(changed))
                statement = resigned(played.context, played.session.keys(PEER), statement)
            return Packet(SealedShares(statement, changed).encode())

        return lie

    def elsewhere(played: Played, packet: Packet) -> Packet:
        message = SealedShares.decode(packet.head)
        statement: ShareStatement = replace(message.statement, key_roster=drawn("other h1"))
        signed = resigned(played.context, played.session.keys(PEER), statement)
        return Packet(SealedShares(signed, message.boxes).encode())

    def first_flipped(items: Any) -> Any:
        return (replace(items[0], ciphertext=flipped(items[0].ciphertext)), *items[1:])

    rows = _usual("share", None, BOTH)
    rows |= {
        "boxes other than the signed ones": (boxes(first_flipped, restated=False), SITE),
        "a box too few, signed": (boxes(lambda items: items[1:], restated=True), SITE),
        "shares over another key roster": (elsewhere, BOTH),
    }
    return _file("share", rows, "11.6.2")


def bad_reply_mask() -> Json:
    def altered(_: Played, packet: Packet) -> Packet:
        assert packet.words is not None
        return Packet(packet.head, packet.words + np.uint64(1))

    def reordered(_: Played, packet: Packet) -> Packet:
        assert packet.words is not None
        return Packet(packet.head, packet.words[::-1].copy())

    from secagg.masked.messages import MaskedVector

    rows = _usual("mask", MaskedVector, SITE)
    rows |= {
        "words that are each 1 more than the signed ones": (altered, SITE),
        "the signed words in reverse": (reordered, SITE),
        "over another share set": (_changed(MaskedVector, share_set=lambda _: drawn("other h2")), SITE),
    }
    return _file("mask", rows, "11.6.3", "Vectors that never enter the sum; the attempt goes on without the site.")


def bad_reply_consent() -> Json:
    rows = _usual("consent", SurvivorSignature, SITE)
    rows["on another survivor set"] = _changed(SurvivorSignature, survivor_set=lambda _: drawn("other h3")), SITE
    return _file("consent", rows, "11.6.4")


def bad_reply_unmask() -> Json:
    rows = _usual("unmask", UnmaskShares, BOTH)
    rows |= {
        "for another survivor set": (_changed(UnmaskShares, survivor_set=lambda _: drawn("other h3")), SITE),
        "a seed share too few": (_changed(UnmaskShares, seeds=lambda message: message.seeds[1:]), SITE),
        "both shares of one survivor": (_changed(UnmaskShares, keys=lambda message: message.seeds[:1]), SITE),
    }
    return _file("unmask", rows, "11.6.5")


def bad_reply_check() -> Json:
    def false(message: Projections) -> bytes:
        return flipped(message.values, 8 * 77)

    rows = _usual("check", Projections, SITE)
    rows |= {
        "of another record": (_changed(Projections, record=lambda _: drawn("other record")), SITE),
        "one value false, well signed": (_changed(Projections, values=false), SITE),
        "all values zero, well signed": (_changed(Projections, values=lambda _: bytes(1024)), SITE),
    }
    about = "Projections that do not count; the aggregate is made all the same, with the site's masked words behind it."
    return _file("check", rows, "11.6.6", about)


def bad_share_index() -> Json:
    """Shares that are right ones, of another secret or for another point; five givers, threshold 4."""

    def moved(message: Any) -> Any:
        """Every share replaced by that of the next site's secret."""
        seeds = message.seeds
        return tuple(replace(each, share=nxt.share) for each, nxt in zip(seeds, (*seeds[1:], seeds[0]), strict=True))

    def others_point(message: Any) -> Any:
        twin = at("unmask", attempt=2)
        return UnmaskShares.decode(twin.clients[OTHER].handle(twin.request(OTHER)).head).seeds

    rows: dict[str, tuple[Lie, str]] = {
        "every share is of the next site's secret": (_changed(UnmaskShares, seeds=moved), SITE),
        "every share is for another giver's point": (_changed(UnmaskShares, seeds=others_point), SITE),
        "one share altered": (_changed(UnmaskShares, seeds=_first(flipped)), SITE),
        "one share is p": (_changed(UnmaskShares, seeds=_first(lambda _: (2**256 + 297).to_bytes(33, "big"))), SITE),
        "one share is 2^264 - 1": (_changed(UnmaskShares, seeds=_first(lambda _: b"\xff" * 33)), SITE),
        "one share is 0": (_changed(UnmaskShares, seeds=_first(lambda _: bytes(33))), SITE),
    }
    about = (
        "False shares in well-signed UnmaskShares: the rebuilt seed fits its commitment only when the giver is left "
        "out, so the giver is named, and the attempt goes on without its shares. A site cannot see this (11.4.3)."
    )
    return _file("unmask", rows, "5.6, 11.6.5", about)


def _first(make: Callable[[bytes], bytes]) -> Callable[[Any], Any]:
    return lambda message: (replace(message.seeds[0], share=make(message.seeds[0].share)), *message.seeds[1:])
