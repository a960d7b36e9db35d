"""What a site may try on the server: its reply is refused, it is named, and the others' sum stays exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Misuse, TooFewSites
from secagg.masked.messages import (
    KeyAdvert,
    MaskedVector,
    Projections,
    SealedShares,
    Share,
    SurvivorSignature,
    UnmaskShares,
    boxes_digest,
)
from secagg.masked.server import MaskedServer
from secagg.masked.states import Advertised, Shared, decode_state
from secagg.primitives.shamir import split
from secagg.session import InMemory, Packet
from tests.contract.test_sums import assert_exact, exact
from tests.masked.stage import PHASES, client_of, flipped, resigned
from tests.sim import Consortium, Dice, Round, federation

LIAR = "site-03"
REPLY_OF = {
    "advertise": KeyAdvert,
    "share": SealedShares,
    "mask": MaskedVector,
    "consent": SurvivorSignature,
    "unmask": UnmaskShares,
    "check": Projections,
}
AFTER_MASKING = ("consent", "unmask", "check")  # a site that fails here is in the sum all the same


def lying(phase: str, lie: Callable[[Round, Packet], Packet], n: int = 7) -> Round:
    """A finished round in which one site's reply of one phase was replaced."""
    round_ = exact("masked", n)
    round_.alter_reply = lambda now, site, packet: lie(round_, packet) if (now, site) == (phase, LIAR) else packet
    round_.run()
    return round_


def assert_named(round_: Round, error: type[Exception], rule: str, *, in_sum: bool = False) -> None:
    """The liar is named for this reason, alone, and the sum is exact over all others."""
    assert set(round_.server.faults) == {LIAR}
    fault = round_.server.faults[LIAR]
    assert type(fault) is error, fault
    assert rule in str(fault)
    assert_exact(round_)
    assert (LIAR in round_.server.result().contributors) == in_sum


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("head", [b"", b"\x80", b"\x81\x0b", bytes(1 << 21), b"\x9f\xff"])
def test_garbage_in_any_phase_counts_as_a_dropout(phase: str, head: bytes) -> None:
    round_ = lying(phase, lambda _, packet: Packet(head, packet.words))
    assert_named(round_, Malformed, "", in_sum=phase in AFTER_MASKING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_truncated_reply_counts_as_a_dropout(phase: str) -> None:
    round_ = lying(phase, lambda _, packet: Packet(packet.head[:-1], packet.words))
    assert_named(round_, Malformed, "", in_sum=phase in AFTER_MASKING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_reply_under_another_sites_name_counts_as_a_dropout(phase: str) -> None:
    def lie(_: Round, packet: Packet) -> Packet:
        message = REPLY_OF[phase].decode(packet.head)
        if isinstance(message, SealedShares):
            return Packet(replace(message, statement=replace(message.statement, site="site-01")).encode())
        return Packet(replace(message, site="site-01").encode(), packet.words)

    assert_named(lying(phase, lie), FaultySite, "in another site's name", in_sum=phase in AFTER_MASKING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_reply_with_a_false_signature_counts_as_a_dropout(phase: str) -> None:
    def lie(_: Round, packet: Packet) -> Packet:
        message = REPLY_OF[phase].decode(packet.head)
        if isinstance(message, SealedShares):
            bad = replace(message.statement, signature=flipped(message.statement.signature))
            return Packet(replace(message, statement=bad).encode())
        return Packet(replace(message, signature=flipped(message.signature)).encode(), packet.words)

    round_ = lying(phase, lie)
    assert_named(round_, FaultyPeerOrServer, "is not signed", in_sum=phase in AFTER_MASKING)


@pytest.mark.parametrize("phase", PHASES)
def test_a_reply_replayed_from_an_earlier_attempt_counts_as_a_dropout(phase: str) -> None:
    kept: list[Packet] = []

    def keep(now: str, site: str, packet: Packet) -> Packet:
        if (now, site) == (phase, LIAR):
            kept.append(packet)
        return packet

    first = federation(7, alter_reply=keep)
    first.run()
    context = first.consortium.context(first.context.manifest, attempt=2)
    second = Round(first.consortium, context, first.updates)
    second.alter_reply = lambda now, site, packet: kept[0] if (now, site) == (phase, LIAR) else packet
    second.run()
    assert set(second.server.faults) == {LIAR}
    assert (LIAR in second.server.result().contributors) == (phase in AFTER_MASKING)


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "mask"])
def test_words_beside_any_other_reply_than_the_vector_are_refused(phase: str) -> None:
    round_ = lying(phase, lambda _, packet: Packet(packet.head, np.ones(3, np.uint64)))
    assert_named(round_, Malformed, "only a masked vector", in_sum=phase in AFTER_MASKING)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (lambda words: None, Misuse),
        (lambda words: words[:-1], Misuse),
        (lambda words: np.append(words, words[:1]), Misuse),
        (lambda words: words.astype(np.uint32), Misuse),
        (lambda words: words.reshape(1, -1), Misuse),
        (lambda words: words + np.uint64(1), FaultySite),
        (lambda words: words[::-1].copy(), FaultySite),
    ],
    ids=["none", "short", "long", "narrow", "matrix", "altered", "reordered"],
)
def test_words_that_are_not_the_signed_ones_never_enter_the_sum(words, error: type[Exception]) -> None:
    round_ = lying("mask", lambda _, packet: Packet(packet.head, words(packet.words)))
    assert_named(round_, error, "words")


