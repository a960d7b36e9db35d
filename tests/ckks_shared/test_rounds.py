"""A round of one message: what a site answers, what it opens, what it refuses, and in whose name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secagg.chain import STAGES, Ledger, Position
from secagg.ckks_shared import frames
from secagg.ckks_shared.messages import Contribution, SharedOpening, SumRecord
from secagg.ckks_shared.scheme import SharedCkksScheme
from secagg.config import Policy, Setting
from secagg.errors import (
    FaultyPeerOrServer,
    FaultyServer,
    FaultySite,
    Malformed,
    Misuse,
    Refused,
    SecAggError,
    TooFewSites,
)
from secagg.labels import SIGN_ROUND_OPEN
from secagg.masked.messages import RoundOpen, SurvivorProof, sum_words_digest
from secagg.primitives.signature import sign
from secagg.schemes import SCHEMES, scheme_named
from secagg.session import Aggregate, InMemory, Packet
from secagg.wire import encode_plain
from tests.ckks_shared.made import NAME, residues_of, shared_round, signed, with_sum, words_of
from tests.contract.test_sums import assert_exact, exact
from tests.sim import Consortium, Dice, Round, federation, random_update, some_shared_key

ME, PEER = "site-02", "site-03"


def server_signed(round_: Round, opened: RoundOpen) -> RoundOpen:
    key = round_.consortium.server_keys.identity
    return replace(opened, signature=sign(key, SIGN_ROUND_OPEN, round_.context.digest, opened.unsigned()))


# ------------------------------------------------------------------ manifest, key, policy


def test_no_site_takes_part_unless_its_policy_names_the_scheme() -> None:
    round_ = shared_round()
    assert NAME not in Policy().schemes
    with pytest.raises(Refused, match="scheme ckks-shared is not allowed"):
        round_.scheme.client(round_.site_context, round_.consortium.keys[ME], Policy(), random_update(0, 40), Dice(0))


def test_whoever_agrees_is_told_what_is_not_protected() -> None:
    caution = scheme_named(NAME).caution
    for word in ("works with the server", "steals one copy", "past rounds", "another sum", "work out the key"):
        assert word in caution
    assert all(scheme.caution == "" for name, scheme in SCHEMES.items() if name != NAME)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ((), "not 64"),
        ((Setting("shared-key", ""),), "not 64"),
        ((Setting("shared-key", "ab" * 31),), "not 64"),
        ((Setting("shared-key", "AB" * 32),), "not 64"),
        ((Setting("shared-key", " " + "ab" * 31 + " "),), "not 64"),
        ((Setting("shared-key", "00" * 32),), "does not hold the shared key"),
        ((Setting("other", "1"), Setting("shared-key", "00" * 32)), "no option other"),
    ],
)
def test_a_manifest_that_does_not_name_a_key_of_this_site_is_refused(options: tuple[Setting, ...], rule: str) -> None:
    consortium = Consortium(5)
    manifest = consortium.manifest(10, scheme=NAME)
    keys, scheme = consortium.keys[ME], scheme_named(NAME)
    scheme.require(manifest, keys)
    with pytest.raises(Refused, match=rule):
        scheme.require(replace(manifest, options=options), keys)


def test_a_site_that_lost_the_key_neither_begins_nor_opens() -> None:
    round_ = shared_round()
    aggregate, keys = round_.run(), replace(round_.consortium.keys[ME], shared=())
    with pytest.raises(Refused, match="does not hold the shared key"):
        round_.scheme.client(round_.site_context, keys, round_.policy, random_update(0, 40), Dice(0))
    with pytest.raises(Refused, match="does not hold the shared key"):
        round_.scheme.opening(round_.site_context, keys, None)
    assert aggregate.contributors


# ------------------------------------------------------------------ a site's one answer


def test_what_leaves_is_logged_as_masked_and_forbids_no_other_attempt() -> None:
    round_ = shared_round()
    client = round_.clients[ME]
    assert (client.stage, client.released) == ("fresh", False)
    client.handle(round_.server.requests()[ME])
    assert (client.stage, client.released, client.evidence) == ("masked", False, round_.context.digest)
    assert client.stage in STAGES
    manifest = round_.context.manifest
    ledger, _ = Ledger(manifest.digest()).answer(round_.context.header, client.stage, client.evidence)
    position = Position.start(manifest)
    ledger.admit(position, position.header(manifest, 2), manifest)
    with pytest.raises(Refused, match="answered before"):
        ledger.answer(round_.context.header, client.stage, client.evidence)


def test_a_request_of_another_scheme_is_malformed() -> None:
    round_ = shared_round()
    for tag in (SurvivorProof.TAG, SumRecord.TAG):
        with pytest.raises(Malformed, match="no request of ckks-shared mode"):
            round_.clients[ME].handle(Packet(encode_plain([tag, 0])))


@pytest.mark.parametrize(
    ("alter", "error", "rule"),
    [
        (lambda o: replace(o, header=replace(o.header, range_q40=5)), FaultyServer, "header is not the one"),
        (lambda o: replace(o, cohort=o.cohort[1:]), FaultyServer, "leaves this site out"),
        (lambda o: replace(o, cohort=(*o.cohort, "site-99")), FaultyServer, "not this session's"),
        (lambda o: replace(o, cohort=o.cohort[:3]), Refused, "below"),
    ],
)
def test_an_opening_of_a_round_that_the_server_signed_wrongly_is_refused(
    alter: Callable[[RoundOpen], RoundOpen], error: type[SecAggError], rule: str
) -> None:
    round_ = shared_round()
    client, request = round_.clients["site-01"], round_.server.requests()["site-01"]
    before = client.to_bytes()
    wrong = server_signed(round_, alter(RoundOpen.decode(request.head)))
    with pytest.raises(error, match=rule):
        client.handle(Packet(wrong.encode()))
    assert client.to_bytes() == before
    assert client.handle(request).words is not None


def test_an_opening_that_the_server_did_not_sign_is_refused() -> None:
    round_ = shared_round()
    opened = RoundOpen.decode(round_.server.requests()[ME].head)
    with pytest.raises(FaultyServer, match="not opened by the session's server"):
        round_.clients[ME].handle(Packet(replace(opened, signature=bytes(64)).encode()))


def test_a_saved_session_of_another_scheme_is_malformed() -> None:
    round_ = shared_round()
    state = round_.context.digest + SumRecord.decode(round_.run().payload.head).contributions[0].encode()
    with pytest.raises(Malformed, match="not a saved session"):
        round_.scheme.restore(
            round_.site_context, round_.consortium.keys[ME], round_.policy, state, random_update(0, 40), Dice(0)
        )


def test_a_site_that_went_on_from_what_it_saved_does_not_answer_again_though_its_update_is_there() -> None:
    round_ = shared_round()
    request = round_.server.requests()[ME]
    round_.clients[ME].handle(request)
    saved, keys = round_.clients[ME].to_bytes(), round_.consortium.keys[ME]
    again = round_.scheme.restore(round_.site_context, keys, round_.policy, saved, round_.updates[ME], Dice(0))
    with pytest.raises(FaultyServer, match="out of order at stage masked"):
        again.handle(request)


# ------------------------------------------------------------------ the server


def test_a_contribution_in_another_sites_name_counts_for_nothing() -> None:
    round_ = exact(NAME, 7)
    round_.alter_reply = lambda _, site, packet: round_.clients_reply if site == ME else packet  # type: ignore[attr-defined]
    round_.clients_reply = round_.clients[PEER].handle(round_.server.requests()[PEER])  # type: ignore[attr-defined]
    round_.drop = {"contribute": [PEER]}
    round_.run()
    assert isinstance(round_.server.faults[ME], FaultySite)
    assert "another site's name" in str(round_.server.faults[ME])
    assert_exact(round_)


def test_a_contribution_without_its_sites_signature_counts_for_nothing() -> None:
    round_ = exact(NAME, 7)

    def unsigned(_: str, site: str, packet: Packet) -> Packet:
        if site != ME:
            return packet
        return Packet(replace(Contribution.decode(packet.head), signature=bytes(64)).encode(), packet.words)

    round_.alter_reply = unsigned
    round_.run()
    assert isinstance(round_.server.faults[ME], FaultyPeerOrServer)
    assert_exact(round_)


def test_signed_residues_that_are_not_below_the_modulus_name_their_site_and_change_nothing() -> None:
    round_ = exact(NAME, 7)
    residues = residues_of(0, words_of(round_) // frames.CIPHERTEXT_WORDS)
    residues[-1, -1] = (1 << 60) - 1
    words = frames.pack(residues)
    round_.alter_reply = lambda _, site, packet: signed(round_, site, words) if site == ME else packet
    round_.run()
    fault = round_.server.faults[ME]
    assert isinstance(fault, FaultySite)
    assert "its ciphertexts are none" in str(fault)
    assert round_.archive.sites() == set(round_.consortium.names) - {ME}
    assert_exact(round_)


def test_a_thousand_frames_altered_and_signed_by_their_site_are_added_or_refused() -> None:
    """A site that sends anything under its signature spoils at most the sum, and never the server."""
    round_ = shared_round(3)
    reply = round_.clients[ME].handle(round_.server.requests()[ME])
    assert reply.words is not None
    rng, refused = np.random.default_rng(2), 0
    for _ in range(1000):
        words = reply.words.copy()
        words[rng.integers(0, words.size)] ^= np.uint64(1) << np.uint64(rng.integers(0, 64))
        if rng.random() < 0.2:
            words[rng.integers(0, words.size)] |= np.uint64((1 << 60) - 1)
        server = round_.scheme.server(round_.context, round_.consortium.server_keys, InMemory())
        with pytest.raises(TooFewSites):
            server.receive([(ME, signed(round_, ME, words))])
        kinds = {type(fault) for fault in server.faults.values()}
        assert kinds <= {FaultySite}
        refused += bool(kinds)
    assert 150 < refused < 300


def test_an_archive_that_cannot_keep_a_contribution_ends_the_attempt() -> None:
    class Full(InMemory):
        def put(self, site: str, words: np.ndarray) -> None:
            raise OSError("no space left")

    round_ = shared_round(3)
    server = round_.scheme.server(round_.context, round_.consortium.server_keys, Full())
    reply = round_.clients[ME].handle(server.requests()[ME])
    with pytest.raises(OSError, match="no space"):
        server.receive([(ME, reply)])
    with pytest.raises(Misuse, match="done or void"):
        server.requests()


def test_the_server_has_nothing_to_resume() -> None:
    round_ = shared_round()
    assert round_.server.to_bytes() == b""
    round_.run()
    assert round_.server.to_bytes() == b""
    assert round_.server.phase == "done"
    with pytest.raises(Malformed, match="nothing to resume"):
        round_.scheme.resume(round_.context, round_.consortium.server_keys, InMemory(), b"")


# ------------------------------------------------------------------ opening


def altered(round_: Round, aggregate: Aggregate, alter: Callable[[SumRecord], SumRecord]) -> Aggregate:
    record = alter(SumRecord.decode(aggregate.payload.head))
    return replace(aggregate, payload=Packet(record.encode(), aggregate.payload.words))


@pytest.mark.parametrize(
    ("alter", "error", "rule"),
    [
        (
            lambda r: replace(r, opened=replace(r.opened, signature=bytes(64))),
            FaultyServer, "not opened by the session's server",
        ),
        (
            lambda r: replace(r, opened=replace(r.opened, header=replace(r.opened.header, attempt=2))),
            FaultyServer, "header is not the one",
        ),
        (lambda r: replace(r, contributions=r.contributions[:3]), FaultyServer, "below the fewest survivors"),
        (
            lambda r: replace(r, contributions=(replace(r.contributions[0], words=bytes(32)), *r.contributions[1:])),
            FaultyPeerOrServer, "site-01: its Contribution is not signed",
        ),
        (lambda r: replace(r, sum_words=bytes(32)), FaultyServer, "not the one that its record names"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_hold_is_refused(
    alter: Callable[[SumRecord], SumRecord], error: type[SecAggError], rule: str
) -> None:
    round_ = shared_round()
    assert round_.context.manifest.least_survivors == 4
    aggregate = round_.run()
    with pytest.raises(error, match=rule):
        round_.mean(altered(round_, aggregate, alter))


def test_a_record_over_a_cohort_that_is_not_the_rounds_is_refused() -> None:
    round_ = shared_round()
    aggregate = round_.run()

    def cohort(*names: str) -> Callable[[SumRecord], SumRecord]:
        return lambda r: replace(r, opened=server_signed(round_, replace(r.opened, cohort=names)))

    names = round_.consortium.names
    with pytest.raises(FaultyServer, match="not this session's"):
        round_.mean(altered(round_, aggregate, cohort(*names, "site-99")))
    with pytest.raises(FaultyServer, match="outside the cohort"):
        round_.mean(altered(round_, aggregate, cohort(*names[1:])))


def test_contributions_of_another_attempt_are_not_signed_for_this_one() -> None:
    first = shared_round()
    old = SumRecord.decode(first.run().payload.head).contributions
    context = first.consortium.context(first.context.manifest, attempt=2)
    second = Round(first.consortium, context, first.updates)
    aggregate = second.run()
    with pytest.raises(FaultyPeerOrServer, match="not signed for this attempt"):
        second.mean(altered(second, aggregate, lambda r: replace(r, contributions=old)))


def test_a_sum_with_a_residue_that_is_not_below_the_modulus_never_reaches_tenseal() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    residues = frames.unpack(aggregate.payload.words)  # type: ignore[arg-type]
    residues[0, 77] = (1 << 60) - 1
    with pytest.raises(FaultyServer, match="the sum is no ciphertext"):
        round_.mean(with_sum(round_, aggregate, frames.pack(residues)))


@pytest.mark.parametrize("words", [None, np.zeros(3, np.uint64), np.zeros(7680 * 2, np.uint64), np.zeros((2, 2))])
def test_a_sum_of_another_length_is_refused_by_sites_and_audit(words: np.ndarray | None) -> None:
    round_ = shared_round()
    aggregate = round_.run()
    wrong = replace(aggregate, payload=Packet(aggregate.payload.head, words))
    with pytest.raises(FaultyServer, match="does not have 7680 words"):
        round_.mean(wrong)
    with pytest.raises(FaultyServer, match="does not have 7680 words"):
        round_.scheme.audit(round_.site_context, wrong.payload, round_.archive)


def test_a_site_opens_only_what_names_its_own_contribution_or_leaves_it_out() -> None:
    round_ = shared_round()
    states = {site: client.to_bytes() for site, client in round_.clients.items()}
    aggregate = round_.run()
    mean = round_.mean(aggregate, ME)
    again = round_.clients[ME].to_bytes()
    true = SharedOpening.decode(round_.opening(again, ME))
    other = replace(true.sent[0], words=bytes(32))
    with pytest.raises(FaultyServer, match="misstates this site's own contribution"):
        round_.scheme.open(round_.site_context, aggregate.payload, replace(true, sent=(other,)).encode())
    fresh = round_.opening(states[ME], ME)
    assert SharedOpening.decode(fresh).sent == ()
    for opening in (fresh, round_.scheme.opening(round_.site_context, round_.consortium.keys[ME], None)):
        assert round_.scheme.open(round_.site_context, aggregate.payload, opening) .values.tobytes() == (
            mean.values.tobytes()
        )  # fmt: skip


def test_a_site_whose_answer_was_lost_opens_the_sum_of_the_others() -> None:
    round_ = exact(NAME, 5)
    round_.lose = {"contribute": [ME]}
    aggregate = round_.run()
    assert ME not in aggregate.contributors
    assert round_.mean(aggregate, ME).values.tobytes() == round_.mean(aggregate, PEER).values.tobytes()
    assert_exact(round_)


def test_an_opening_of_other_bytes_is_malformed() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    for opening in (b"\x80", some_shared_key().secret, SharedOpening((), b"x").encode()):
        with pytest.raises(Malformed):
            round_.scheme.open(round_.site_context, aggregate.payload, opening)


def test_what_a_site_keeps_or_lends_prints_no_secret() -> None:
    opening = SharedOpening((), some_shared_key().secret)
    assert repr(opening) == "SharedOpening(sent=())"


@pytest.mark.parametrize(("bits", "rotate", "cap"), [(8, 1, 1), (12, 0, 3)])
def test_all_schemes_end_with_the_same_mean_to_the_quantisers_step(bits: int, rotate: int, cap: int) -> None:
    means = {}
    for scheme in SCHEMES:
        options = {"scheme": scheme, "bits": bits, "rotate": rotate, "weight_cap": cap}
        round_ = federation(5, 9000, manifest=options, drop={phase: ["site-04"] for phase in ("mask", "contribute")})
        means[scheme] = round_.mean(round_.run())
    one = means.pop("masked")
    step = 2 / ((1 << bits) - 1)  # of the range -1..1, and each site's rounding errs by less than one
    for other in means.values():
        difference = one.values.astype(np.float64) - other.values
        assert float(np.sqrt(np.mean(difference**2))) < step
        assert other.contributors == one.contributors == ("site-01", "site-02", "site-03", "site-05")
        assert replace(other.totals, clipped=0) == replace(one.totals, clipped=0)


# ------------------------------------------------------------------ audit


def test_an_audit_finds_the_sum_to_be_that_of_the_kept_ciphertexts() -> None:
    round_ = shared_round(drop={"contribute": ["site-04"]})
    aggregate = round_.run()
    audit = round_.scheme.audit(round_.site_context, aggregate.payload, round_.archive)
    record = SumRecord.decode(aggregate.payload.head)
    assert audit.transcript == record.transcript() == round_.mean(aggregate).transcript
    assert audit.survivors == aggregate.contributors == record.survivors()
    assert (audit.signatures, audit.secrets, audit.words) == (4, 0, 7680)
    assert (audit.missing, audit.altered, audit.is_named, audit.wrong_words) == ((), (), True, 0)


def test_an_audit_counts_the_words_of_a_sum_that_is_not_theirs() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    words = aggregate.payload.words.copy()  # type: ignore[union-attr]
    words[:3] ^= np.uint64(1)
    audit = round_.scheme.audit(round_.site_context, with_sum(round_, aggregate, words).payload, round_.archive)
    assert (audit.is_named, audit.wrong_words) == (True, 3)
    unnamed = replace(SumRecord.decode(aggregate.payload.head), sum_words=sum_words_digest(bytes(32), words))
    packet = Packet(unnamed.encode(), aggregate.payload.words)
    assert not round_.scheme.audit(round_.site_context, packet, round_.archive).is_named


def test_an_audit_says_whose_ciphertexts_are_missing_or_altered() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    kept = InMemory()
    for site in ("site-01", "site-02", "site-04"):
        words = round_.archive.get(site)
        kept.put(site, words[:-1] if site == "site-04" else words ^ np.uint64(site == ME))
    audit = round_.scheme.audit(round_.site_context, aggregate.payload, kept)
    assert (audit.missing, audit.altered) == ((PEER, "site-05"), (ME, "site-04"))
    assert audit.wrong_words is None


def test_an_audit_of_another_attempt_says_so() -> None:
    round_ = shared_round()
    aggregate = round_.run()
    other = replace(round_.consortium.context(round_.context.manifest, attempt=2), cohort=())
    with pytest.raises(FaultyServer, match="the record is of attempt 1, not 2"):
        round_.scheme.audit(other, aggregate.payload, round_.archive)
    assert SharedCkksScheme().header(aggregate.payload) == round_.context.header
    with pytest.raises(FaultyServer, match="below the fewest"):
        wrong = altered(round_, aggregate, lambda r: replace(r, contributions=r.contributions[1:3]))
        round_.scheme.audit(round_.site_context, wrong.payload, round_.archive)
