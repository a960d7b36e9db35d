"""Can bad keys or bad shares open a mask, spoil a round unnoticed, or put the blame on somebody else?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, SecAggError
from secagg.masked.messages import KeyAdvert, KeyRoster, Share, ShareBundle, UnmaskShares
from secagg.masked.server import MaskedServer
from secagg.masked.states import Advertised
from secagg.primitives.agreement import agree
from secagg.session import Packet
from tests.adversaries.lab import Attempt, Lab, Story
from tests.adversaries.worlds import views_are_identical
from tests.masked.stage import flipped, resigned, swapped
from tests.sim import Dice, Round, federation

pytestmark = pytest.mark.usefixtures("scheme")

LIAR, ME, PEER = "site-07", "site-02", "site-03"
WHOLE = Story.of(*(f"site-{i:02d}" for i in range(1, 8)))
P = 2**255 - 19

LOW_ORDER = {
    "zero": 0,
    "one": 1,
    "of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "of order 8, the other": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "of order 4": P - 1,
}
SECOND_ENCODINGS = {"p": P, "p + 1": P + 1, "nine with the top bit": 9 + 2**255, "p + 9": P + 9}


# ---------------------------------------------------------------------- keys


@pytest.mark.parametrize("use", ["share_key", "mask_key"])
@pytest.mark.parametrize("name", [*LOW_ORDER, *SECOND_ENCODINGS])
def test_a_colluders_key_of_low_order_or_in_a_second_encoding_is_refused_by_every_site_and_names_it(
    name: str, use: str
) -> None:
    """Signed by the roster's key, as an honest advert is: masks and boxes with it would be known to everybody."""
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    bad = {**LOW_ORDER, **SECOND_ENCODINGS}[name].to_bytes(32, "little")
    adverts = attempt.roster(WHOLE)
    lie = resigned(attempt.context, lab.consortium.keys[LIAR], replace(adverts[-1], **{use: bad}))
    for site in lab.honest:
        message = KeyRoster(swapped(adverts, LIAR, lie))
        error = attempt.refuses(site, message, FaultySite, f"{LIAR}: it advertises a bad key")
        assert error.site == LIAR  # type: ignore[attr-defined]
    assert not attempt.sealed


def test_a_swapped_advert_is_refused_by_every_site_before_it_deals_a_share() -> None:
    """The man in the middle: keys of the server's own in the place of a site's. It cannot sign them."""
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    adverts = attempt.roster(WHOLE)
    theirs = next(each for each in adverts if each.site == PEER)
    mine = lab.view.colluders[LIAR].advert(attempt.context, variant=9)
    swap = replace(theirs, share_key=mine.share_key, mask_key=mine.mask_key)
    for lie in (swap, resigned(attempt.context, lab.consortium.keys[LIAR], swap), replace(mine, site=PEER)):
        for site in set(lab.honest) - {PEER}:
            attempt.refuses(site, KeyRoster(swapped(adverts, PEER, lie)), FaultyPeerOrServer, "is not signed")
        attempt.refuses(PEER, KeyRoster(swapped(adverts, PEER, lie)), FaultyPeerOrServer, "is not signed")
    assert not attempt.sealed


def inverse(key: bytes) -> bytes:
    """The key plus the point of order 2, in Montgomery's form 1 / x: another encoding with the same agreements."""
    return pow(int.from_bytes(key, "little"), -1, P).to_bytes(32, "little")


def twisted(lab: Lab) -> None:
    """A colluder advertises a site's mask key plus a point of low order: everybody agrees with it as with that site."""
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    mine = lab.view.colluders[LIAR].advert(attempt.context)
    lie = replace(mine, mask_key=inverse(attempt.adverts[PEER].mask_key))
    attempt.adverts[LIAR] = resigned(attempt.context, lab.consortium.keys[LIAR], lie)
    for phase in (attempt.share, attempt.mask, attempt.consent, attempt.unmask):
        phase(WHOLE)
    assert set(attempt.shares) == set(lab.honest)  # nobody can see it, and nothing comes of it


def test_keys_that_agree_like_another_sites_make_other_masks_and_open_nothing() -> None:
    """X25519 cannot tell K from K plus a point of low order; places in the derivation of seeds and box keys can."""
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt()
    attempt.advertise(ME, PEER)
    secret = Dice("any")(32)
    key = attempt.adverts[PEER].mask_key
    assert inverse(key) != key
    assert agree(secret, inverse(key)) == agree(secret, key)
    known = views_are_identical(twisted, n=7, colluding=(LIAR,))
    assert not known.both()
    assert known.open_to() == []


