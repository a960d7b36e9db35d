"""Blind seeds: who lies about one, who swaps a box, and who is named for it (spec §13.2, §13.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from secagg.ckks.messages import BlindAdvert, BlindBox, BlindBundle, BlindRoster, BlindShares, blind_commitment
from secagg.ckks.server import CkksServer
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Refused, SecAggError, TooFewSites
from secagg.identity import SiteKeys
from secagg.masked.graph import place
from secagg.masked.messages import KeyRoster
from secagg.primitives.aead import seal
from secagg.primitives.agreement import agree, load, public_key
from secagg.session import Packet
from tests.ckks.sessions import box_of, ckks, client_of, request, scene, signed_advert, state_of
from tests.contract.test_sums import assert_exact, exact
from tests.masked.stage import ME, flipped, refuses, sent, swapped, without
from tests.masked.test_lying_server import ALIASES, LOW_ORDER, stranger
from tests.sim import Dice, Round

PEER = "site-04"
LIAR = "site-03"
OTHER_SEED = Dice("other seed")(32)


# ------------------------------------------------------------------ a site that deals falsely


def dealt(round_: Round, receiver: str, seed: bytes) -> bytes:
    """The liar's box with this seed: it has its own key, so it seals what it likes."""
    client, state = client_of(round_, LIAR), state_of(round_, LIAR)
    theirs = box_of(state.commitments, receiver)
    key, aad = client._box(agree(load(state.blind_secret), theirs.blind_key), LIAR, receiver)
    return seal(key, seed, aad)


def test_a_site_that_deals_another_seed_to_some_is_named_by_those_and_its_lie_is_proved() -> None:
    round_ = exact("ckks", 7)

    def lie(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) != ("share", LIAR):
            return packet
        message = BlindShares.decode(packet.head)
        false = BlindBox(PEER, dealt(round_, PEER, OTHER_SEED))
        return Packet(replace(message, boxes=swapped(message.boxes, PEER, false)).encode())

    round_.alter_reply = lie
    round_.run()
    assert set(round_.refusals) == {PEER}
    refusal = round_.refusals[PEER]
    assert type(refusal) is FaultySite
    assert str(refusal) == f"{LIAR}: its blind seed is not the one it committed to"
    assert_exact(round_)  # the rest go on, and can all open
    assert set(round_.server.result().contributors) == set(round_.consortium.names) - {PEER}
    assert len({round_.mean(round_.server.result(), site).values.tobytes()
                for site in round_.server.result().contributors}) == 1  # fmt: skip


def test_a_site_that_commits_to_another_seed_than_it_deals_is_named_by_every_other() -> None:
    round_ = ckks(5)

    def lie(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) != ("advertise", LIAR):
            return packet
        advert = BlindAdvert.decode(packet.head)
        false = blind_commitment(round_.context.digest, place(round_.context, LIAR), OTHER_SEED)
        return Packet(signed_advert(round_, round_.consortium.keys[LIAR], replace(advert, commitment=false)).encode())

    round_.alter_reply = lie
    with pytest.raises(TooFewSites):
        round_.run()
    assert set(round_.refusals) == set(round_.consortium.names) - {LIAR}
    assert {(type(each), each.site) for each in round_.refusals.values()} == {(FaultySite, LIAR)}  # type: ignore[attr-defined]


def test_the_commitment_binds_seed_site_and_attempt() -> None:
    context, again = ckks().context, replace(ckks().context.header, attempt=2).digest()
    one, two = place(context, "site-01"), place(context, "site-02")
    bound = [
        blind_commitment(context.digest, one, OTHER_SEED), blind_commitment(context.digest, two, OTHER_SEED),
        blind_commitment(again, one, OTHER_SEED), blind_commitment(context.digest, one, flipped(OTHER_SEED)),
    ]  # fmt: skip
    assert len(set(bound)) == 4


# ------------------------------------------------------------------ a server that swaps boxes


def bundle_of(round_: Round, site: str = ME) -> BlindBundle:
    message = request(round_, site)
    assert isinstance(message, BlindBundle)
    return message


