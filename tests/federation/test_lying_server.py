"""What a server may tell a site around the rounds: each lie is refused by its type, and no site's disk changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedserver.checkpoint import Checkpoint
from fedserver.plan import ServerError
from secagg.chain import Position
from secagg.config import Manifest, Policy, RoundContext, RoundHeader, Setting
from secagg.enrol import AttemptRef, Consent, Finish, Proposal, Ready, RoundStart
from secagg.errors import FaultyServer, Malformed, Refused, SecAggError
from secagg.initial import initial_adapter
from secagg.labels import SIGN_PROJECTIONS, SIGN_ROUND_OPEN
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import MaskedAggregate, Projections, RoundOpen, sum_words_digest
from secagg.primitives.signature import sign
from secagg.projection import project
from secagg.session import Packet
from secagg.thresholds import plan as plan_thresholds
from secagg.vector import adapter_digest
from tests.federation.direct import LAYOUT, Bench, Killed, Where
from tests.sim import Dice

ME = "site-03"
Asked = tuple[str, Sequence[Packet]]


@pytest.fixture
def told(bench: Bench) -> Bench:
    """A bench after round 1 of 3, just before the sites hear of its aggregate; one lie after the other from here."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind == "start" and len(packets) == 2:
            raise Killed
        return packets

    bench.link.alter_request = request
    with pytest.raises(Killed):
        bench.run(rounds=3)
    bench.link.alter_request = lambda where, packets: packets
    bench.link.refusals.clear()
    return bench


def checkpoint(bench: Bench) -> Checkpoint:
    return Checkpoint(Path(bench.plan.out) / "state")


def manifest_of(bench: Bench) -> Manifest:
    manifest = checkpoint(bench).manifest()
    assert manifest is not None
    return manifest


def start(bench: Bench, round_: int, *aggregates: Packet, attempts: Sequence[int] = (), session: bytes = b"") -> Any:
    """A RoundStart with these aggregates."""
    numbers = tuple(attempts) or (1,) * len(aggregates)
    return "start", [Packet(RoundStart(session or manifest_of(bench).digest(), round_, numbers).encode()), *aggregates]


def refuses(
    bench: Bench, asked: tuple[str, Sequence[Packet]], kind: type[SecAggError], says: str | None = None
) -> None:
    """The site refuses by this type, before and after a restart, and nothing on its disk changes."""
    for _ in range(2):
        before = bench.state(ME)
        with pytest.raises(kind, match=says) as refusal:
            bench.link.members[ME].handle(*asked)
        assert type(refusal.value) is kind
        assert bench.state(ME) == before
        bench.restart(ME)


def goes_on(bench: Bench) -> None:
    """After all the lies, the honest server finishes the session with everybody."""
    bench.assert_right(bench.run(), *[bench.names] * 3)


# ---------------------------------------------------------------------- aggregates


def with_words(packet: Packet, change: Callable[[np.ndarray], None]) -> Packet:
    assert packet.words is not None
    words = packet.words.copy()
    change(words)
    return Packet(packet.head, words)


def flip(words: np.ndarray, at: int = 0) -> None:
    words[at] ^= np.uint64(1)


@pytest.mark.parametrize("at", [0, 100, -1])
def test_an_aggregate_with_one_flipped_bit_in_a_word_is_refused(told: Bench, at: int) -> None:
    lie = with_words(checkpoint(told).aggregate(1), lambda words: flip(words, at))
    refuses(told, start(told, 2, lie), FaultyServer, "not the one that its record names")
    goes_on(told)


def test_an_aggregate_with_one_flipped_bit_anywhere_in_its_head_is_refused(told: Bench) -> None:
    """Every 97th byte of the head; decoding or a check fails, and never an exception without a type."""
    honest, site = checkpoint(told).aggregate(1), told.link.members[ME]
    before = told.state(ME)
    for at in range(0, len(honest.head), 97):
        head = bytearray(honest.head)
        head[at] ^= 1
        with pytest.raises(SecAggError):
            site.handle(*start(told, 2, Packet(bytes(head), honest.words)))
        assert told.state(ME) == before
    goes_on(told)


