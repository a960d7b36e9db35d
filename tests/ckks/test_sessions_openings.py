"""Openings: what opens which aggregate, and what peers and servers may try with them (spec §7.4, §13.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from fedclient.site import Site
from fedserver.checkpoint import Checkpoint
from secagg.chain import Position
from secagg.ckks.client import read_state
from secagg.ckks.payload import pad_seed
from secagg.ckks.states import Opening
from secagg.config import Manifest
from secagg.enrol import OpeningFor, OpeningRequest, OpeningWanted, Ready, RoundStart, signed_by
from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Refused, Sealed, SecAggError
from secagg.identity import SiteKeys
from secagg.session import Aggregate, Packet
from secagg.wire import encode_plain
from tests.ckks.sessions import ckks, opening_of, state_of
from tests.federation.direct import Bench, Where
from tests.sim import Dice, Round

LATE = "site-03"
PEER = "site-01"
OTHER_SEED = Dice("other")(32)


# ------------------------------------------------------------------ what opens an aggregate


@cache
def finished() -> tuple[Round, Aggregate, dict[str, bytes]]:
    """Five sites, one of which drops out; the seeds that opened it."""
    round_ = ckks(drop={"mask": ["site-05"]})
    done = round_.run()
    return round_, done, {each.site: each.seed for each in state_of(round_).seeds}


def refused(opening: bytes, error: type[SecAggError], rule: str) -> None:
    round_, done, _ = finished()
    with pytest.raises(error, match=rule) as caught:
        round_.scheme.open(round_.site_context, done.payload, opening)
    assert type(caught.value) is error


def test_the_seeds_of_the_survivors_open_it_and_more_do_no_harm() -> None:
    round_, done, seeds = finished()
    wanted = round_.mean(done).values.tobytes()
    survivors = {site: seeds[site] for site in done.contributors}
    for each in (survivors, seeds, seeds | {"site-99": OTHER_SEED}, seeds | {"site-05": OTHER_SEED}):
        assert round_.scheme.open(round_.site_context, done.payload, opening_of(each)).values.tobytes() == wanted


@pytest.mark.parametrize("missing", ["site-01", "site-02", "site-03", "site-04"])
def test_without_one_survivors_seed_it_is_sealed(missing: str) -> None:
    _, _, seeds = finished()
    refused(opening_of({site: seed for site, seed in seeds.items() if site != missing}), Sealed, "blind seed")
    refused(opening_of({missing: seeds[missing]}), Sealed, "blind seed")


def test_without_any_it_is_sealed() -> None:
    refused(b"", Sealed, "lacks a survivor's blind seed")


@pytest.mark.parametrize("wrong", ["site-01", "site-02", "site-03", "site-04"])
def test_with_one_wrong_seed_it_is_refused(wrong: str) -> None:
    _, _, seeds = finished()
    refused(opening_of(seeds | {wrong: OTHER_SEED}), FaultyServer, "zero at every site")


def test_with_two_sites_seeds_exchanged_it_is_refused() -> None:
    """A pad is bound to its site's place."""
    _, _, seeds = finished()
    swapped = seeds | {"site-01": seeds["site-02"], "site-02": seeds["site-01"]}
    refused(opening_of(swapped), FaultyServer, "zero at every site")


def test_the_opening_of_another_attempt_round_or_session_opens_nothing() -> None:
    round_, _, _ = finished()
    manifest = round_.context.manifest
    start = Position.start(manifest)
    later = replace(start, round=1, transcript=Dice("t")(32))
    others = [
        ckks(context=round_.consortium.context(manifest, attempt=2), seed="attempt"),
        ckks(context=round_.consortium.context(manifest, position=later), seed="round"),
        ckks(manifest={"nonce": Dice("n")(32)}, seed="session"),
    ]
    for other in others:
        other.until("consent")
        refused(other.opening(other.clients[PEER].to_bytes()), FaultyServer, "zero at every")
        with pytest.raises(Malformed, match="another attempt"):
            round_.opening(other.clients[PEER].to_bytes())
        with pytest.raises(Malformed, match="another attempt"):
            read_state(round_.site_context, other.clients[PEER].to_bytes())


def test_the_same_seeds_open_no_other_attempt() -> None:
    """A machine whose random bytes repeat deals the same z again: the pads are bound to the header all the same."""
    round_, _, seeds = finished()
    again = ckks(context=round_.consortium.context(round_.context.manifest, attempt=2))
    pads = {pad_seed(each.context, PEER, seeds[PEER]) for each in (round_, again)}
    assert len(pads) == 2