@pytest.mark.parametrize("use", ["share_key", "mask_key"])
def test_a_copied_key_is_refused_by_every_site(use: str) -> None:
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    adverts = attempt.roster(WHOLE)
    copied = replace(adverts[-1], **{use: getattr(attempt.adverts[PEER], use)})
    lie = resigned(attempt.context, lab.consortium.keys[LIAR], copied)
    for site in lab.honest:
        attempt.refuses(site, KeyRoster(swapped(adverts, LIAR, lie)), FaultyServer, "one key of two sites")


# ---------------------------------------------------------------------- reflection


def test_nothing_of_a_site_is_taken_for_another_sites_when_it_comes_back() -> None:
    """Its advert, statement, vector and boxes under its own name or a peer's, instead of the peer's."""
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt()
    attempt.advertise(*lab.honest)
    adverts = attempt.roster(WHOLE)
    mine = replace(attempt.adverts[ME], site=PEER)
    attempt.refuses(ME, KeyRoster(swapped(adverts, PEER, mine)), FaultyPeerOrServer, f"{PEER}: .* not signed")
    attempt.share(WHOLE)
    bundle = attempt.bundle(WHOLE, ME)
    statement = replace(attempt.sealed[ME].statement, site=PEER)
    lie = replace(bundle, statements=swapped(bundle.statements, PEER, statement))
    attempt.refuses(ME, lie, FaultyPeerOrServer, f"{PEER}: .* not signed")
    own = next(box for box in attempt.sealed[ME].boxes if box.site == PEER)
    reflected = replace(bundle, boxes=swapped(bundle.boxes, PEER, own))
    attempt.refuses(ME, reflected, FaultyPeerOrServer, f"{PEER}: its box of shares does not open")
    assert not attempt.vectors


# ---------------------------------------------------------------------- boxes on their way


def boxes_of(attempt: Attempt, receiver: str) -> dict[str, bytes]:
    return {each.site: each.ciphertext for each in attempt.bundle(WHOLE, receiver).boxes}


def test_a_box_that_is_tampered_with_swapped_or_meant_for_another_is_refused_and_names_its_sender() -> None:
    lab = Lab(7, (LIAR,))
    attempt = lab.attempt().run(WHOLE, "share")
    bundle, mine, theirs = attempt.bundle(WHOLE, ME), boxes_of(attempt, ME), boxes_of(attempt, "site-01")
    later = Lab(7, (LIAR,)).attempt(2).run(WHOLE, "share")
    lies = {
        "a bit of the key share": flipped(mine[PEER], 0), "a bit of the seed share": flipped(mine[PEER], 40),
        "a bit of the tag": flipped(mine[PEER]), "of another sender": mine["site-04"],
        "for another receiver": theirs[PEER], "of another attempt": boxes_of(later, ME)[PEER],
    }  # fmt: skip
    for lie in lies.values():
        told = replace(bundle, boxes=tuple(replace(b, ciphertext=lie) if b.site == PEER else b for b in bundle.boxes))
        error = attempt.refuses(ME, told, FaultyPeerOrServer, f"{PEER}: its box of shares does not open")
        assert error.site == PEER  # type: ignore[attr-defined]
    exchanged = {PEER: mine["site-04"], "site-04": mine[PEER]}
    boxes = tuple(replace(b, ciphertext=exchanged.get(b.site, b.ciphertext)) for b in bundle.boxes)
    attempt.refuses(ME, ShareBundle(bundle.statements, boxes), FaultyPeerOrServer, "does not open")
    assert ME not in attempt.vectors


# ---------------------------------------------------------------------- shares that do not fit

GIVER = "site-01"  # among the t lowest places, whose shares are combined: later ones are looked at only if these lie


def between(shares: tuple[Share, ...], one: str, other: str) -> tuple[Share, ...]:
    """The shares of two owners exchanged."""
    of = {each.site: each.share for each in shares}
    of[one], of[other] = of[other], of[one]
    return tuple(Share(site, share) for site, share in sorted(of.items()))


LIES: dict[str, Callable[[UnmaskShares], UnmaskShares]] = {
    "altered": lambda told: replace(told, seeds=swapped(told.seeds, ME, Share(ME, flipped(told.seeds[1].share)))),
    "of one owner for another's": lambda told: replace(told, seeds=between(told.seeds, ME, PEER)),
    "one more than the truth": lambda told: replace(told, seeds=swapped(told.seeds, ME, Share(ME, raised(told)))),
    "no field element": lambda told: replace(told, seeds=swapped(told.seeds, ME, Share(ME, b"\xff" * 33))),
}