def test_an_aggregate_without_its_words_or_with_too_many_is_refused(told: Bench) -> None:
    honest = checkpoint(told).aggregate(1)
    assert honest.words is not None
    for words in (None, honest.words[:-1], np.append(honest.words, np.uint64(0))):
        refuses(told, start(told, 2, Packet(honest.head, words)), FaultyServer, "does not have .* words")
    goes_on(told)


def test_an_aggregate_is_good_for_its_own_round_and_attempt_only(told: Bench) -> None:
    honest = checkpoint(told).aggregate(1)
    refuses(told, start(told, 2, honest, attempts=[2]), FaultyServer, "belongs to another round")
    refuses(told, start(told, 3, honest), FaultyServer, "aggregate of round 1 is missing")
    refuses(told, start(told, 2, honest, attempts=[1, 1]), Malformed, "one per attempt")
    told.link.members[ME].handle(*start(told, 2, honest))
    refuses(told, start(told, 3, honest, honest), FaultyServer, "belongs to another round")
    goes_on(told)


def test_a_round_that_is_skipped_repeated_or_beyond_the_last_is_refused(told: Bench) -> None:
    refuses(told, start(told, 2), Refused, "round 2 is not the next one")
    refuses(told, start(told, 3), Refused, "round 3 is not the next one")
    goes_on(told)
    last = [checkpoint(told).aggregate(each) for each in (1, 2, 3)]
    refuses(told, start(told, 1), Refused, "round 1 is not the next one")
    refuses(told, start(told, 4, *last), Refused, "round 4 is not the next one")


def test_a_second_aggregate_for_a_finished_round_is_ignored(told: Bench) -> None:
    """One that stands by itself, made with the help of a colluder: the site has its sum already."""
    site, honest = told.link.members[ME], checkpoint(told).aggregate(1)
    site.handle(*start(told, 2, honest))
    before = told.state(ME)
    site.handle(*start(told, 2, another_sum(told, "site-05")))
    assert told.state(ME) == before
    goes_on(told)


def another_sum(bench: Bench, colluder: str = "") -> Packet:
    """A well-formed lie of the server: one value of the sum changed, and everything it can make fit made to fit.

    It says that all sites fell silent, and hands out their words; a colluder signs projections of what is missing.
    """
    honest, manifest = checkpoint(bench).aggregate(1), manifest_of(bench)
    words = honest.words.copy()  # type: ignore[union-attr]
    words[0] += np.uint64(1)
    context = RoundContext(manifest, bench.consortium.roster, Position.start(manifest).header(manifest, 1))
    true = MaskedAggregate.decode(honest.head).record
    record = replace(true, sum_words=sum_words_digest(context.digest, words))
    vectors = checkpoint(bench).vectors(1)
    silent = [vectors.get(each.site) for each in record.vectors if each.site != colluder]
    signed = ()
    if colluder:
        shifted = vectors.get(colluder).copy()
        shifted[0] += np.uint64(1)
        transcript = record.transcript()
        values = project(challenge_seed(context, transcript), shifted).astype("<u8").tobytes()
        draft = Projections(colluder, transcript, values, bytes(64))
        keys = bench.consortium.keys[colluder]
        signed = (replace(draft, signature=keys.sign(SIGN_PROJECTIONS, context.digest, draft.unsigned())),)
    return Packet(MaskedAggregate(record, signed).encode(), np.concatenate([words, *silent]))


def test_a_false_sum_is_refused_by_every_site_before_its_adapter_changes(told: Bench) -> None:
    for name in told.names:
        before = told.state(name)
        with pytest.raises(FaultyServer, match="not that of the survivors' vectors"):
            told.link.members[name].handle(*start(told, 2, another_sum(told)))
        assert told.state(name) == before
    goes_on(told)


