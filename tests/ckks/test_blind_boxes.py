"""What the blind pad adds to masked mode's trips: whoever lies in it is refused or dropped by name (spec §13.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks.client import CkksClient
from secagg.ckks.messages import BlindAdvert, BlindBundle, BlindRoster, BlindShares
from secagg.ckks.states import Blind, Opening
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Sealed, SecAggError
from secagg.labels import SIGN_BLIND_ADVERT
from secagg.session import Packet
from tests.masked.stage import flipped, refuses, swapped, without
from tests.sim import Round, federation

ME, PEER, OTHER = "site-02", "site-01", "site-03"


def scene(phase: str, **options: object) -> Round:
    """A round whose server is about to send the phase's requests."""
    return federation(5, 8, manifest={"scheme": "ckks"}, **options).until(phase)


def roster(round_: Round) -> BlindRoster:
    return BlindRoster.decode(round_.server.requests()[ME].head)


def bundle(round_: Round) -> BlindBundle:
    return BlindBundle.decode(round_.server.requests()[ME].head)


def signed(round_: Round, message: BlindAdvert, **changes: object) -> BlindAdvert:
    """The message with these fields, under its site's signature."""
    draft = replace(message, **changes)  # type: ignore[arg-type]
    signature = round_.consortium.keys[draft.site].sign(SIGN_BLIND_ADVERT, round_.context.digest, draft.unsigned())
    return replace(draft, signature=signature)


def client(round_: Round, site: str) -> CkksClient:
    found = round_.clients[site]
    assert isinstance(found, CkksClient)
    return found


# ------------------------------------------------------------------ at a site


@pytest.mark.parametrize("phase", ["advertise", "share", "mask"])
def test_a_request_that_carries_a_vector_is_refused(phase: str) -> None:
    round_ = scene(phase)
    head = round_.server.requests()[ME].head
    refuses(round_, Packet(head, np.zeros(1, np.uint64)), Malformed, "carries a vector")