def test_a_box_from_another_sender_for_another_receiver_reflected_or_of_another_attempt_does_not_open() -> None:
    own: dict[str, BlindShares] = {}

    def note(phase: str, site: str, packet: Packet) -> Packet:
        if phase == "share":
            own[site] = BlindShares.decode(packet.head)
        return packet

    round_ = scene("mask", alter_reply=note)
    bundle = bundle_of(round_)
    again = ckks(context=round_.consortium.context(round_.context.manifest, attempt=2)).until("mask")
    other_life = ckks(seed="other life").until("mask")
    lies = {
        "from another sender": box_of(bundle.boxes, "site-05").ciphertext,
        "for another receiver": box_of(bundle_of(round_, "site-01").boxes, PEER).ciphertext,
        "its own, reflected": box_of(own[ME].boxes, PEER).ciphertext,
        "of another attempt": box_of(bundle_of(again).boxes, PEER).ciphertext,
        "of the same attempt in another life": box_of(bundle_of(other_life).boxes, PEER).ciphertext,
        "altered": flipped(box_of(bundle.boxes, PEER).ciphertext, 3),
    }
    for what, ciphertext in lies.items():
        boxes = swapped(bundle.boxes, PEER, BlindBox(PEER, ciphertext))
        error = refuses(round_, replace(bundle, boxes=boxes), FaultyPeerOrServer, "its blind box does not open")
        assert error.site == PEER, what  # type: ignore[attr-defined]


def test_the_two_boxes_between_two_sites_have_different_keys() -> None:
    """Their nonce is fixed: under one key the two would show the server the difference of the two seeds."""
    round_ = scene("mask")
    secret, theirs = load(state_of(round_).blind_secret), box_of(state_of(round_).commitments, PEER)
    client, shared = client_of(round_), agree(secret, theirs.blind_key)
    keys = [client._box(shared, *pair)[0] for pair in ((ME, PEER), (PEER, ME), (ME, "site-05"))]
    assert len(set(keys)) == 3


def test_blind_boxes_are_one_from_every_other_site_of_the_share_set() -> None:
    round_ = scene("mask")
    bundle = bundle_of(round_)
    mine = BlindBox(ME, box_of(bundle.boxes, PEER).ciphertext)
    for boxes in (
        without(bundle.boxes, PEER),
        (),
        tuple(sorted((*bundle.boxes, mine), key=lambda each: each.site)),
        tuple(sorted((*bundle.boxes, BlindBox("site-09", mine.ciphertext)), key=lambda each: each.site)),
        swapped(bundle.boxes, "site-05", BlindBox("site-06", mine.ciphertext)),
    ):
        refuses(round_, replace(bundle, boxes=boxes), FaultyServer, "not one from every other site of the share set")


def test_a_share_set_with_a_site_outside_the_key_roster_is_refused_before_any_box_is_opened() -> None:
    round_ = scene("mask", drop={"share": ["site-05"]})
    bundle = bundle_of(round_)
    statement = replace(bundle.bundle.statements[0], site="site-09")
    lie = BlindBundle(
        replace(bundle.bundle, statements=(*bundle.bundle.statements, statement)),
        (*bundle.boxes, BlindBox("site-09", bundle.boxes[0].ciphertext)),
    )
    refuses(round_, lie, FaultyServer, "outside the key roster, or twice")


def test_boxes_that_open_in_a_bundle_that_is_refused_leave_nothing_behind() -> None:
    """Refused for its masked part: no seed is kept, the key is still there, and the true bundle is taken."""
    round_ = scene("mask")
    bundle = bundle_of(round_)
    inner = replace(bundle.bundle, boxes=swapped(bundle.bundle.boxes, PEER,
                    replace(bundle.bundle.boxes[0], site=PEER)))  # fmt: skip
    refuses(round_, replace(bundle, bundle=inner), FaultyPeerOrServer, "box of shares does not open")
    assert [each.site for each in state_of(round_).seeds] == [ME]
    sent(round_, bundle)
    assert [each.site for each in state_of(round_).seeds] == list(round_.consortium.names)


def test_the_seeds_of_dropouts_of_the_share_phase_are_never_known() -> None:
    round_ = scene("consent", n=7, drop={"share": ["site-07"]})
    assert [each.site for each in state_of(round_).seeds] == list(round_.consortium.names[:-1])