def test_a_vector_over_another_share_set_never_enters_the_sum() -> None:
    def lie(round_: Round, packet: Packet) -> Packet:
        message = MaskedVector.decode(packet.head)
        other = replace(message, share_set=flipped(message.share_set))
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], other).encode(), packet.words)

    assert_named(lying("mask", lie), FaultySite, "another share set")


@pytest.mark.parametrize(
    ("name", "key", "rule"),
    [
        ("mask_key", bytes(32), "low order"),
        ("share_key", (1).to_bytes(32, "little"), "low order"),
        ("mask_key", bytes(31) + b"\xff", "one encoding"),
    ],
)
def test_a_bad_key_drops_its_site_before_it_can_spoil_anybodys_round(name: str, key: bytes, rule: str) -> None:
    def lie(round_: Round, packet: Packet) -> Packet:
        advert = replace(KeyAdvert.decode(packet.head), **{name: key})
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], advert).encode())

    assert_named(lying("advertise", lie), FaultySite, rule)


@pytest.mark.parametrize("theirs", ["share_key", "mask_key"])
def test_a_site_that_advertises_anothers_key_is_dropped(theirs: str) -> None:
    others: dict[str, KeyAdvert] = {}
    round_ = exact("masked", 7)

    def alter(phase: str, site: str, packet: Packet) -> Packet:
        if phase != "advertise":
            return packet
        others[site] = KeyAdvert.decode(packet.head)
        if site != LIAR:
            return packet
        copied = replace(others[site], mask_key=getattr(others["site-01"], theirs))
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], copied).encode())

    round_.alter_reply = alter
    round_.run()
    assert_named(round_, FaultySite, "another site's key")


def test_boxes_other_than_the_signed_ones_or_not_one_for_each_are_refused() -> None:
    def altered(_: Round, packet: Packet) -> Packet:
        message = SealedShares.decode(packet.head)
        first = replace(message.boxes[0], ciphertext=flipped(message.boxes[0].ciphertext))
        return Packet(replace(message, boxes=(first, *message.boxes[1:])).encode())

    def fewer(round_: Round, packet: Packet) -> Packet:
        message = SealedShares.decode(packet.head)
        statement = replace(message.statement, boxes=boxes_digest(message.boxes[1:]))
        signed = resigned(round_.context, round_.consortium.keys[LIAR], statement)
        return Packet(SealedShares(signed, message.boxes[1:]).encode())

    def elsewhere(round_: Round, packet: Packet) -> Packet:
        message = SealedShares.decode(packet.head)
        statement = replace(message.statement, key_roster=bytes(32))
        signed = resigned(round_.context, round_.consortium.keys[LIAR], statement)
        return Packet(SealedShares(signed, message.boxes).encode())

    assert_named(lying("share", altered), FaultySite, "not those it signed")
    assert_named(lying("share", fewer), FaultySite, "one box to every other site")
    assert_named(lying("share", elsewhere), FaultyPeerOrServer, "another key roster")


