"""What a server may try on a site, in the order of the phases: every lie is refused and blamed."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.chain import Position
from secagg.config import RoundHeader
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Misuse, Refused
from secagg.identity import ServerKeys, SiteKeys
from secagg.masked.messages import (
    KeyAdvert,
    KeyRoster,
    MaskedVector,
    RoundOpen,
    SealedShares,
    ShareBundle,
    SurvivorProof,
    SurvivorSet,
    SurvivorSignature,
    survivor_set_digest,
)
from secagg.masked.server import MaskedServer
from secagg.masked.states import Advertised, decode_state
from secagg.primitives.agreement import public_key
from secagg.primitives.signature import sign
from secagg.session import InMemory, Packet
from tests.masked.stage import (
    ME,
    PHASES,
    client_of,
    flipped,
    raw,
    refuses,
    reopened,
    request,
    resigned,
    scene,
    sent,
    swapped,
    without,
)
from tests.sim import Consortium, Dice, Round, federation

PEER = "site-04"
LOW_ORDER = [  # little-endian u-coordinates of points of order 1, 2, 4 and 8 (RFC 7748 §7; Curve25519 page)
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
]
ALIASES = [  # other encodings of those points, and of every point: not reduced, or with the unused bit set
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes(31) + b"\x80",
]


def stranger() -> SiteKeys:
    """Keys that are on no roster."""
    return SiteKeys(PEER, Ed25519PrivateKey.from_private_bytes(Dice("stranger")(32)))


def other_life(round_: Round, phase: str, site: str) -> Round:
    """The same attempt with other randomness at the sites: valid messages that were never sent in it."""
    return Round(round_.consortium, round_.context, round_.updates, seed="other life").until(phase)


# ---------------------------------------------------------------------- round open


def open_of(round_: Round) -> RoundOpen:
    message = request(round_)
    assert isinstance(message, RoundOpen)
    return message


def test_a_round_opened_by_another_key_than_the_manifests_is_refused() -> None:
    round_ = scene("advertise")
    other = Ed25519PrivateKey.from_private_bytes(Dice("other server")(32))
    message = open_of(round_)
    forged = sign(other, b"secagg-lora/v1 sig round open\x00", round_.context.digest, message.unsigned())
    refuses(round_, replace(message, signature=forged), FaultyServer, "not opened by the session's server")
    with pytest.raises(Misuse, match="key"):
        MaskedServer(round_.context, ServerKeys(other), InMemory())


@pytest.mark.parametrize("name", [field.name for field in fields(RoundHeader) if field.name != "suite"])
def test_a_header_that_differs_in_one_field_is_refused(name: str) -> None:
    round_ = scene("advertise")
    value = getattr(round_.context.header, name)
    other = flipped(value) if isinstance(value, bytes) else "other" if name == "scheme" else value + 1
    message = open_of(round_)
    lie = reopened(round_, replace(message, header=replace(message.header, **{name: other})))
    refuses(round_, lie, FaultyServer, "header is not the one")


def test_a_site_with_another_global_adapter_takes_no_part() -> None:
    """Different models to different sites: the header names the adapter, the site compares it with its own."""
    consortium = Consortium(5)
    manifest = consortium.manifest(40)
    start = Position.start(manifest)
    theirs = replace(start, round=1, adapter=Dice("theirs")(32), transcript=Dice("t")(32))
    mine = replace(theirs, adapter=Dice("mine")(32))
    options = {"consortium": consortium, "context": consortium.context(manifest, position=theirs)}
    round_ = federation(5, **options)
    my_context = replace(consortium.context(manifest, position=mine), cohort=())
    keys, update = consortium.keys[ME], round_.updates[ME]
    round_.clients[ME] = round_.scheme.client(my_context, keys, round_.policy, update, Dice("me"))
    refuses(round_, open_of(round_), FaultyServer, "server")
    lie = reopened(round_, replace(open_of(round_), header=my_context.header), my_context)
    sent(round_, lie)  # the header it expects: but then its advert is signed for that, and useless to the rest
    advert = advert_in(client_of(round_).to_bytes())
    round_.until("share")
    roster = request(round_, PEER)
    assert isinstance(roster, KeyRoster)
    mixed = KeyRoster(tuple(sorted([*roster.adverts, advert], key=lambda each: each.site)))
    refuses(round_, mixed, FaultyPeerOrServer, f"{ME}: its KeyAdvert is not signed for this attempt", PEER)


def advert_in(saved: bytes) -> KeyAdvert:
    state = decode_state(saved[32:])
    assert isinstance(state, Advertised)
    return state.advert


def test_a_cohort_without_the_site_with_a_stranger_or_too_small_is_refused() -> None:
    round_ = scene("advertise")
    message = open_of(round_)
    lacking = tuple(name for name in message.cohort if name != ME)
    refuses(round_, reopened(round_, replace(message, cohort=lacking)), FaultyServer, "cohort")
    more = (*message.cohort, "site-99")
    refuses(round_, reopened(round_, replace(message, cohort=more)), FaultyServer, "cohort")
    few = message.cohort[: round_.context.manifest.least_survivors - 1]
    refuses(round_, reopened(round_, replace(message, cohort=few)), Refused, "cohort of 3 is below 4")


# ---------------------------------------------------------------------- key roster


def roster_of(round_: Round) -> KeyRoster:
    message = request(round_)
    assert isinstance(message, KeyRoster)
    return message


def advert_of(round_: Round, site: str) -> KeyAdvert:
    return next(each for each in roster_of(round_).adverts if each.site == site)


@pytest.mark.parametrize("signer", ["server", "stranger", "another site"])
def test_a_server_in_the_middle_that_swaps_advertised_keys_is_refused(signer: str) -> None:
    round_ = scene("share")
    keys = {
        "server": SiteKeys(PEER, round_.consortium.server_keys.identity),
        "stranger": stranger(),
        "another site": round_.consortium.keys["site-01"],
    }[signer]
    fresh = public_key(Dice("mitm a")(32)), public_key(Dice("mitm b")(32))
    mitm = replace(advert_of(round_, PEER), share_key=fresh[0], mask_key=fresh[1])
    adverts = swapped(roster_of(round_).adverts, PEER, resigned(round_.context, keys, mitm))
    error = refuses(round_, KeyRoster(adverts), FaultyPeerOrServer, "not signed")
    assert error.site == PEER  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["share_key", "mask_key", "seed_commitment", "signature"])
def test_an_advert_altered_in_any_field_is_refused(name: str) -> None:
    round_ = scene("share")
    altered = replace(advert_of(round_, PEER), **{name: flipped(getattr(advert_of(round_, PEER), name), 3)})
    lie = KeyRoster(swapped(roster_of(round_).adverts, PEER, altered))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its KeyAdvert is not signed")


def test_the_sites_own_advert_must_come_back_as_it_was_sent() -> None:
    round_ = scene("share")
    other = advert_of(other_life(round_, "share", ME), ME)  # as well signed as the one it sent
    lie = KeyRoster(swapped(roster_of(round_).adverts, ME, other))
    refuses(round_, lie, FaultyServer, "misstates this site's own keys")
    refuses(round_, KeyRoster(without(roster_of(round_).adverts, ME)), FaultyServer, "own keys")


def test_a_key_roster_that_is_too_small_is_refused() -> None:
    round_ = scene("share", n=7)
    few = roster_of(round_).adverts[:4]
    refuses(round_, KeyRoster(few), Refused, "key roster of 4 is below 5")


def test_a_key_roster_with_a_site_outside_the_cohort_is_refused() -> None:
    whole = scene("share")
    consortium, manifest = whole.consortium, whole.context.manifest
    smaller = consortium.context(manifest, cohort=consortium.names[:4])
    round_ = Round(consortium, smaller, whole.updates).until("share")
    more = (*roster_of(round_).adverts, advert_of(whole, "site-05"))
    refuses(round_, KeyRoster(more), FaultyServer, "outside the cohort")


@pytest.mark.parametrize("name", ["share_key", "mask_key"])
@pytest.mark.parametrize("key", [*LOW_ORDER, *ALIASES], ids=lambda key: key.hex()[:6] + key.hex()[-4:])
def test_a_key_of_low_order_or_in_a_second_encoding_is_refused(name: str, key: bytes) -> None:
    round_ = scene("share")
    bad = replace(advert_of(round_, PEER), **{name: key})
    signed = resigned(round_.context, round_.consortium.keys[PEER], bad)
    error = refuses(round_, KeyRoster(swapped(roster_of(round_).adverts, PEER, signed)), FaultySite, "bad key")
    assert error.site == PEER  # type: ignore[attr-defined]


def test_one_key_for_two_uses_or_two_sites_is_refused() -> None:
    round_ = scene("share")
    mine, adverts, keys = advert_of(round_, PEER), roster_of(round_).adverts, round_.consortium.keys[PEER]
    twice = resigned(round_.context, keys, replace(mine, share_key=mine.mask_key))
    refuses(round_, KeyRoster(swapped(adverts, PEER, twice)), FaultySite, "one key for two uses")
    for theirs in (advert_of(round_, "site-05").mask_key, advert_of(round_, "site-05").share_key):
        copied = resigned(round_.context, keys, replace(mine, mask_key=theirs))
        refuses(round_, KeyRoster(swapped(adverts, PEER, copied)), FaultyServer, "one key of two sites")


# ---------------------------------------------------------------------- share bundle


def bundle_of(round_: Round, site: str = ME) -> ShareBundle:
    message = request(round_, site)
    assert isinstance(message, ShareBundle)
    return message


def test_a_share_set_over_another_key_roster_is_refused() -> None:
    round_ = scene("mask")
    theirs = next(each for each in bundle_of(round_).statements if each.site == PEER)
    other = resigned(
        round_.context, round_.consortium.keys[PEER], replace(theirs, key_roster=flipped(theirs.key_roster))
    )
    lie = replace(bundle_of(round_), statements=swapped(bundle_of(round_).statements, PEER, other))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: it dealt its shares over another key roster")


def test_a_statement_that_is_not_signed_by_its_site_is_refused() -> None:
    round_ = scene("mask")
    theirs = next(each for each in bundle_of(round_).statements if each.site == PEER)
    for forged in (
        replace(theirs, boxes=flipped(theirs.boxes)),
        resigned(round_.context, stranger(), theirs),
    ):
        lie = replace(bundle_of(round_), statements=swapped(bundle_of(round_).statements, PEER, forged))
        refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its ShareStatement is not signed")


def test_the_sites_own_statement_must_come_back_as_it_was_sent() -> None:
    round_ = scene("mask")
    bundle = bundle_of(round_)
    mine = next(each for each in bundle.statements if each.site == ME)
    other = resigned(round_.context, round_.consortium.keys[ME], replace(mine, boxes=flipped(mine.boxes)))
    lie = replace(bundle, statements=swapped(bundle.statements, ME, other))
    refuses(round_, lie, FaultyServer, "own statement")


def test_a_share_set_that_is_too_small_or_has_a_site_outside_the_key_roster_is_refused() -> None:
    whole = scene("mask")
    few = bundle_of(whole)
    lie = ShareBundle(few.statements[:3], without(few.boxes, ME)[:2])
    refuses(whole, lie, Refused, "share set of 3 is below 4")
    round_ = scene("mask", drop={"advertise": ["site-05"]})
    bundle = bundle_of(round_)
    stolen = next(each for each in few.statements if each.site == "site-05")
    refuses(
        round_,
        replace(bundle, statements=(*bundle.statements, stolen)),
        FaultyServer,
        "outside the key roster",
    )


def test_every_box_of_the_share_set_must_come_and_no_other() -> None:
    round_ = scene("mask")
    bundle = bundle_of(round_)
    refuses(round_, replace(bundle, boxes=without(bundle.boxes, PEER)), FaultyServer, "boxes are not one")
    fewer = without(bundle.statements, PEER)
    refuses(round_, replace(bundle, statements=fewer), FaultyServer, "boxes are not one")
    own = replace(bundle.boxes[0], site=ME)
    more = tuple(sorted([*bundle.boxes, own], key=lambda box: box.site))
    refuses(round_, replace(bundle, boxes=more), FaultyServer, "boxes are not one")


@pytest.mark.parametrize("at", [0, 32, 33, 65, 66, 81])
def test_a_tampered_box_is_refused_and_names_its_sender(at: int) -> None:
    round_ = scene("mask")
    bundle = bundle_of(round_)
    theirs = next(box for box in bundle.boxes if box.site == PEER)
    bad = replace(theirs, ciphertext=flipped(theirs.ciphertext, at))
    lie = replace(bundle, boxes=swapped(bundle.boxes, PEER, bad))
    error = refuses(round_, lie, FaultyPeerOrServer, "its box of shares does not open")
    assert error.site == PEER  # type: ignore[attr-defined]


def test_boxes_swapped_misaddressed_reflected_or_replayed_do_not_open() -> None:
    dealt: dict[str, SealedShares] = {}
    round_ = federation(5)

    def note(phase: str, site: str, packet):  # type: ignore[no-untyped-def]
        if phase == "share":
            dealt[site] = SealedShares.decode(packet.head)
        return packet

    round_.alter_reply = note
    round_.until("mask")
    bundle = bundle_of(round_)
    box = {each.site: each.ciphertext for each in bundle.boxes}
    elsewhere = {each.site: each.ciphertext for each in bundle_of(round_, "site-01").boxes}
    mine = {each.site: each.ciphertext for each in dealt[ME].boxes}
    again = Round(round_.consortium, round_.consortium.context(round_.context.manifest, attempt=2), round_.updates)
    replay = {each.site: each.ciphertext for each in bundle_of(again.until("mask")).boxes}
    lies = {
        "from another sender": box["site-05"],
        "for another receiver": elsewhere[PEER],
        "its own, reflected": mine[PEER],
        "of another attempt": replay[PEER],
    }
    for lie in lies.values():
        other = replace(next(each for each in bundle.boxes if each.site == PEER), ciphertext=lie)
        boxes = swapped(bundle.boxes, PEER, other)
        refuses(round_, replace(bundle, boxes=boxes), FaultyPeerOrServer, f"{PEER}: its box")


# ---------------------------------------------------------------------- survivor set


def survivors_of(round_: Round) -> SurvivorSet:
    message = request(round_)
    assert isinstance(message, SurvivorSet)
    return message


def test_a_survivor_set_without_the_site_or_with_another_vector_of_it_is_refused() -> None:
    round_ = scene("consent")
    vectors = survivors_of(round_).vectors
    refuses(round_, SurvivorSet(without(vectors, ME)), FaultyServer, "own vector")
    mine = next(each for each in vectors if each.site == ME)
    keys = round_.consortium.keys[ME]
    other = resigned(round_.context, keys, replace(mine, words=flipped(mine.words)))
    refuses(round_, SurvivorSet(swapped(vectors, ME, other)), FaultyServer, "own vector")


def test_a_survivor_set_that_is_too_small_is_refused() -> None:
    round_ = scene("consent", n=7)
    refuses(round_, SurvivorSet(survivors_of(round_).vectors[:4]), Refused, "survivor set of 4 is below 5")


def test_a_survivor_outside_the_share_set_is_refused() -> None:
    """The site holds no share of it: a server could claim anything about its mask."""
    round_ = scene("consent", drop={"share": ["site-05"]})
    vectors = survivors_of(round_).vectors
    draft = replace(vectors[0], site="site-05")
    ghost = resigned(round_.context, round_.consortium.keys["site-05"], draft)
    refuses(round_, SurvivorSet((*vectors, ghost)), FaultyServer, "outside the share set")


def test_a_vector_over_another_share_set_is_refused() -> None:
    round_ = scene("consent")
    vectors = survivors_of(round_).vectors
    theirs = next(each for each in vectors if each.site == PEER)
    other = resigned(round_.context, round_.consortium.keys[PEER], replace(theirs, share_set=flipped(theirs.share_set)))
    lie = SurvivorSet(swapped(vectors, PEER, other))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: it masked over another share set")


def test_a_vector_that_its_site_did_not_sign_is_refused() -> None:
    round_ = scene("consent")
    vectors = survivors_of(round_).vectors
    theirs = next(each for each in vectors if each.site == PEER)
    for forged in (
        replace(theirs, words=flipped(theirs.words)),
        resigned(round_.context, stranger(), theirs),
    ):
        lie = SurvivorSet(swapped(vectors, PEER, forged))
        refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its MaskedVector is not signed")


def test_a_site_signs_one_survivor_set_only() -> None:
    round_ = scene("consent")
    vectors = survivors_of(round_).vectors
    sent(round_, SurvivorSet(vectors))
    refuses(round_, SurvivorSet(without(vectors, PEER)), FaultyServer, "out of order at stage signed")


# ---------------------------------------------------------------------- survivor proof


def proof_of(round_: Round) -> SurvivorProof:
    message = request(round_)
    assert isinstance(message, SurvivorProof)
    return message


def test_a_quorum_that_is_short_by_one_releases_nothing() -> None:
    round_ = scene("unmask", n=7)
    signatures, quorum = proof_of(round_).signatures, round_.context.manifest.quorum
    refuses(round_, SurvivorProof(signatures[: quorum - 1]), FaultyServer, "4 signatures are fewer than")
    sent(round_, SurvivorProof(signatures[:quorum]))
    assert round_.released() == {ME}


def test_a_signer_that_is_counted_twice_is_malformed() -> None:
    round_ = scene("unmask", n=7)
    plain = [each.plain() for each in proof_of(round_).signatures[: round_.context.manifest.quorum - 1]]
    refuses(round_, raw(SurvivorProof, [*plain, plain[-1]]), Malformed, "strictly ascending")


def test_a_quorum_on_another_set_or_by_a_stranger_or_a_dropout_releases_nothing() -> None:
    round_ = scene("unmask", drop={"mask": ["site-05"]})
    signatures = proof_of(round_).signatures
    theirs = next(each for each in signatures if each.site == PEER)
    keys = round_.consortium.keys
    other = resigned(round_.context, keys[PEER], replace(theirs, survivor_set=flipped(theirs.survivor_set)))
    refuses(round_, SurvivorProof(swapped(signatures, PEER, other)), FaultyServer, "on another survivor set")
    forged = resigned(round_.context, stranger(), theirs)
    refuses(round_, SurvivorProof(swapped(signatures, PEER, forged)), FaultyPeerOrServer, "not signed")
    dropout = resigned(round_.context, keys["site-05"], replace(theirs, site="site-05"))
    lie = SurvivorProof((*without(signatures, PEER), dropout))
    refuses(round_, lie, FaultyServer, "outside the survivor set is counted")
    assert round_.released() == set()


def test_a_quorum_that_agrees_on_another_set_than_the_site_signed_releases_nothing() -> None:
    """The other set is whole and well signed: only the site's own memory of what it signed stops it."""
    round_ = scene("consent", n=7)
    vectors = survivors_of(round_).vectors
    sent(round_, SurvivorSet(vectors))
    smaller = SurvivorSet(without(vectors, "site-07"))
    replies = [sent(round_, smaller, name) for name in round_.consortium.names if name not in (ME, "site-07")]
    proof = SurvivorProof(tuple(SurvivorSignature.decode(each.head) for each in replies))
    refuses(round_, proof, FaultyServer, "another survivor set")
    released = sent(round_, proof, "site-01")
    assert released.words is None