# ------------------------------------------------------------------ a server that swaps keys


def roster_of(round_: Round, site: str = ME) -> BlindRoster:
    message = request(round_, site)
    assert isinstance(message, BlindRoster)
    return message


def with_advert(round_: Round, advert: BlindAdvert) -> BlindRoster:
    return BlindRoster(swapped(roster_of(round_).adverts, advert.site, advert))


@pytest.mark.parametrize("signer", ["nobody", "server", "stranger", "another site"])
def test_a_server_in_the_middle_that_swaps_a_blind_key_is_refused(signer: str) -> None:
    round_ = scene("share")
    true = box_of(roster_of(round_).adverts, PEER)
    mitm = replace(true, blind_key=public_key(Dice("mitm")(32)))
    if signer != "nobody":
        keys = {
            "server": SiteKeys(PEER, round_.consortium.server_keys.identity),
            "stranger": stranger(),
            "another site": round_.consortium.keys["site-01"],
        }[signer]
        mitm = replace(signed_advert(round_, keys, mitm), advert=true.advert)
    error = refuses(round_, with_advert(round_, mitm), FaultyPeerOrServer, "its BlindAdvert is not signed")
    assert error.site == PEER  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["blind_key", "commitment", "signature"])
def test_a_blind_advert_altered_in_any_field_is_refused(name: str) -> None:
    round_ = scene("share")
    true = box_of(roster_of(round_).adverts, PEER)
    lie = with_advert(round_, replace(true, **{name: flipped(getattr(true, name), 3)}))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its BlindAdvert is not signed")


def test_a_blind_advert_around_another_key_advert_is_refused() -> None:
    """The outer signature binds the inner advert: a server cannot pair one site's two halves anew."""
    round_, other = scene("share"), ckks(seed="other life").until("share")
    true, theirs = (box_of(roster_of(each).adverts, PEER) for each in (round_, other))
    lie = with_advert(round_, replace(true, advert=theirs.advert))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its BlindAdvert is not signed")


def test_a_blind_advert_of_another_attempt_is_refused() -> None:
    round_ = scene("share")
    again = ckks(context=round_.consortium.context(round_.context.manifest, attempt=2)).until("share")
    lie = with_advert(round_, box_of(roster_of(again).adverts, PEER))
    refuses(round_, lie, FaultyPeerOrServer, f"{PEER}: its BlindAdvert is not signed")


def test_an_advert_in_another_sites_name_is_refused() -> None:
    round_ = scene("share")
    adverts = roster_of(round_).adverts
    mixed = replace(box_of(adverts, PEER), advert=box_of(adverts, "site-05").advert)
    keys = round_.consortium.keys[PEER]
    draft = replace(signed_advert(round_, keys, mixed), advert=box_of(adverts, "site-05").advert)
    signature = keys.sign(b"secagg-lora/v1 sig blind advert\x00", round_.context.digest, draft.unsigned())
    lie = with_advert(round_, replace(draft, signature=signature))
    error = refuses(round_, lie, FaultySite, "advertises in another site's name")
    assert error.site == PEER  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", [*LOW_ORDER, *ALIASES], ids=lambda key: key.hex()[:8])
def test_a_blind_key_of_low_order_or_in_another_encoding_is_refused(key: bytes) -> None:
    round_ = scene("share")
    true = box_of(roster_of(round_).adverts, PEER)
    bad = signed_advert(round_, round_.consortium.keys[PEER], replace(true, blind_key=key))
    refuses(round_, with_advert(round_, bad), FaultySite, f"{PEER}: it advertises a bad key")


@pytest.mark.parametrize("use", ["share_key", "mask_key"])
def test_one_key_for_two_uses_is_refused(use: str) -> None:
    """A mask key's secret is revealed when its site drops out: the blind boxes would be open."""
    round_ = scene("share")
    true = box_of(roster_of(round_).adverts, PEER)
    bad = replace(true, blind_key=getattr(true.advert, use))
    bad = signed_advert(round_, round_.consortium.keys[PEER], bad)
    refuses(round_, with_advert(round_, bad), FaultySite, f"{PEER}: it advertises one key for two uses")