def test_another_sum_for_one_site_parts_it_from_the_others_and_gets_nothing_from_it(told: Bench) -> None:
    """A colluder lets the server do it (spec §18.2), but from then on the site's headers differ from everyone's."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        lie = where.kind == "start" and where.site == ME
        return [packets[0], another_sum(told, "site-05")] if lie else packets

    told.link.alter_request = request
    result = told.run()
    told.assert_right(result, told.names, told.but(ME), told.but(ME), saved_at=told.but(ME))
    assert told.events("fault")[0]["code"] == "another-adapter"
    assert told.events("finished")[-1]["saved_at"] == list(told.but(ME))


def test_a_site_with_another_sum_refuses_the_others_header_and_its_own_is_refused_by_them(told: Bench) -> None:
    honest, manifest = checkpoint(told).aggregate(1), manifest_of(told)
    placed = {}
    for name in told.names:
        lie = another_sum(told, "site-05") if name == ME else honest
        reply = told.link.members[name].handle(*start(told, 2, lie))
        placed[name] = Ready.decode(reply.head).position
    assert placed[ME] != placed["site-01"]
    refuses(told, opening(told, placed["site-01"].header(manifest, 1)), FaultyServer, "not opened by")
    advert = told.link.members[ME].handle(*opening(told, placed[ME].header(manifest, 1)))
    assert advert.head  # it answers its own header; its signature is bound to it
    with pytest.raises(FaultyServer, match="not opened by"):
        told.link.members["site-01"].handle(*opening(told, placed[ME].header(manifest, 1)))


def opening(bench: Bench, header: RoundHeader, signed_for: RoundHeader | None = None) -> Any:
    """A RoundOpen that the session's server signed, for this header or for another one."""
    draft = RoundOpen(header, bench.names, bytes(64))
    digest = (signed_for or header).digest()
    signature = sign(bench.consortium.server_keys.identity, SIGN_ROUND_OPEN, digest, draft.unsigned())
    ref = AttemptRef(header.session, header.round, header.attempt)
    return "answer", [Packet(ref.encode()), Packet(replace(draft, signature=signature).encode())]


# ---------------------------------------------------------------------- parameters and code


def test_parameters_that_come_along_are_refused(told: Bench) -> None:
    """A bare vector instead of an aggregate, one beside a request, one more packet: no way in for an adapter."""
    values = np.zeros(440, np.uint64)
    kind, packets = start(told, 2, Packet(b"", values))
    refuses(told, (kind, packets), Malformed)
    header = Position.start(manifest_of(told)).header(manifest_of(told), 2)
    kind, (ref, request) = opening(told, header)
    refuses(told, (kind, [ref, Packet(request.head, values)]), Refused)  # shares of round 1 left in attempt 1
    refuses(told, (kind, [ref, request, Packet(b"", values)]), Malformed, "one request of the scheme")
    refuses(told, ("start", [Packet(b"not cbor", values)]), Malformed)
    refuses(told, ("load", packets), Malformed, "no such request")
    refuses(told, ("start", []), Malformed, "no such request")
    goes_on(told)


# ---------------------------------------------------------------------- manifests


def lies(manifest: Manifest) -> dict[str, tuple[Manifest, str]]:
    """Manifests that fit together and that this site must not agree to."""
    other = Dice("other")(32)
    n = len(manifest.sites)
    kept = plan_thresholds(n - 1)
    fewer = replace(
        manifest, sites=manifest.sites[:-1], colluders=kept.colluders, dropouts=kept.dropouts,
        threshold=kept.threshold, quorum=kept.quorum, least_survivors=kept.least_survivors,
    )  # fmt: skip
    changed = {name: replace(manifest, **{name: other}) for name in MODEL}
    return {name: (each, "not the one this site has") for name, each in changed.items()} | {
        "size": (replace(manifest, size=manifest.size + 1), "not the one this site has"),
        "roster": (replace(manifest, roster=other), "another roster"),
        "sites": (fewer, "left out"),
        "threshold": (replace(manifest, **numbers(n, 0)), "colluders are fewer"),
        "weight": (replace(manifest, quantizer=replace(manifest.quantizer, weight_cap=2)), "weight cap 2"),
        "rounds": (replace(manifest, rounds=1001), "1001 rounds"),
        "scheme": (replace(manifest, scheme="plain"), "scheme plain is not allowed"),
        "weight rule": (replace(manifest, settings=with_rule(manifest, "1e3")), "examples_per_weight"),
        "negative rule": (replace(manifest, settings=with_rule(manifest, "-1")), "examples_per_weight"),
        "model set": (manifest, "base model is not one of those allowed"),
    }