@pytest.mark.parametrize("phase", PHASES)
def test_a_request_that_carries_words_is_malformed(phase: str) -> None:
    round_ = scene(phase)
    refuses(round_, Packet(request(round_).encode(), np.ones(3, np.uint64)), Malformed, "carries a vector")


def test_the_survivor_digest_binds_what_each_site_sent() -> None:
    round_ = scene("consent")
    vectors = survivors_of(round_).vectors
    assert all(isinstance(each, MaskedVector) for each in vectors)
    digest = survivor_set_digest(round_.context.digest, vectors)
    altered = replace(vectors[0], words=flipped(vectors[0].words))
    assert survivor_set_digest(round_.context.digest, (altered, *vectors[1:])) != digest
    assert survivor_set_digest(flipped(round_.context.digest), vectors) != digest


def test_the_first_site_of_a_share_set_over_another_key_roster_is_named_and_nobody_else() -> None:
    """What a site compares with is the key roster that it saw itself, not the first that the server shows."""
    round_ = scene("mask")
    theirs, *_ = bundle_of(round_).statements
    assert theirs.site == "site-01"
    other = replace(theirs, key_roster=flipped(theirs.key_roster))
    signed = resigned(round_.context, round_.consortium.keys[theirs.site], other)
    lie = replace(bundle_of(round_), statements=swapped(bundle_of(round_).statements, theirs.site, signed))
    refuses(round_, lie, FaultyPeerOrServer, "site-01: it dealt its shares over another key roster")