def copied(round_: Round, into: str, of: str) -> BlindAdvert:
    """An advert of the peer that holds a key of another site."""
    adverts = roster_of(round_).adverts
    true, theirs = box_of(adverts, PEER), box_of(adverts, "site-05")
    key = theirs.blind_key if of == "blind_key" else getattr(theirs.advert, of)
    if into == "blind_key":
        bad = replace(true, blind_key=key)
    else:
        bad = replace(true, advert=replace(true.advert, **{into: key}))
    return signed_advert(round_, round_.consortium.keys[PEER], bad)


KINDS = ("blind_key", "share_key", "mask_key")


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("of", KINDS)
def test_a_roster_with_one_key_of_two_sites_is_refused(into: str, of: str) -> None:
    round_ = scene("share")
    refuses(round_, with_advert(round_, copied(round_, into, of)), FaultyServer, "one key of two sites")


def test_rosters_that_differ_between_two_sites_open_no_box_between_them() -> None:
    """A site that signs two blind adverts can have its server split the others; boxes are bound to the whole roster."""
    round_ = scene("share")
    true = box_of(roster_of(round_).adverts, LIAR)
    second = signed_advert(round_, round_.consortium.keys[LIAR], replace(true, commitment=flipped(true.commitment)))
    replies = {site: sent(round_, roster_of(round_, site), site) for site in round_.consortium.names if site != ME}
    replies[ME] = sent(round_, with_advert(round_, second))
    round_.server.receive([(site, replies[site]) for site in round_.consortium.names])
    refuses(round_, bundle_of(round_), FaultyPeerOrServer, "site-01: its blind box does not open")
    refuses(round_, bundle_of(round_, PEER), FaultyPeerOrServer, f"{ME}: its blind box does not open", PEER)


# ------------------------------------------------------------------ at the server


def lying(phase: str, lie: Callable[[Round, Packet], Packet]) -> Round:
    round_ = exact("ckks", 7)
    round_.alter_reply = lambda now, site, packet: lie(round_, packet) if (now, site) == (phase, LIAR) else packet
    round_.run()
    return round_


def assert_named(round_: Round, error: type[SecAggError], rule: str) -> None:
    """The liar is named, alone, and the sum is exact over all others."""
    assert set(round_.server.faults) == {LIAR}
    assert type(round_.server.faults[LIAR]) is error
    assert rule in str(round_.server.faults[LIAR])
    assert not round_.refusals
    assert_exact(round_)
    assert LIAR not in round_.server.result().contributors


def resigned_with(change: Callable[[BlindAdvert], BlindAdvert]) -> Callable[[Round, Packet], Packet]:
    def lie(round_: Round, packet: Packet) -> Packet:
        advert = change(BlindAdvert.decode(packet.head))
        return Packet(signed_advert(round_, round_.consortium.keys[LIAR], advert).encode())

    return lie


def test_a_faulty_advert_drops_its_site_before_it_can_spoil_anybodys_round() -> None:
    bad_key = resigned_with(lambda advert: replace(advert, blind_key=bytes(32)))
    assert_named(lying("advertise", bad_key), FaultySite, "bad key")
    twice = resigned_with(lambda advert: replace(advert, blind_key=advert.advert.mask_key))
    assert_named(lying("advertise", twice), FaultySite, "one key for two uses")
    false = lambda _, packet: Packet(  # noqa: E731
        replace(BlindAdvert.decode(packet.head), signature=bytes(64)).encode()
    )
    assert_named(lying("advertise", false), FaultyPeerOrServer, "its BlindAdvert is not signed")
    other = resigned_with(lambda advert: replace(advert, site="site-01"))
    assert_named(lying("advertise", other), FaultySite, "in another site's name")
    bare = lambda _, packet: Packet(BlindAdvert.decode(packet.head).advert.encode())  # noqa: E731
    assert_named(lying("advertise", bare), Malformed, "")


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("of", KINDS)
def test_a_site_that_advertises_anothers_key_is_dropped(into: str, of: str) -> None:
    """Every other site would refuse the roster that holds it."""
    others: dict[str, BlindAdvert] = {}
    round_ = exact("ckks", 7)

    def alter(phase: str, site: str, packet: Packet) -> Packet:
        if phase != "advertise":
            return packet
        others[site] = BlindAdvert.decode(packet.head)
        if site != LIAR:
            return packet
        true, theirs = others[site], others["site-01"]
        key = theirs.blind_key if of == "blind_key" else getattr(theirs.advert, of)
        if into == "blind_key":
            bad = replace(true, blind_key=key)
        else:
            bad = replace(true, advert=replace(true.advert, **{into: key}))
        return Packet(signed_advert(round_, round_.consortium.keys[LIAR], bad).encode())

    round_.alter_reply = alter
    round_.run()
    assert_named(round_, FaultySite, "another site's key")