MODEL = ("layout", "base_model", "tokenizer", "lora_config", "initial_adapter")
NAMES = (*MODEL, "size", "roster", "sites", "threshold", "weight", "rounds", "scheme", "weight rule", "negative rule",
         "model set")  # fmt: skip


def numbers(n: int, colluders: int) -> dict[str, int]:
    kept = plan_thresholds(n, colluders)
    return {
        "colluders": kept.colluders, "dropouts": kept.dropouts, "threshold": kept.threshold, "quorum": kept.quorum,
        "least_survivors": kept.least_survivors,
    }  # fmt: skip


def with_rule(manifest: Manifest, rule: str) -> tuple[Setting, ...]:
    return tuple(Setting(each.name, rule) if each.name == "examples_per_weight" else each for each in manifest.settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_that_is_not_what_the_site_has_or_allows_begins_no_session(bench: Bench, name: str) -> None:
    bench.policies[ME] = Policy(base_models=(Dice("mine")(32),) if name == "model set" else ())
    bench.restart(ME)
    refused: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.kind != "consent" or where.site != ME or refused:
            return packets
        manifest, says = lies(Manifest.decode(packets[0].head))[name]
        before = bench.state(ME)
        with pytest.raises(Refused, match=says):
            bench.link.members[ME].handle("consent", [Packet(manifest.encode())])
        assert bench.state(ME) == before == {}
        with pytest.raises(Refused, match="not agreed to that session"):
            bench.link.members[ME].handle("start", [Packet(RoundStart(manifest.digest(), 1, ()).encode())])
        assert bench.state(ME) == {}
        refused.append(name)
        return packets

    bench.link.alter_request = request
    result = bench.run(rounds=1)
    assert refused
    assert bench.learners[ME].trained == ([] if name == "model set" else [1])
    bench.assert_result(result, saved_at=bench.but(ME) if name == "model set" else None)


def test_a_policy_that_forbids_the_manifest_is_a_refusal_and_the_others_go_on(bench: Bench) -> None:
    bench.policies[ME] = Policy(least_survivors=5)
    bench.restart(ME)
    bench.assert_right(bench.run(), *[bench.but(ME)] * 2, saved_at=bench.but(ME))
    assert set(bench.codes(ME)) == {("consent", "refused")}
    assert bench.state(ME) == {}


def test_a_site_that_refuses_before_its_model_is_loaded_does_not_end_the_session(bench: Bench) -> None:
    bench.policies[ME] = Policy(schemes=("ckks",))
    bench.restart(ME)
    bench.assert_right(bench.run(), *[bench.but(ME)] * 2, saved_at=bench.but(ME))
    assert set(bench.codes(ME)) == {("propose", "refused")}


def test_policies_that_leave_too_few_sites_end_the_run_before_anybody_trains(bench: Bench) -> None:
    for name in bench.names[:2]:
        bench.policies[name] = Policy(least_threshold=5)
    bench.restart(*bench.names)
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert ended.value.problem == "3 sites agreed to the session, it needs 4"
    assert not any(learner.trained for learner in bench.learners.values())


def test_a_second_session_on_the_nonce_of_the_first_is_refused(told: Bench) -> None:
    """Two sums over survivor sets that differ by one site, from one adapter, give that site's update away."""
    manifest = manifest_of(told)
    again = replace(manifest, rounds=manifest.rounds - 1)
    refuses(told, ("consent", [Packet(again.encode())]), Refused, "another session used this nonce")
    goes_on(told)


def another_session(bench: Bench) -> Manifest:
    """One that the sites would agree to if it were the only one."""
    manifest, nonce = manifest_of(bench), Dice("another nonce")(32)
    digest = adapter_digest(LAYOUT, initial_adapter(LAYOUT, nonce))
    return replace(manifest, nonce=nonce, initial_adapter=digest)


def test_a_process_that_answered_in_one_session_takes_part_in_no_other(told: Bench) -> None:
    site, other = told.link.members[ME], another_session(told)
    before = told.state(ME)
    for asked in (("consent", other), ("propose", Proposal(1, "masked", other.nonce, other.roster, other.settings))):
        with pytest.raises(Refused, match="takes part in another session"):
            site.handle(asked[0], [Packet(asked[1].encode())])
        assert told.state(ME) == before
    goes_on(told)


def test_a_new_session_after_a_restart_erases_the_secrets_of_the_old_one(told: Bench) -> None:
    told.link.members[ME].handle(*start(told, 2, checkpoint(told).aggregate(1)))
    folder = told.session_folder(ME)
    for name in ("client.sealed", ".client.sealed.new", ".update-2.f32.new"):
        (folder / name).write_bytes(b"left behind")
    told.restart(ME)
    told.link.members[ME].handle("consent", [Packet(another_session(told).encode())])
    assert {each.name for each in folder.iterdir()} == {
        "answers.log", "manifest.cbor", "roster.cbor", "layout.json", "rounds", "position.cbor", "adapter-1.f32"
    }  # fmt: skip


def test_a_proposal_under_another_roster_is_refused_before_anything_is_loaded(bench: Bench) -> None:
    proposal = Proposal(1, "masked", Dice("n")(32), Dice("other roster")(32), ())
    bench.learners[ME].prepare = None  # type: ignore[assignment, method-assign]
    refuses(bench, ("propose", [Packet(proposal.encode())]), Refused, "another roster")


def test_a_session_the_site_never_agreed_to_leaves_nothing_on_its_disk(told: Bench) -> None:
    """Otherwise a server could fill the disk with folders, a fresh digest each."""
    other = Dice("another session")(32)
    refuses(told, start(told, 1, session=other), Refused, "not agreed to that session")
    refuses(told, ("answer", [Packet(AttemptRef(other, 1, 1).encode())] * 2), Refused, "not agreed")
    refuses(told, ("finish", [Packet(Finish(other, 0, ()).encode())]), Refused, "not agreed")
    goes_on(told)


# ---------------------------------------------------------------------- replays


def test_requests_of_earlier_attempts_and_rounds_are_refused_when_they_come_again(bench: Bench) -> None:
    """Everything the site was ever sent, again and in order, after each round: nothing is answered twice."""
    sent: list[tuple[Where, Sequence[Packet]]] = []
    voided: list[str] = []

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        if where.asks("mask", 1, 1) and where.site != ME:
            voided.append(where.site)  # attempt 1 of round 1 is void after ME has masked
            return None
        if where.site == ME:
            sent.append((where, packets))
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.names)
    answers = [(where, packets) for where, packets in sent if where.kind == "answer"]
    assert {(where.round, where.attempt) for where, _ in answers} == {(1, 1), (1, 2), (2, 1)}
    for restarts in (False, True):
        if restarts:
            bench.restart(ME)
        before = bench.state(ME)
        for where, packets in answers:
            with pytest.raises(SecAggError) as refusal:
                bench.link.members[ME].handle("answer", packets)
            assert refusal.value.code == "refused", where
        assert bench.state(ME) == before
    starts = [packets for where, packets in sent if where.kind == "start"]
    for packets in starts:
        with pytest.raises(Refused):
            bench.link.members[ME].handle("start", packets)
    assert bench.state(ME) == before
    assert bench.learners[ME].trained == [1, 2]


