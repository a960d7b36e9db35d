"""What server and sites may try in ckks mode beyond what masked mode refuses (spec §13.4 to §13.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from secagg.ckks.messages import BlindAdvert, BlindBox, BlindBundle, BlindRoster, BlindShares, blind_roster_digest
from secagg.ckks.payload import KeyAndCiphertext
from secagg.identity import SiteKeys
from secagg.labels import BLIND_AAD, BLIND_KEY, SIGN_BLIND_ADVERT
from secagg.masked.graph import place
from secagg.masked.messages import (
    KeyRoster,
    MaskedVector,
    masked_words_digest,
)
from secagg.primitives.aead import seal
from secagg.primitives.agreement import agree, derive, load, public_key
from secagg.session import Packet, Words
from tests.vectors.form import Json, case_file, drawn
from tests.vectors.making.bad_requests import ALIASES, LOW_ORDER
from tests.vectors.making.bad_survivors import of_site, order_file
from tests.vectors.making.ckks_rounds import THREE
from tests.vectors.making.lies import (
    ME,
    OTHER,
    PEER,
    SERVER_REFUSES,
    SITE_REFUSES,
    at,
    flipped,
    of,
    refused,
    rejected,
    resigned,
    swapped,
    without,
)
from tests.vectors.scene import Played, Session

FIVE = Session(5, size=21, rotate=1, scheme="ckks")
SITE, BOTH, SERVER = "faulty-site", "faulty-peer-or-server", "faulty-server"


def signed(played: Played, keys: SiteKeys, advert: BlindAdvert) -> BlindAdvert:
    """The advert, and the KeyAdvert in it, under valid signatures of these keys."""
    whole = replace(advert, advert=resigned(played.context, keys, advert.advert))
    return replace(whole, signature=keys.sign(SIGN_BLIND_ADVERT, played.context.digest, whole.unsigned()))


# ---------------------------------------------------------------------- what a site refuses


def _false_adverts(played: Played, theirs: BlindAdvert, others: Sequence[BlindAdvert]) -> dict[str, Any]:
    keys, other = played.session.keys(PEER), of(others, OTHER)
    stranger = replace(keys, identity=played.session.server_keys.identity)
    outer = replace(theirs, advert=other.advert)
    outer = replace(outer, signature=keys.sign(SIGN_BLIND_ADVERT, played.context.digest, outer.unsigned()))
    return {
        "an altered blind key": (replace(theirs, blind_key=public_key(drawn("x"))), BOTH, PEER),
        "an altered commitment": (replace(theirs, commitment=drawn("x")), BOTH, PEER),
        "signed by the server": (signed(played, stranger, theirs), BOTH, PEER),
        "another site's advert in it": (outer, SITE, PEER),
        "a blind key of low order": (
            signed(played, keys, replace(theirs, blind_key=LOW_ORDER["of order 8"])), SITE, PEER),
        "a blind key in a second encoding": (
            signed(played, keys, replace(theirs, blind_key=ALIASES["p + 1, that is 1"])), SITE, PEER),
        "the mask key as blind key": (
            signed(played, keys, replace(theirs, blind_key=theirs.advert.mask_key)), SITE, PEER),
        "another site's blind key": (signed(played, keys, replace(theirs, blind_key=other.blind_key)), SERVER, ""),
        "another site's mask key as blind key": (
            signed(played, keys, replace(theirs, blind_key=other.advert.mask_key)), SERVER, ""),
    }  # fmt: skip


def bad_blind_roster() -> Json:
    """Trip 1."""
    played = at("share", FIVE)
    roster = BlindRoster.decode(played.request(ME).head)
    cases = []
    for name, (lie, code, blamed) in _false_adverts(played, of(roster.adverts, PEER), roster.adverts).items():
        cases.append(refused(name, played, BlindRoster(swapped(roster.adverts, PEER, lie)), code, blamed))
    own = signed(played, played.session.keys(ME), of(roster.adverts, ME))
    altered = replace(own, advert=replace(own.advert, seed_commitment=drawn("x")))
    altered = signed(played, played.session.keys(ME), altered)
    cases.append(
        refused("the site's own advert altered", played, BlindRoster(swapped(roster.adverts, ME, altered)), SERVER)
    )
    small = BlindRoster(without(roster.adverts, PEER, OTHER))
    cases.append(refused("too few sites", played, small, "refused"))
    cases.append(refused("a KeyRoster of masked mode", played, _key_roster(roster), "malformed"))
    about = "Rosters that a site in state Advertised refuses: what section 13.5 adds to section 11.4.2."
    return case_file(about, "13.2, 13.5", cases, SITE_REFUSES)


def _key_roster(roster: BlindRoster) -> bytes:
    """What masked mode asks in trip 1."""
    return KeyRoster(tuple(each.advert for each in roster.adverts)).encode()


def bad_blind_bundle() -> Json:
    """Trip 2."""
    played = at("mask", FIVE)
    bundle = BlindBundle.decode(played.request(ME).head)
    theirs = of(bundle.boxes, PEER)

    def with_box(ciphertext: bytes) -> BlindBundle:
        return replace(bundle, boxes=swapped(bundle.boxes, PEER, replace(theirs, ciphertext=ciphertext)))

    mine = BlindBox(ME, theirs.ciphertext)
    rows: dict[str, tuple[Any, str, str]] = {
        "a blind box too few": (replace(bundle, boxes=without(bundle.boxes, PEER)), SERVER, ""),
        "a blind box of its own": (
            replace(bundle, boxes=tuple(sorted((*bundle.boxes, mine), key=lambda each: each.site))), SERVER, ""),
        "a blind box with one bit changed": (with_box(flipped(theirs.ciphertext)), BOTH, PEER),
        "another site's blind box": (with_box(of(bundle.boxes, OTHER).ciphertext), BOTH, PEER),
        "a blind box of another seed": (with_box(_sealed(played, PEER, ME, drawn("z"))), SITE, PEER),
        "the box of a site outside U2": (
            replace(bundle, bundle=replace(bundle.bundle, statements=without(bundle.bundle.statements, PEER))),
            SERVER, ""),
        "a ShareBundle of masked mode": (bundle.bundle, "malformed", ""),
    }  # fmt: skip
    cases = [refused(name, played, lie, code, blamed) for name, (lie, code, blamed) in rows.items()]
    about = "Bundles that a site in state Shared refuses: what section 13.5 adds to section 11.4.3."
    return case_file(about, "13.2, 13.5", cases, SITE_REFUSES)


def _sealed(played: Played, sender: str, receiver: str, seed: bytes) -> bytes:
    """A blind box that opens, made by its sender."""
    context, secret = played.context, load(played.draws[sender].given["blind_secret"])
    roster = BlindRoster.decode(next(request.head for site, request, _ in played.heads["share"] if site == receiver))
    places = place(context, sender) + place(context, receiver)
    key = derive(agree(secret, of(roster.adverts, receiver).blind_key), context.digest, BLIND_KEY + places, 32)
    digest = blind_roster_digest(context.digest, roster.adverts)
    return seal(key, seed, BLIND_AAD + context.digest + digest + places)


def bad_order() -> Json:
    """Every request in every state but the one that is due, those of masked mode among them."""
    played = Played(THREE).run()
    roster, bundle = (
        kind.decode(of_site(played, phase)) for kind, phase in ((BlindRoster, "share"), (BlindBundle, "mask"))
    )
    return order_file(played, "11.4, 13.1", _key_roster(roster), bundle.bundle.encode())


# ---------------------------------------------------------------------- what does not count at the server


def bad_reply_advertise() -> Json:
    """A fresh attempt for every lie: the server sees one."""
    first = at("advertise", FIVE)
    adverts = [
        BlindAdvert.decode(client.handle(first.request(site)).head) for site, client in sorted(first.clients.items())
    ]
    names = list(_false_adverts(first, of(adverts, PEER), adverts))[:7]
    cases = []
    for name in names:
        played = at("advertise", FIVE)
        lie, code, blamed = _false_adverts(played, of(adverts, PEER), adverts)[name]
        cases.append(rejected(name, played, PEER, lambda _, lie=lie: Packet(lie.encode()), code, blamed))  # type: ignore[misc]
    inner = of(adverts, PEER).advert.encode()
    renamed = replace(of(adverts, PEER), site=OTHER).encode()
    for name, data, code in (
        ("a KeyAdvert of masked mode", inner, "malformed"),
        ("another site's name", renamed, SITE),
    ):
        blamed = PEER if code == SITE else ""
        cases.append(
            rejected(name, at("advertise", FIVE), PEER, lambda _, data=data: Packet(data), code, blamed)  # type: ignore[misc]
        )
    return case_file("Replies to advertise that do not count.", "13.5", cases, SERVER_REFUSES)


def bad_reply_share() -> Json:
    def too_few(packet: Packet) -> Packet:
        message = BlindShares.decode(packet.head)
        return Packet(replace(message, boxes=without(message.boxes, OTHER)).encode())

    def renamed(packet: Packet) -> Packet:
        message = BlindShares.decode(packet.head)
        boxes = [replace(box, site=PEER) if box.site == OTHER else box for box in message.boxes]
        return Packet(replace(message, boxes=tuple(sorted(boxes, key=lambda each: each.site))).encode())

    def inner(packet: Packet) -> Packet:
        return Packet(BlindShares.decode(packet.head).shares.encode())

    rows: dict[str, tuple[Callable[[Packet], Packet], str]] = {
        "a blind box too few": (too_few, SITE), "a blind box for itself": (renamed, SITE),
        "SealedShares of masked mode": (inner, "malformed"),
    }  # fmt: skip
    cases = [
        rejected(name, at("share", FIVE), PEER, lie, code, PEER if code == SITE else "")
        for name, (lie, code) in rows.items()
    ]
    return case_file("Replies to share that do not count.", "13.5", cases, SERVER_REFUSES)


def bad_reply_mask() -> Json:
    """Vectors whose tail no reader accepts, well signed."""
    played = at("mask", FIVE)
    payload = KeyAndCiphertext(played.context)
    params, start = payload.params, payload.words
    used = 3 * params.residues
    assert used % 8, "no byte behind the last residue"

    def with_tail(make: Callable[[bytes], bytes]) -> Callable[[Packet], Packet]:
        def lie(packet: Packet) -> Packet:
            assert packet.words is not None
            tail = np.frombuffer(make(packet.words[start:].astype("<u8").tobytes()), "<u8").astype(np.uint64)
            return signed_vector(FIVE, packet, np.concatenate((packet.words[:start], tail)))

        return lie

    rows: dict[str, tuple[Callable[[bytes], bytes], str]] = {
        "a residue that is its prime": (lambda tail: params.primes[0].to_bytes(3, "little") + tail[3:], "malformed"),
        "a byte behind the last residue": (lambda tail: tail[:used] + b"\x01" + tail[used + 1 :], "malformed"),
        "a word too few": (lambda tail: tail[:-8], "misuse"),
    }
    cases = [rejected(name, at("mask", FIVE), PEER, with_tail(make), code) for name, (make, code) in rows.items()]
    return case_file("Vectors that do not count, well signed by their site.", "11.8, 13.4", cases, SERVER_REFUSES)


def signed_vector(session: Session, packet: Packet, words: Words, site: str = PEER) -> Packet:
    """The site's vector with other words, under its own signature."""
    context = session.context()
    message = replace(MaskedVector.decode(packet.head), words=masked_words_digest(context.digest, words))
    return Packet(resigned(context, session.keys(site), message).encode(), words)


FILES: dict[str, Callable[[], Json]] = {
    "ckks/bad_blind_roster.json": bad_blind_roster,
    "ckks/bad_blind_bundle.json": bad_blind_bundle,
    "ckks/bad_order.json": bad_order,
    "ckks/bad_reply_advertise.json": bad_reply_advertise,
    "ckks/bad_reply_share.json": bad_reply_share,
    "ckks/bad_reply_mask.json": bad_reply_mask,
}