def test_an_aggregate_under_another_header_is_refused_whatever_the_opening() -> None:
    round_, done, seeds = finished()
    again = replace(round_.consortium.context(round_.context.manifest, attempt=2), cohort=())
    with pytest.raises(FaultyServer, match="another round"):
        round_.scheme.open(again, done.payload, opening_of(seeds))


def test_bytes_that_are_no_opening_are_malformed() -> None:
    round_, _, seeds = finished()
    good = opening_of(seeds)
    state = round_.clients[PEER].to_bytes()
    plain = [each.plain() for each in Opening.decode(good).seeds]
    twice, backwards = [plain[0], *plain], plain[::-1]
    for bad in (good[:-1], good + b"\x00", good[:3], b"\x00", bytes(48), state, state[32:],
                encode_plain([Opening.TAG, twice]), encode_plain([Opening.TAG, backwards]),
                encode_plain([Opening.TAG, []])):  # fmt: skip
        refused(bad, Malformed, ".")


# ------------------------------------------------------------------ from peer to peer


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is on disk after two rounds that one site of five missed, as it fell silent once it had agreed to them."""
    folder = tmp_path_factory.mktemp("openings")
    bench = Bench(folder, options={"scheme": "ckks"})

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        return None if where.site == LATE and where.kind not in ("hello", "propose", "consent") else packets

    bench.link.alter_request = request
    bench.run(rounds=2, min_sites=4)
    assert bench.contributors() == [bench.but(LATE)] * 2
    return folder


@pytest.fixture
def bench(two_rounds: Path) -> Iterator[Bench]:
    """The same federation, every process started anew; in the end the late site's disk is as it was.

    In place, since a copy of a log of answers is refused.
    """
    bench = Bench(two_rounds, options={"scheme": "ckks"})
    home = two_rounds / LATE
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    yield bench
    for path in [each for each in home.rglob("*") if each.is_file()]:
        if path not in before:
            path.unlink()
        elif path.read_bytes() != before[path]:
            path.write_bytes(before[path])
    for path, content in before.items():
        if not path.exists():
            path.write_bytes(content)


def checkpoint(bench: Bench) -> Checkpoint:
    return Checkpoint(Path(bench.plan.out) / "state")


def manifest_of(bench: Bench) -> Manifest:
    manifest = checkpoint(bench).manifest()
    assert manifest is not None
    return manifest


def late(bench: Bench) -> Site:
    return bench.link.members[LATE]


def asked(bench: Bench, round_: int = 1, attempt: int = 1) -> Packet:
    return Packet(OpeningRequest(manifest_of(bench).digest(), round_, attempt).encode())


def wanted(bench: Bench, round_: int = 1) -> Packet:
    return late(bench).handle("want", [asked(bench, round_)])


def lent(bench: Bench, request: Packet, peer: str = PEER) -> Packet:
    return bench.link.members[peer].handle("lend", [request])


def starts(bench: Bench, round_: int = 2) -> Packet:
    """The site is shown the rounds before this one."""
    past = range(1, round_)
    store = checkpoint(bench)
    start = RoundStart(manifest_of(bench).digest(), round_, tuple(store.attempt(each) for each in past))
    return late(bench).handle("start", [Packet(start.encode()), *(store.aggregate(each) for each in past)])


def refuses(site: Site, kind: str, packets: Sequence[Packet], error: type[SecAggError], rule: str) -> None:
    with pytest.raises(error, match=rule) as caught:
        site.handle(kind, packets)
    assert type(caught.value) is error


def test_a_site_that_missed_a_round_opens_it_with_what_a_peer_lends(bench: Bench) -> None:
    with pytest.raises(Sealed):
        starts(bench)
    late(bench).handle("borrow", [asked(bench), lent(bench, wanted(bench))])
    assert Ready.decode(starts(bench).head).position.round == 1


def test_what_leaves_by_lend_holds_nothing_that_the_server_can_read(bench: Bench) -> None:
    """Not even with the secret of a key that it has put in the request's place: the signature breaks."""
    request = wanted(bench)
    reply = lent(bench, request)
    message = OpeningFor.decode(reply.head)
    store = _store_of(bench, PEER)
    opening = store.opening(1, 1)
    assert opening is not None
    for each in Opening.decode(opening).seeds:
        assert each.seed not in reply.head
    own = PrivateKey(Dice("server's")(32))
    with pytest.raises(CryptoError):
        SealedBox(own).decrypt(message.sealed)
    theirs = replace(OpeningWanted.decode(request.head), key=bytes(own.public_key))
    refuses(bench.link.members[PEER], "lend", [Packet(theirs.encode())], FaultySite, "is not signed by its key")


def _store_of(bench: Bench, name: str):  # type: ignore[no-untyped-def]
    site = bench.link.members[name]
    return site._open_session(manifest_of(bench).digest()).store