def test_a_signature_on_another_survivor_set_is_refused() -> None:
    def lie(round_: Round, packet: Packet) -> Packet:
        message = replace(SurvivorSignature.decode(packet.head), survivor_set=bytes(32))
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], message).encode())

    assert_named(lying("consent", lie), FaultySite, "another survivor set", in_sum=True)


def test_unmask_shares_for_other_sites_or_another_set_are_refused() -> None:
    def for_set(round_: Round, packet: Packet) -> Packet:
        message = replace(UnmaskShares.decode(packet.head), survivor_set=bytes(32))
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], message).encode())

    def fewer(round_: Round, packet: Packet) -> Packet:
        message = UnmaskShares.decode(packet.head)
        message = replace(message, seeds=message.seeds[1:])
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], message).encode())

    def both(round_: Round, packet: Packet) -> Packet:
        message = UnmaskShares.decode(packet.head)
        message = replace(message, keys=message.seeds[:1])
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], message).encode())

    assert_named(lying("unmask", for_set), FaultySite, "another survivor set", in_sum=True)
    assert_named(lying("unmask", fewer), FaultySite, "one seed share per survivor", in_sum=True)
    assert_named(lying("unmask", both), FaultySite, "one key share per dropout", in_sum=True)


def false_shares(round_: Round, site: str, packet: Packet, name: str) -> Packet:
    """The site's unmask shares with every share under `name` replaced by another field element."""
    message = UnmaskShares.decode(packet.head)
    lies = tuple(Share(each.site, flipped(each.share)) for each in getattr(message, name))
    return Packet(resigned(round_.context, round_.consortium.keys[site], replace(message, **{name: lies})).encode())


@pytest.mark.parametrize("name", ["seeds", "keys"])
@pytest.mark.parametrize("liars", [("site-01",), ("site-04",), ("site-01", "site-05")])
def test_false_unmask_shares_are_named_and_the_sum_is_still_exact(name: str, liars: tuple[str, ...]) -> None:
    """Ten sites, threshold 7: eight survivors, or nine, leave one or two shares to spare."""
    round_ = exact("masked", 10)
    round_.drop = {"mask": ["site-10"]}
    round_.alter_reply = lambda phase, site, packet: (
        false_shares(round_, site, packet, name) if phase == "unmask" and site in liars else packet
    )
    round_.run()
    assert set(round_.server.faults) == set(liars)
    assert all(type(fault) is FaultySite for fault in round_.server.faults.values())
    assert all("a false share of" in str(fault) for fault in round_.server.faults.values())
    assert_exact(round_)


def test_a_share_that_is_no_field_element_is_named() -> None:
    def lie(round_: Round, packet: Packet) -> Packet:
        message = UnmaskShares.decode(packet.head)
        seeds = tuple(Share(each.site, b"\xff" * 33) for each in message.seeds)
        message = replace(message, seeds=seeds)
        return Packet(resigned(round_.context, round_.consortium.keys[LIAR], message).encode())

    assert_named(lying("unmask", lie), FaultySite, "a false share of site-01's secret", in_sum=True)


def test_more_liars_than_shares_to_spare_end_the_attempt_without_a_sum() -> None:
    round_ = exact("masked", 5)  # threshold 4: one share to spare
    round_.alter_reply = lambda phase, site, packet: (
        false_shares(round_, site, packet, "seeds") if phase == "unmask" and site in ("site-01", "site-02") else packet
    )
    with pytest.raises(FaultySite, match="do not belong together, or more givers lie"):
        round_.run()
    assert not round_.server.done
    with pytest.raises(Misuse):
        round_.server.receive([])


def test_the_search_for_liars_ends_although_shares_are_left_to_spare() -> None:
    """Three of ten lie, and three shares are to spare: told apart they could be, at a cost that grows with n^3."""
    round_ = exact("masked", 10)
    liars = ("site-01", "site-04", "site-05")
    round_.alter_reply = lambda phase, site, packet: (
        false_shares(round_, site, packet, "seeds") if phase == "unmask" and site in liars else packet
    )
    with pytest.raises(FaultySite, match="do not belong together, or more givers lie than can be named"):
        round_.run()