def raised(told: UnmaskShares) -> bytes:
    return (int.from_bytes(told.seeds[1].share, "big") + 1).to_bytes(33, "big")


def round_of_seven() -> Round:
    """A round of the test's scheme."""
    return federation(7, manifest={"scheme": Lab.scheme})


def lying(round_: Round, liars: tuple[str, ...], lie: Callable[[UnmaskShares], UnmaskShares]) -> Round:
    def alter(phase: str, site: str, packet: Packet) -> Packet:
        if phase != "unmask" or site not in liars:
            return packet
        told = lie(UnmaskShares.decode(packet.head))
        return Packet(resigned(round_.context, round_.consortium.keys[site], told).encode())

    round_.alter_reply = alter
    return round_


@pytest.mark.parametrize("name", LIES)
def test_a_false_unmask_share_is_found_its_giver_is_named_and_the_sum_is_exact(name: str) -> None:
    honest = round_of_seven().run()
    round_ = lying(round_of_seven(), (GIVER,), LIES[name])
    assert round_.run().payload.words.tobytes() == honest.payload.words.tobytes()  # type: ignore[union-attr]
    assert set(round_.server.faults) == {GIVER}
    assert "false share" in str(round_.server.faults[GIVER])


def test_a_share_of_another_givers_point_is_found_and_its_giver_is_named() -> None:
    """The mis-indexed share: good at another place of the polynomial."""
    taken: dict[str, UnmaskShares] = {}
    first = round_of_seven()
    first.alter_reply = lambda phase, site, packet: note(taken, phase, site, packet)
    honest = first.run()
    round_ = lying(round_of_seven(), (GIVER,), lambda told: replace(told, seeds=taken["site-05"].seeds))
    assert round_.run().payload.words.tobytes() == honest.payload.words.tobytes()  # type: ignore[union-attr]
    assert set(round_.server.faults) == {GIVER}


def note(taken: dict[str, UnmaskShares], phase: str, site: str, packet: Packet) -> Packet:
    if phase == "unmask":
        taken[site] = UnmaskShares.decode(packet.head)
    return packet


def dealt_wrongly(round_: Round) -> Round:
    """The colluder is the real session but for its shares: every site gets the one of another's point."""
    client = round_.until("share").clients[LIAR]
    dealer = getattr(client, "_masked", client)  # whatever its scheme has around it
    deal = dealer._deal

    def wrong(state: Advertised, names: Sequence[str]) -> tuple[dict[str, bytes], ...]:
        return tuple(
            dict(zip(each, [*list(each.values())[1:], *each.values()], strict=False)) for each in deal(state, names)
        )

    dealer._deal = wrong
    return round_


def test_a_dealer_of_shares_at_the_wrong_points_is_named_and_nobody_else() -> None:
    round_ = dealt_wrongly(round_of_seven())
    with pytest.raises(SecAggError) as ended:
        round_.run()
    assert isinstance(ended.value, FaultySite)
    assert ended.value.site == LIAR


def test_the_shares_that_leave_in_a_spoilt_attempt_open_nothing() -> None:
    """A false dealer makes the attempt fail after shares left: what they open is the sum that was agreed to."""

    def spoilt(lab: Lab) -> None:
        attempt = lab.attempt().run(WHOLE)
        attempt.shares.clear()

    known = views_are_identical(spoilt, n=7, colluding=(LIAR, "site-06"))
    assert known.open_to() == [dict.fromkeys(WHOLE.u1[:5], 1)]


@pytest.mark.parametrize("scheme", ["masked"], indirect=True)
def test_an_honest_server_drops_a_site_with_a_bad_key_before_anybody_sees_it() -> None:
    round_ = round_of_seven()
    keys = round_.consortium.keys[LIAR]

    def alter(phase: str, site: str, packet: Packet) -> Packet:
        if phase == "advertise" and site == LIAR:
            bad = replace(KeyAdvert.decode(packet.head), mask_key=bytes(32))
            return Packet(resigned(round_.context, keys, bad).encode())
        return packet

    round_.alter_reply = alter
    assert LIAR not in round_.run().contributors
    assert isinstance(round_.server, MaskedServer)
    assert isinstance(round_.server.faults[LIAR], FaultySite)