def test_an_older_attempt_is_refused_once_a_newer_one_has_begun(bench: Bench) -> None:
    first: dict[str, Sequence[Packet]] = {}

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet] | None:
        if where.asks("consent", 1, 1):
            first[where.site] = packets
            return None
        if where.asks("share", 1, 2) and where.site == ME:
            before = bench.state(ME)
            with pytest.raises(Refused, match="not after the last one"):
                bench.link.members[ME].handle("answer", first[ME])
            assert bench.state(ME) == before
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.names)
    assert len(first) == 5


def test_a_false_opening_of_a_new_attempt_does_not_end_the_attempt_under_way(bench: Bench) -> None:
    """Not even one that names attempt 1000: nothing was answered, so nothing is written."""

    def request(where: Where, packets: Sequence[Packet]) -> Sequence[Packet]:
        if where.asks("mask") and where.site == ME:
            manifest = manifest_of(bench)
            header = Position.start(manifest).header(manifest, 1000)
            kind, (ref, opened) = opening(bench, header)
            forged = replace(RoundOpen.decode(opened.head), signature=bytes(64))
            refuses(bench, (kind, [ref, Packet(forged.encode())]), FaultyServer, "not opened by the session's server")
        return packets

    bench.link.alter_request = request
    bench.assert_right(bench.run(), bench.names, bench.names)