def dealing(n: int, wronged: set[str]) -> Round:
    """A round in which one site deals shares of another seed than it committed to, to the wronged sites."""
    round_ = exact("masked", n)
    saved: list[bytes] = []

    def before(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) == ("share", LIAR):
            saved.append(round_.clients[LIAR].to_bytes())
        return packet

    def after(phase: str, site: str, packet: Packet) -> Packet:
        if (phase, site) != ("share", LIAR):
            return packet
        advertised, shared = (decode_state(blob[32:]) for blob in (*saved, round_.clients[LIAR].to_bytes()))
        assert isinstance(advertised, Advertised)
        assert isinstance(shared, Shared)
        return falsely_dealt(round_, advertised, shared, wronged)

    round_.alter_request, round_.alter_reply = before, after
    return round_


def falsely_dealt(round_: Round, advertised: Advertised, shared: Shared, wronged: set[str]) -> Packet:
    """What the cheating dealer sends: it has its own keys, so it seals and signs whatever it likes."""
    client, context = client_of(round_, LIAR), round_.context
    names = [each.site for each in shared.adverts]
    points = [context.points[name] for name in names]
    key_shares, seed_shares = client._deal(advertised, names)
    other = split(Dice("other")(32), context.manifest.threshold, points, Dice(0))
    seed_shares |= {name: other[context.points[name]] for name in wronged}
    boxes = client._seal(advertised, shared.adverts, shared.statement.key_roster, key_shares, seed_shares)
    statement = replace(shared.statement, boxes=boxes_digest(boxes))
    statement = resigned(context, round_.consortium.keys[LIAR], statement)
    own = {"own_key_share": key_shares[LIAR], "own_seed_share": seed_shares[LIAR]}
    client._state = replace(shared, statement=statement, **own)
    return Packet(SealedShares(statement, boxes).encode())


def test_a_dealer_of_shares_that_do_not_belong_together_is_named() -> None:
    round_ = dealing(7, {"site-01", "site-02", "site-04", "site-05"})
    with pytest.raises(FaultySite, match="its shares do not belong together") as caught:
        round_.run()
    assert caught.value.site == LIAR


def test_a_dealer_that_wrongs_one_site_cannot_stop_the_round() -> None:
    """Server and wronged site cannot show who lied, so the error says both; the sum is exact."""
    round_ = dealing(7, {"site-02"})
    round_.run()
    assert set(round_.server.faults) == {"site-02"}
    assert f"it gave (or {LIAR} dealt it) a false share" in str(round_.server.faults["site-02"])
    assert_exact(round_)


def test_a_second_or_unasked_answer_does_not_count() -> None:
    round_ = exact("masked", 5)
    server = round_.server
    assert isinstance(server, MaskedServer)
    adverts = {site: round_.clients[site].handle(packet) for site, packet in server.requests().items()}
    server.receive([*adverts.items(), *adverts.items(), ("site-99", adverts["site-01"])])
    assert set(server.faults) == {*round_.consortium.names, "site-99"}
    assert all("nobody asked for" in str(fault) for fault in server.faults.values())
    round_.run()
    assert_exact(round_)


def test_a_vector_sent_twice_is_summed_once() -> None:
    round_ = exact("masked", 5).until("mask")
    replies = {site: round_.clients[site].handle(packet) for site, packet in round_.server.requests().items()}
    round_.server.receive([*replies.items(), *replies.items()])
    round_.run()
    assert_exact(round_)


def test_a_quorum_that_cannot_unmask_is_not_asked_to_spend_its_shares() -> None:
    """With t above q, q signers would release shares that restore nothing, and could not try again."""
    consortium = Consortium(9)
    manifest = consortium.manifest(8, colluders=1, dropouts=1, threshold=8, least_survivors=8)
    assert (manifest.quorum, manifest.threshold) == (6, 8)
    context = consortium.context(manifest)
    round_ = Round(consortium, context, exact("masked", 9, size=8).updates)
    round_.drop = {"consent": ["site-01", "site-02"]}
    with pytest.raises(TooFewSites):
        round_.run()
    assert round_.released() == set()


def test_a_server_session_refuses_a_cohort_that_cannot_succeed() -> None:
    consortium = Consortium(7)
    context = consortium.context(consortium.manifest(8), cohort=consortium.names[:4])
    with pytest.raises(TooFewSites):
        MaskedServer(context, consortium.server_keys, InMemory())