def test_blind_boxes_that_are_not_one_for_every_other_site_drop_their_dealer() -> None:
    def fewer(_: Round, packet: Packet) -> Packet:
        message = BlindShares.decode(packet.head)
        return Packet(replace(message, boxes=message.boxes[1:]).encode())

    def elsewhere(_: Round, packet: Packet) -> Packet:
        message = BlindShares.decode(packet.head)
        boxes = (*message.boxes[1:], BlindBox("site-99", message.boxes[0].ciphertext))
        return Packet(replace(message, boxes=boxes).encode())

    def bare(_: Round, packet: Packet) -> Packet:
        return Packet(BlindShares.decode(packet.head).shares.encode())

    assert_named(lying("share", fewer), FaultySite, "one blind box to every other site")
    assert_named(lying("share", elsewhere), FaultySite, "one blind box to every other site")
    assert_named(lying("share", bare), Malformed, "")


@pytest.mark.parametrize("phase", ["advertise", "share"])
def test_a_second_answer_after_one_that_was_refused_for_its_masked_part_counts_for_nothing(phase: str) -> None:
    """Were it taken without its blind part, the roster would pair it with the refused one, and every site refuse."""
    round_ = exact("ckks", 7).until(phase)
    replies = []
    for site, packet in round_.server.requests().items():
        reply = round_.clients[site].handle(packet)
        if site != LIAR:
            replies.append((site, reply))
            continue
        message = BlindAdvert.decode(reply.head) if phase == "advertise" else BlindShares.decode(reply.head)
        if isinstance(message, BlindAdvert):
            keys, inner = round_.consortium.keys[LIAR], message.advert
            bad = replace(message, advert=replace(inner, signature=flipped(inner.signature)))
            signature = keys.sign(b"secagg-lora/v1 sig blind advert\x00", round_.context.digest, bad.unsigned())
            replies += [(site, Packet(replace(bad, signature=signature).encode())), (site, Packet(inner.encode()))]
        else:
            statement = message.shares.statement
            bad_shares = replace(message.shares, statement=replace(statement, signature=flipped(statement.signature)))
            replies += [(site, Packet(replace(message, shares=bad_shares).encode())),
                        (site, Packet(message.shares.encode()))]  # fmt: skip
    assert isinstance(round_.server, CkksServer)
    round_.server.receive(replies)
    round_.run()
    assert_named(round_, FaultyPeerOrServer, "is not signed")


# ------------------------------------------------------------------ a server that leaves the blind part away


def test_requests_of_masked_mode_without_their_blind_part_are_refused() -> None:
    """A site that took them would send a vector that it and its peers cannot open."""
    round_ = scene("share")
    inner = KeyRoster(tuple(each.advert for each in roster_of(round_).adverts))
    refuses(round_, inner, Malformed, "no request of ckks mode")
    round_ = scene("mask")
    refuses(round_, bundle_of(round_).bundle, Malformed, "no request of ckks mode")


def test_a_share_set_that_is_too_small_is_refused_with_its_blind_boxes() -> None:
    round_ = scene("mask", n=7)
    bundle = bundle_of(round_)
    few = bundle.bundle.statements[:4]
    names = {each.site for each in few} - {ME}
    lie = BlindBundle(
        replace(bundle.bundle, statements=few, boxes=tuple(b for b in bundle.bundle.boxes if b.site in names)),
        tuple(b for b in bundle.boxes if b.site in names),
    )
    refuses(round_, lie, Refused, "share set of 4 is below 5")