@pytest.mark.parametrize("field", ["session", "round", "adapter", "previous", "range_q40", "attempt", "roster"])
def test_a_header_off_the_sites_own_chain_is_refused(told: Bench, field: str) -> None:
    """Two headers to two sites: each accepts only the one that its own chain of rounds gives."""
    site = told.link.members[ME]
    placed = Ready.decode(site.handle(*start(told, 2, checkpoint(told).aggregate(1))).head).position
    header = placed.header(manifest_of(told), 1)
    value = getattr(header, field)
    lie = replace(header, **{field: value + 1 if isinstance(value, int) else Dice("lie")(32)})
    ref = Packet(AttemptRef(header.session, 2, 1).encode())
    for signed_for, says in ((lie, "not opened by the session's server"), (header, "header is not the one")):
        _, (_, request) = opening(told, lie, signed_for)
        refuses(told, ("answer", [ref, request]), FaultyServer, says)
    if field == "round":
        refuses(told, opening(told, lie), Refused, "round 3 is not the next one")
    goes_on(told)


def test_a_session_that_ends_early_leaves_no_secret_of_the_round_under_way(told: Bench) -> None:
    site, manifest = told.link.members[ME], manifest_of(told)
    site.handle(*start(told, 2, checkpoint(told).aggregate(1)))
    assert [name for name in told.state(ME) if "update-2" in name]
    site.handle("finish", [Packet(Finish(manifest.digest(), 1, ()).encode())])
    assert not [name for name in told.state(ME) if "update" in name or "client" in name]


def test_a_finish_at_another_round_is_refused_and_saves_nothing(told: Bench) -> None:
    manifest = manifest_of(told)
    for rounds in (2, 3):
        asked = "finish", [Packet(Finish(manifest.digest(), rounds, (1,)).encode()), checkpoint(told).aggregate(1)]
        refuses(told, asked, FaultyServer)
    refuses(told, ("finish", [Packet(Finish(manifest.digest(), 3, ()).encode())]), Refused, "did not get to that round")
    assert told.learners[ME].saved is None
    assert not told.link.members[ME].finished
    goes_on(told)


def test_a_consent_says_where_the_site_stands_and_agreeing_twice_changes_nothing(told: Bench) -> None:
    manifest, site = manifest_of(told), told.link.members[ME]
    site.handle(*start(told, 2, checkpoint(told).aggregate(1)))
    before = told.state(ME)
    consent = Consent.decode(site.handle("consent", [Packet(manifest.encode())]).head)
    assert consent.position.round == 1
    assert told.state(ME) == before
    goes_on(told)
