"""What opens a round's sum goes from peer to peer sealed, to a site of the session that asks for it, and only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.public import PrivateKey

from fedclient.site import Site
from secagg.config import Manifest, Policy
from secagg.enrol import OpeningFor, OpeningRequest, OpeningWanted, signed_by
from secagg.errors import FaultyPeerOrServer, FaultySite, Malformed, Refused
from secagg.session import Packet
from tests.federation.direct import Bench, Where
from tests.federation.test_site_edges import ME, asked_for_consent, over

LATE, PEER = "site-03", "site-01"
Ask = Callable[[Site, Site, Packet], None]


@pytest.fixture
def blind(tmp_path: Path) -> Bench:
    """Five sites and a server that reads no sum."""
    return Bench(tmp_path, options={"scheme": "ckks"})


def when_it_lacks_the_sum(bench: Bench, ask: Ask) -> None:
    """Runs a round without LATE; `ask` gets LATE, a peer that opened it, and the server's question, once."""
    asked: list[Packet] = []
    bench.link.offline.add(LATE)

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if (where.kind, where.site) == ("want", LATE) and not asked:
            asked.append(packets[0])
            ask(bench.link.members[LATE], bench.link.members[PEER], packets[0])
        return packets

    def reply(where: Where, packet: Packet) -> Packet:
        if where.asks("check") and where.site == "site-05":
            bench.link.offline.clear()
        return packet

    bench.link.alter_request, bench.link.alter_reply = request, reply
    bench.run(rounds=1, min_sites=4)
    assert asked
    assert [(each["round"], each["site"]) for each in bench.events("lent")] == [(1, LATE)]


def wanted_by(bench: Bench, site: str, session: bytes, attempt: int = 1) -> OpeningWanted:
    """The signed request of a site for what opens round 1."""
    key = bytes(PrivateKey.generate().public_key)
    return signed_by(bench.consortium.keys[site], OpeningWanted(site, session, 1, attempt, key, bytes(64)))


def test_a_site_asks_for_no_round_that_it_has_opened(blind: Bench) -> None:
    questions: list[Packet] = []
    when_it_lacks_the_sum(blind, lambda late, peer, question: questions.append(question))
    with pytest.raises(Refused, match="has opened that round"):
        blind.link.members[LATE].handle("want", questions)


def test_a_site_lends_nothing_of_an_attempt_that_it_did_not_open(blind: Bench) -> None:
    def ask(late: Site, peer: Site, question: Packet) -> None:
        session = OpeningRequest.decode(question.head).session
        with pytest.raises(Refused, match="did not open that round"):
            peer.handle("lend", [Packet(wanted_by(blind, LATE, session, attempt=9).encode())])

    when_it_lacks_the_sum(blind, ask)


def test_what_a_site_borrowed_it_does_not_lend_before_it_has_opened_the_round_itself(blind: Bench) -> None:
    def ask(late: Site, peer: Site, question: Packet) -> None:
        session = OpeningRequest.decode(question.head).session
        lent = peer.handle("lend", [late.handle("want", [question])])
        late.handle("borrow", [question, lent])
        with pytest.raises(Refused, match="did not open that round"):
            late.handle("lend", [Packet(wanted_by(blind, "site-02", session).encode())])

    when_it_lacks_the_sum(blind, ask)


def test_a_request_that_its_site_did_not_sign_gets_nothing(blind: Bench) -> None:
    """Else the server itself could ask, and read the sum."""

    def ask(late: Site, peer: Site, question: Packet) -> None:
        wanted = OpeningWanted.decode(late.handle("want", [question]).head)
        servers = bytes(PrivateKey.generate().public_key)
        with pytest.raises(FaultySite, match="not signed by its key"):
            peer.handle("lend", [Packet(replace(wanted, key=servers).encode())])

    when_it_lacks_the_sum(blind, ask)


def test_a_site_on_the_roster_that_is_not_in_the_session_is_lent_nothing(blind: Bench) -> None:
    blind.policies[ME] = Policy(schemes=("ckks",), whole_roster=False)
    blind.restart(ME)

    def ask(manifest: Manifest) -> None:
        fewer, member = over(manifest, *blind.but("site-05")), blind.link.members[ME]
        member.handle("consent", [Packet(fewer.encode())])
        with pytest.raises(Refused, match="site-05 is not part of this session"):
            member.handle("lend", [Packet(wanted_by(blind, "site-05", fewer.digest()).encode())])

    asked_for_consent(blind, ask)


def test_one_opening_is_taken_for_one_request_and_from_a_site_of_the_session(blind: Bench) -> None:
    def ask(late: Site, peer: Site, question: Packet) -> None:
        lent = OpeningFor.decode(peer.handle("lend", [late.handle("want", [question])]).head)
        packet, keys = Packet(lent.encode()), blind.consortium.keys[PEER]
        for packets in ([], [packet, packet]):
            with pytest.raises(Malformed, match="one sealed opening follows"):
                late.handle("borrow", [question, *packets])
        for false in (replace(lent, wanted=bytes(32)), replace(lent, site="site-99")):
            with pytest.raises(Refused, match="did not ask for that opening"):
                late.handle("borrow", [question, Packet(signed_by(keys, false).encode())])
        with pytest.raises(FaultySite, match="not signed by its key"):
            late.handle("borrow", [question, Packet(replace(lent, sealed=lent.sealed[1:]).encode())])
        late.handle("borrow", [question, packet])
        with pytest.raises(Refused, match="did not ask for that opening"):
            late.handle("borrow", [question, packet])

    when_it_lacks_the_sum(blind, ask)


def test_an_opening_that_does_not_unseal_names_its_peer(blind: Bench) -> None:
    def ask(late: Site, peer: Site, question: Packet) -> None:
        lent = OpeningFor.decode(peer.handle("lend", [late.handle("want", [question])]).head)
        cut = signed_by(blind.consortium.keys[PEER], replace(lent, sealed=lent.sealed[:-1]))
        with pytest.raises(FaultyPeerOrServer, match="its opening does not unseal") as caught:
            late.handle("borrow", [question, Packet(cut.encode())])
        assert caught.value.site == PEER

    when_it_lacks_the_sum(blind, ask)