@pytest.mark.parametrize(
    "change",
    [{"key": OTHER_SEED}, {"round": 2}, {"attempt": 2}, {"site": "site-02"}, {"signature": bytes(64)}],
    ids=lambda change: next(iter(change)),
)
def test_a_request_that_was_changed_on_its_way_is_lent_nothing(bench: Bench, change: dict[str, object]) -> None:
    altered = replace(OpeningWanted.decode(wanted(bench).head), **change)
    refuses(bench.link.members[PEER], "lend", [Packet(altered.encode())], FaultySite, "is not signed by its key")


def request_by(bench: Bench, keys: SiteKeys, **changes: object) -> Packet:
    key = bytes(PrivateKey(Dice("asker")(32)).public_key)
    draft = OpeningWanted(keys.site, manifest_of(bench).digest(), 1, 1, key, bytes(64))
    return Packet(signed_by(keys, replace(draft, **changes)).encode())


def test_strangers_and_the_server_are_lent_nothing(bench: Bench) -> None:
    peer, other = bench.link.members[PEER], Ed25519PrivateKey.from_private_bytes(Dice("stranger")(32))
    refuses(peer, "lend", [request_by(bench, SiteKeys("site-99", other))], Refused, "not part of this session")
    refuses(peer, "lend", [request_by(bench, SiteKeys(LATE, other))], FaultySite, "not signed")
    server = SiteKeys(LATE, bench.consortium.server_keys.identity)
    refuses(peer, "lend", [request_by(bench, server)], FaultySite, "not signed")


def test_a_site_lends_only_what_it_has_opened_itself(bench: Bench) -> None:
    peer, keys = bench.link.members[PEER], bench.consortium.keys[LATE]
    for change in ({"round": 3}, {"attempt": 2}, {"round": 2, "attempt": 9}):
        refuses(peer, "lend", [request_by(bench, keys, **change)], Refused, "did not open that round")
    refuses(peer, "lend", [request_by(bench, keys, session=bytes(32))], Refused, "has not agreed to that session")


def test_a_site_does_not_pass_on_what_it_borrowed_and_has_not_opened(bench: Bench) -> None:
    """It may be false: it is lent under the name of a site that knows it to be right."""
    late(bench).handle("borrow", [asked(bench), lent(bench, wanted(bench))])
    request = request_by(bench, bench.consortium.keys["site-02"])
    refuses(late(bench), "lend", [request], Refused, "did not open that round")
    starts(bench)
    lent(bench, request, LATE)


def test_the_opening_of_a_round_under_way_is_lent_to_nobody(tmp_path: Path) -> None:
    """Before a site has opened it, a round may end in another attempt: a server could open a sum that never counted."""
    bench = Bench(tmp_path, options={"scheme": "ckks"})
    tried: list[str] = []

    def reply(where: Where, packet: Packet) -> Packet:
        if where.site == "site-05" and where.asks("check", 2):
            for round_, rule in ((2, "did not open that round"), (3, "did not open that round")):
                request = request_by(bench, bench.consortium.keys[LATE], round=round_)
                refuses(bench.link.members[PEER], "lend", [request], Refused, rule)
                tried.append(rule)
            lent(bench, request_by(bench, bench.consortium.keys[LATE], round=1))
        return packet

    bench.link.alter_reply = reply
    bench.run(rounds=2)
    assert len(tried) == 2


def test_a_site_borrows_only_what_it_asked_for_and_once(bench: Bench) -> None:
    """An answer to another's request, to one before a restart, or the same answer again is refused."""
    foreign = lent(bench, request_by(bench, bench.consortium.keys["site-02"]))
    refuses(late(bench), "borrow", [asked(bench), foreign], Refused, "did not ask for that opening")
    answer = lent(bench, wanted(bench))
    late(bench).handle("borrow", [asked(bench), answer])
    refuses(late(bench), "borrow", [asked(bench), answer], Refused, "did not ask for that opening")
    forgotten = lent(bench, wanted(bench))
    bench.restart(LATE)
    refuses(late(bench), "borrow", [asked(bench), forgotten], Refused, "did not ask for that opening")
    assert Ready.decode(starts(bench).head).position.round == 1  # what it has borrowed it kept