LIES: dict[str, tuple[Callable[[Round, dict[str, BlindAdvert]], BlindAdvert], type[SecAggError], str]] = {
    "unsigned": (
        lambda round_, by: replace(by[PEER], signature=flipped(by[PEER].signature)),
        FaultyPeerOrServer, "site-01: its BlindAdvert is not signed",
    ),
    "around another site's advert": (
        lambda round_, by: signed(round_, by[PEER], advert=by[OTHER].advert),
        FaultySite, "in another site's name",
    ),
    "key of low order": (
        lambda round_, by: signed(round_, by[PEER], blind_key=bytes(32)), FaultySite, "it advertises a bad key",
    ),
    "its share key again": (
        lambda round_, by: signed(round_, by[PEER], blind_key=by[PEER].advert.share_key),
        FaultySite, "one key for two uses",
    ),
    "its mask key again": (
        lambda round_, by: signed(round_, by[PEER], blind_key=by[PEER].advert.mask_key),
        FaultySite, "one key for two uses",
    ),
    "another site's blind key": (
        lambda round_, by: signed(round_, by[PEER], blind_key=by[OTHER].blind_key),
        FaultyServer, "one key of two sites",
    ),
    "another site's mask key": (
        lambda round_, by: signed(round_, by[PEER], blind_key=by[OTHER].advert.mask_key),
        FaultyServer, "one key of two sites",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_site_takes_no_roster_with_a_false_blind_advert(lie: str) -> None:
    round_ = scene("share")
    adverts = roster(round_).adverts
    advert, error, rule = LIES[lie]
    false = advert(round_, {each.site: each for each in adverts})
    refuses(round_, BlindRoster(swapped(adverts, PEER, false)), error, rule)


def test_every_blind_box_of_the_share_set_must_come_and_no_other() -> None:
    round_ = scene("mask")
    message = bundle(round_)
    first = message.boxes[0]
    more = tuple(sorted((*message.boxes, replace(first, site=ME)), key=lambda each: each.site))
    renamed = (first, replace(first, site=ME), *message.boxes[2:])
    for boxes in (without(message.boxes, PEER), (), more, renamed):
        refuses(round_, replace(message, boxes=boxes), FaultyServer, "not one from every other site")


def test_a_blind_box_altered_or_sealed_for_another_site_is_refused_and_names_its_sender() -> None:
    round_ = scene("mask")
    message = bundle(round_)
    of_other = BlindBundle.decode(round_.server.requests()[OTHER].head)
    box = next(each for each in message.boxes if each.site == PEER)
    for ciphertext in (
        flipped(box.ciphertext),
        next(each.ciphertext for each in of_other.boxes if each.site == PEER),
        next(each.ciphertext for each in message.boxes if each.site == OTHER),
    ):
        boxes = swapped(message.boxes, PEER, replace(box, ciphertext=ciphertext))
        error = refuses(round_, replace(message, boxes=boxes), FaultyPeerOrServer, "blind box does not open")
        assert getattr(error, "site", "") == PEER


def test_a_site_that_deals_another_blind_seed_than_it_committed_to_is_named() -> None:
    """Else it could leave everybody with a sum that nobody can open."""
    round_ = scene("share")
    liar = client(round_, PEER)
    liar._state = replace(liar._state, seeds=(Blind(PEER, bytes(32)),))
    round_.until("mask")
    error = refuses(round_, bundle(round_), FaultySite, "not the one it committed to")
    assert getattr(error, "site", "") == PEER


def test_blind_boxes_are_opened_once() -> None:
    round_ = scene("mask")
    message = bundle(round_)
    round_.clients[ME].handle(Packet(message.encode()))
    assert client(round_, ME)._state.blind_secret == b""
    refuses(round_, message, FaultyServer, "outside the key roster, or twice")


def test_a_blind_box_of_a_site_outside_the_key_roster_is_refused() -> None:
    round_ = scene("mask", drop={"advertise": ["site-05"]})
    message = bundle(round_)
    statements, boxes = message.bundle.statements, message.boxes
    more = replace(message.bundle, statements=(*statements, replace(statements[-1], site="site-05")))
    stranger = replace(message, bundle=more, boxes=(*boxes, replace(boxes[-1], site="site-05")))
    refuses(round_, stranger, FaultyServer, "outside the key roster, or twice")


# ------------------------------------------------------------------ at the server


def answers(round_: Round) -> dict[str, Packet]:
    return {site: round_.clients[site].handle(request) for site, request in round_.server.requests().items()}


def test_an_advert_sent_under_another_sites_name_costs_its_sender_and_nobody_else() -> None:
    round_ = scene("advertise")
    replies = answers(round_)
    round_.server.receive({**replies, PEER: replies[ME]}.items())
    assert set(round_.server.faults) == {PEER}
    assert set(round_.server.requests()) == set(round_.consortium.names) - {PEER}


@pytest.mark.parametrize("which", ["blind", "share", "mask", "unsigned"])
def test_a_blind_key_that_another_site_has_already_or_that_nobody_signed_costs_its_site_the_round(which: str) -> None:
    """Else every other site would refuse the key roster, and one site could stop all rounds."""
    round_ = scene("advertise")
    replies = answers(round_)
    first, later = (BlindAdvert.decode(replies[site].head) for site in (PEER, OTHER))
    key = {"blind": first.blind_key, "share": first.advert.share_key, "mask": first.advert.mask_key}.get(which)
    false = replace(later, signature=bytes(64)) if key is None else signed(round_, later, blind_key=key)
    round_.server.receive({**replies, OTHER: Packet(false.encode())}.items())
    assert set(round_.server.faults) == {OTHER}
    done = round_.run()
    assert done.contributors == tuple(each for each in round_.consortium.names if each != OTHER)
    assert round_.mean(done).contributors == done.contributors


def test_a_site_that_deals_too_few_blind_boxes_is_dropped() -> None:
    def lie(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) != ("share", OTHER):
            return packet
        message = BlindShares.decode(packet.head)
        return Packet(replace(message, boxes=message.boxes[1:]).encode())

    round_ = scene("advertise", alter_reply=lie)
    done = round_.run()
    assert set(round_.server.faults) == {OTHER}
    assert done.contributors == tuple(each for each in round_.consortium.names if each != OTHER)


# ------------------------------------------------------------------ who can open the sum


def test_without_an_opening_or_with_one_that_lacks_a_survivor_the_sum_stays_sealed() -> None:
    round_ = scene("advertise")
    aggregate = round_.run().payload
    whole = Opening.decode(round_.opening(round_.clients[ME].to_bytes()))
    assert round_.scheme.open(round_.site_context, aggregate, whole.encode()).contributors == round_.consortium.names
    lacking = Opening(without(whole.seeds, PEER))
    for opening, rule in ((b"", "lacks a survivor's blind seed"), (lacking.encode(), "lacks a survivor's blind seed")):
        with pytest.raises(Sealed, match=rule):
            round_.scheme.open(round_.site_context, aggregate, opening)


def test_the_state_of_another_attempt_gives_no_opening() -> None:
    round_ = scene("consent")
    state = round_.clients[ME].to_bytes()
    assert round_.opening(state)
    other = replace(round_.consortium.context(round_.context.manifest, attempt=2), cohort=())
    with pytest.raises(Malformed, match="another attempt"):
        round_.scheme.opening(other, round_.consortium.keys[ME], state)