def test_an_answer_that_its_peer_did_not_sign_is_refused_and_the_true_one_is_taken(bench: Bench) -> None:
    answer = lent(bench, wanted(bench))
    message = OpeningFor.decode(answer.head)
    for change in ({"sealed": message.sealed[:-1]}, {"site": "site-02"}, {"signature": bytes(64)}):
        altered = Packet(replace(message, **change).encode())
        refuses(late(bench), "borrow", [asked(bench), altered], FaultySite, "not signed by its key")
    stranger = Packet(replace(message, site="site-99").encode())
    refuses(late(bench), "borrow", [asked(bench), stranger], Refused, "did not ask")
    for rest in ([], [answer, answer]):
        refuses(late(bench), "borrow", [asked(bench), *rest], Malformed, "one sealed opening follows")
    late(bench).handle("borrow", [asked(bench), answer])
    assert Ready.decode(starts(bench).head).position.round == 1


def answered_with(bench: Bench, request: Packet, sealed: bytes, peer: str = PEER) -> Packet:
    """What a lying peer signs."""
    message = OpeningWanted.decode(request.head)
    return Packet(
        signed_by(bench.consortium.keys[peer], OpeningFor(peer, message.digest(), sealed, bytes(64))).encode()
    )


@pytest.mark.parametrize("length", [1, 47, 48, 200])
def test_an_answer_that_does_not_unseal_names_its_peer(bench: Bench, length: int) -> None:
    bad = answered_with(bench, wanted(bench), bytes(length))
    refuses(late(bench), "borrow", [asked(bench), bad], FaultyPeerOrServer, f"{PEER}: its opening does not unseal")


def lies_of(opening: bytes) -> dict[str, bytes]:
    seeds = {each.site: each.seed for each in Opening.decode(opening).seeds}
    return {
        "a wrong seed": opening_of(seeds | {"site-02": OTHER_SEED}),
        "no bytes": b"",
        "no opening": b"nonsense",
        "a seed less": opening_of({site: seed for site, seed in seeds.items() if site != "site-02"}),
    }


@pytest.mark.parametrize("lie", ["a wrong seed", "no bytes", "no opening", "a seed less"])
def test_what_a_peer_lent_falsely_opens_nothing_and_an_honest_peers_opening_still_does(bench: Bench, lie: str) -> None:
    opening = _store_of(bench, PEER).opening(1, 1)
    request = wanted(bench)
    sealed = SealedBox(PublicKey(OpeningWanted.decode(request.head).key)).encrypt(lies_of(opening)[lie])
    late(bench).handle("borrow", [asked(bench), answered_with(bench, request, sealed)])
    with pytest.raises((Sealed, FaultyServer, Malformed)):
        starts(bench)
    assert _position(bench) == 0
    late(bench).handle("borrow", [asked(bench), lent(bench, wanted(bench), "site-02")])
    assert Ready.decode(starts(bench).head).position.round == 1


def _position(bench: Bench) -> int:
    return late(bench)._open_session(manifest_of(bench).digest()).position.round


def test_a_site_that_has_opened_a_round_asks_nobody_for_it(bench: Bench) -> None:
    peer = bench.link.members[PEER]
    for round_ in (1, 2):
        refuses(peer, "want", [asked(bench, round_)], Refused, "has opened that round")


# ------------------------------------------------------------------ open points of the federation around the sessions


@pytest.mark.parametrize("lie", ["a wrong seed", "no opening"])
def test_a_peer_that_lends_falsely_does_not_keep_a_site_out_while_others_would_lend(bench: Bench, lie: str) -> None:
    """The server has another peer lend only to a site that says `sealed`."""
    opening = _store_of(bench, PEER).opening(1, 1)
    request = wanted(bench)
    sealed = SealedBox(PublicKey(OpeningWanted.decode(request.head).key)).encrypt(lies_of(opening)[lie])
    late(bench).handle("borrow", [asked(bench), answered_with(bench, request, sealed)])
    with pytest.raises(SecAggError):
        starts(bench)
    with pytest.raises(Sealed):
        starts(bench)


def test_a_site_that_took_part_opens_the_round_whatever_a_peer_lends_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, options={"scheme": "ckks"})
    lied: list[Where] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "start" and where.site == LATE and len(packets) > 1 and not lied:
            lied.append(where)
            asks = wanted(bench)
            key = PublicKey(OpeningWanted.decode(asks.head).key)
            bad = answered_with(bench, asks, SealedBox(key).encrypt(opening_of(dict.fromkeys(bench.names, OTHER_SEED))))
            late(bench).handle("borrow", [asked(bench), bad])
        return packets

    bench.link.alter_request = request
    bench.run(rounds=2)
    assert lied
    assert bench.contributors() == [bench.names] * 2


def test_a_request_with_a_key_that_nothing_can_be_sealed_to_is_refused_with_a_typed_error(bench: Bench) -> None:
    request = request_by(bench, bench.consortium.keys[LATE], key=bytes(32))
    with pytest.raises(SecAggError):
        lent(bench, request)
