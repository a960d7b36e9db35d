"""A sum is believed only if it is that of the vectors which its survivors signed (spec §15)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import FaultyPeerOrServer, FaultyServer, FaultySite, Malformed, Refused, SecAggError
from secagg.masked.checks import require_record
from secagg.masked.graph import challenge_seed
from secagg.masked.messages import (
    MaskedAggregate,
    Projections,
    Revealed,
    RoundRecord,
    masked_words_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.masked.states import Shared, decode_state
from secagg.session import Packet, Words
from secagg.tally import WORDS
from tests.masked.stage import (
    aggregate,
    client_of,
    flipped,
    projections,
    refuses,
    request,
    resigned,
    scene,
    swapped,
    without,
)
from tests.sim import Round, federation, plain_mean


@cache
def finished() -> tuple[Round, MaskedAggregate, Words]:
    """Seven sites of which one drops out before masking is over, and what the server publishes."""
    round_ = federation(7, 8, drop={"mask": ["site-07"]})
    packet = round_.run().payload
    assert packet.words is not None
    return round_, MaskedAggregate.decode(packet.head), packet.words


def forged(words: Words) -> RoundRecord:
    """The record with another sum in it."""
    round_, head, _ = finished()
    return replace(head.record, sum_words=sum_words_digest(round_.context.digest, words))


def refused(head: MaskedAggregate, words: Words, error: type[SecAggError], rule: str) -> None:
    round_, _, _ = finished()
    with pytest.raises(error, match=rule) as caught:
        round_.scheme.open(round_.site_context, Packet(head.encode(), words))
    assert type(caught.value) is error


def refused_though_signed(words: Words) -> None:
    """Every survivor has signed true projections for the record with this sum."""
    round_, _, _ = finished()
    packet = aggregate(round_, forged(words), words)
    refused(MaskedAggregate.decode(packet.head), words, FaultyServer, "not that of the survivors' vectors")


def test_the_true_sum_is_believed() -> None:
    round_, head, words = finished()
    mean = round_.scheme.open(round_.site_context, Packet(head.encode(), words))
    assert len(mean.contributors) == 6
    assert mean.transcript == head.record.transcript()


LIES: dict[str, Callable[[Words], Words]] = {
    "adds one to a word": lambda x: x + np.eye(1, x.size, 0, dtype=np.uint64)[0],
    "adds a lane's carry": lambda x: x + np.uint64(1 << 12) * np.eye(1, x.size, 0, dtype=np.uint64)[0],
    "drops a word": lambda x: np.where(np.arange(x.size) == 0, np.uint64(0), x),
    "swaps two words": lambda x: x[[1, 0, *range(2, x.size)]],
    "scales the sum": lambda x: x * np.uint64(2),
    "publishes zeros": np.zeros_like,
    "flips the highest bit of a word": lambda x: x ^ np.uint64(1 << 63) * np.eye(1, x.size, 1, dtype=np.uint64)[0],
    "inflates the tally of weights": lambda x: x + np.eye(1, x.size, x.size - len(WORDS) + 1, dtype=np.uint64)[0],
    "leaves out one survivor's vector": lambda x: x - finished()[0].archive.get("site-01"),
    "adds one survivor's vector twice": lambda x: x + finished()[0].archive.get("site-01"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_server_that_alters_the_sum_is_caught_by_whoever_opens_it(lie: str) -> None:
    _, _, words = finished()
    altered = LIES[lie](words)
    assert not np.array_equal(altered, words)
    refused_though_signed(altered)


@settings(max_examples=100)
@given(st.data())
def test_any_word_altered_by_any_amount_is_caught(data: st.DataObject) -> None:
    _, _, words = finished()
    altered = words.copy()
    for at in data.draw(st.sets(st.integers(0, words.size - 1), min_size=1)):
        altered[at : at + 1] += np.uint64(data.draw(st.integers(1, 2**64 - 1)))
    refused_though_signed(altered)


def test_a_forged_sum_with_the_projections_of_the_true_record_is_refused() -> None:
    _, head, words = finished()
    altered = words + np.uint64(1)
    refused(replace(head, record=forged(altered)), altered, FaultyServer, "projections are of another record")


def test_projections_nobody_signed_prove_nothing() -> None:
    round_, head, words = finished()
    false = replace(head.projections[0], values=flipped(head.projections[0].values))
    bad = replace(head, projections=swapped(head.projections, "site-01", false))
    refused(bad, words, FaultyPeerOrServer, "site-01: its Projections is not signed")
    theirs = resigned(round_.context, round_.consortium.keys["site-02"], head.projections[0])
    bad = replace(head, projections=swapped(head.projections, "site-01", theirs))
    refused(bad, words, FaultyPeerOrServer, "site-01: its Projections is not signed")


def test_false_projections_of_a_survivor_part_the_sum_from_its_vectors() -> None:
    """The server throws them out; one that publishes them all the same is not believed."""
    round_, head, words = finished()
    false = projections(round_, head.record, "site-01", round_.archive.get("site-02"))
    bad = replace(head, projections=swapped(head.projections, "site-01", false))
    refused(bad, words, FaultyServer, "not that of the survivors' vectors")


def test_projections_of_a_dropout_do_not_count() -> None:
    round_, head, words = finished()
    more = projections(round_, head.record, "site-07", round_.archive.get("site-01"))
    refused(replace(head, projections=(*head.projections, more)), words, FaultyServer, "outside the survivor set")


def test_a_survivor_without_projections_must_have_its_words_there() -> None:
    round_, head, words = finished()
    fewer = replace(head, projections=without(head.projections, "site-03"))
    refused(fewer, words, FaultyServer, "10 for each of 1 silent sites")
    true = round_.archive.get("site-03")
    whole = np.concatenate((words, true))
    mean = round_.scheme.open(round_.site_context, Packet(fewer.encode(), whole))
    wanted = round_.scheme.open(round_.site_context, Packet(head.encode(), words))
    assert mean.values.tobytes() == wanted.values.tobytes()
    assert mean.transcript == wanted.transcript
    refused(head, whole, FaultyServer, "10 for each of 0 silent sites")


def test_words_in_place_of_projections_are_those_their_site_signed() -> None:
    """The server shifts what it wants from the sum to the silent site, whose digest gives it away."""
    round_, head, words = finished()
    fewer = replace(head, projections=without(head.projections, "site-03"))
    altered = round_.archive.get("site-03") + np.uint64(1)
    refused(fewer, np.concatenate((words, altered)), FaultyServer, "words of site-03 are not those it signed")
    assert masked_words_digest(round_.context.digest, altered) != head.record.vectors[2].words


def test_with_every_survivor_silent_the_vectors_themselves_prove_the_sum() -> None:
    round_, head, words = finished()
    vectors = [round_.archive.get(each.site) for each in head.record.vectors]
    bare = MaskedAggregate(head.record, ())
    round_.scheme.open(round_.site_context, Packet(bare.encode(), np.concatenate([words, *vectors])))
    altered = words + np.uint64(1)
    bad = MaskedAggregate(forged(altered), ())
    refused(bad, np.concatenate([altered, *vectors]), FaultyServer, "not that of the survivors' vectors")


# ------------------------------------------------------------------ at a site


def test_a_site_gives_projections_once_and_for_the_record_of_its_own_survivor_set_only() -> None:
    round_ = scene("check", 7, drop={"mask": ["site-07"]})
    record = request(round_)
    assert isinstance(record, RoundRecord)
    other = replace(record, vectors=record.vectors[:-1], seeds=record.seeds[:-1])
    refuses(round_, other, FaultyServer, "another survivor set|outside the survivor set")
    reply = client_of(round_).handle(Packet(record.encode()))
    assert Projections.decode(reply.head) == projections(round_, record, "site-02")
    assert reply.words is None
    refuses(round_, record, FaultyServer, "RoundRecord out of order at stage checked")


def test_a_site_projects_for_no_other_survivor_set_even_if_everybody_signed_it() -> None:
    """The record is whole and stands by itself: only the site's own memory of what it signed stops it."""
    round_ = federation(7, 8).until("mask")
    gone = decode_state(round_.clients["site-07"].to_bytes()[32:])
    assert isinstance(gone, Shared)
    record = request(round_.until("check"))
    assert isinstance(record, RoundRecord)
    vectors = without(record.vectors, "site-07")
    h3 = survivor_set_digest(round_.context.digest, vectors)
    signed = tuple(
        resigned(round_.context, round_.consortium.keys[each.site], replace(each, survivor_set=h3))
        for each in without(record.signatures, "site-07")
    )
    other = replace(
        record, vectors=vectors, signatures=signed, seeds=without(record.seeds, "site-07"),
        keys=(Revealed("site-07", gone.mask_secret),),
    )  # fmt: skip
    require_record(round_.context, other)
    refuses(round_, other, FaultyServer, "names another survivor set than this site signed")


def test_a_site_signs_no_record_whose_secrets_or_signatures_do_not_hold() -> None:
    round_ = scene("check", 7, drop={"mask": ["site-07"]})
    record = request(round_)
    assert isinstance(record, RoundRecord)
    seed = replace(record.seeds[0], secret=flipped(record.seeds[0].secret))
    refuses(round_, replace(record, seeds=(seed, *record.seeds[1:])), FaultyServer, "seed of site-01")
    few = replace(record, signatures=record.signatures[:1])
    refuses(round_, few, FaultyServer, "fewer than the quorum")
    unsigned = replace(record.adverts[0], signature=bytes(64))
    bad = replace(record, adverts=swapped(record.adverts, "site-01", unsigned))
    refuses(round_, bad, FaultyPeerOrServer, "site-01: its KeyAdvert is not signed")


def test_a_site_that_lost_its_words_refuses_and_they_travel_in_its_place() -> None:
    lossless = federation(7, 8)
    wanted = lossless.mean(lossless.run())
    round_ = federation(7, 8, restart=True, keeps_words=False)
    aggregate_ = round_.run()
    assert all(type(error) is Refused for error in round_.refusals.values())
    assert set(round_.refusals) == set(round_.consortium.names)
    assert MaskedAggregate.decode(aggregate_.payload.head).projections == ()
    assert round_.mean(aggregate_).values.tobytes() == wanted.values.tobytes()


# ------------------------------------------------------------------ at the server


@pytest.mark.parametrize("phase", ["consent", "unmask", "check"])
def test_a_site_that_vanishes_after_masking_leaves_a_sum_that_everybody_can_check(phase: str) -> None:
    round_ = federation(7, 40, drop={phase: ["site-05"]})
    done = round_.run()
    head = MaskedAggregate.decode(done.payload.head)
    assert [each.site for each in head.projections] == [n for n in round_.consortium.names if n != "site-05"]
    assert "site-05" in done.contributors
    error = round_.mean(done).values - plain_mean(round_.updates, done.contributors)
    step = 2 / 255  # of the quantiser; the rotation is orthonormal
    assert np.sqrt(np.mean(error**2)) < step


def test_the_server_throws_out_false_projections_and_names_their_site() -> None:
    def lie(phase: str, site: str, packet: Packet) -> Packet | None:
        if (phase, site) != ("check", "site-05"):
            return packet
        return Packet(projections(round_, record, site, round_.archive.get("site-01")).encode())

    round_ = federation(7, 8, alter_reply=lie).until("check")
    record = RoundRecord.decode(round_.server.requests()["site-05"].head)
    done = round_.run()
    assert {site: type(error) for site, error in round_.server.faults.items()} == {"site-05": FaultySite}
    assert "site-05" not in {each.site for each in MaskedAggregate.decode(done.payload.head).projections}
    assert len(round_.mean(done).contributors) == 7


@pytest.mark.parametrize("what", ["another record", "another name", "bad signature", "words beside it", "garbage"])
def test_a_faulty_answer_to_the_check_counts_for_nothing(what: str) -> None:
    def spoil(phase: str, site: str, packet: Packet) -> Packet | None:
        if (phase, site) != ("check", "site-05"):
            return packet
        message, keys = Projections.decode(packet.head), round_.consortium.keys[site]
        return {
            "another record": Packet(resigned(round_.context, keys, replace(message, record=bytes(32))).encode()),
            "another name": Packet(resigned(round_.context, keys, replace(message, site="site-06")).encode()),
            "bad signature": Packet(replace(message, signature=flipped(message.signature)).encode()),
            "words beside it": replace(packet, words=np.zeros(1, np.uint64)),
            "garbage": Packet(b"\x83\x16"),
        }[what]

    round_ = federation(7, 8, alter_reply=spoil)
    done = round_.run()
    assert set(round_.server.faults) == {"site-05"}
    assert isinstance(round_.server.faults["site-05"], FaultySite | FaultyPeerOrServer | Malformed)
    assert len(round_.mean(done).contributors) == 7


def test_with_projections_a_colluder_gets_no_further_than_with_its_own_vector() -> None:
    """A colluder that signs false projections moves the sum by what it claims, as if it had sent it; no other moves."""
    round_, _, words = finished()
    altered = words.copy()
    altered[0] += np.uint64(3)
    record = forged(altered)
    shifted = round_.archive.get("site-01").copy()
    shifted[0] += np.uint64(3)
    lie = projections(round_, record, "site-01", shifted)
    signed = tuple(projections(round_, record, each.site) for each in record.vectors)
    head = MaskedAggregate(record, swapped(signed, "site-01", lie))
    round_.scheme.open(round_.site_context, Packet(head.encode(), altered))
    vector = next(each for each in record.vectors if each.site == "site-01")
    assert masked_words_digest(round_.context.digest, shifted) != vector.words  # the audit finds it: spec §15.3


# ------------------------------------------------------------------ what the check rests on


def test_a_site_projects_no_other_words_than_those_it_signed() -> None:
    """Its disk gave back others: it refuses, and its words travel from the server's archive."""
    round_ = scene("check", 7, drop={"mask": ["site-07"]})
    record = request(round_)
    assert isinstance(record, RoundRecord)
    saved, keys = round_.clients["site-02"].to_bytes(), round_.consortium.keys["site-02"]
    for sent in (round_.archive.get("site-01"), round_.archive.get("site-02")[:-1], None):
        parts = (round_.site_context, keys, round_.policy, saved, None, bytes, sent)
        with pytest.raises(Refused, match="words are lost"):
            round_.scheme.restore(*parts).handle(Packet(record.encode()))  # type: ignore[arg-type]
    parts = (round_.site_context, keys, round_.policy, saved, None, bytes, round_.archive.get("site-02"))
    reply = round_.scheme.restore(*parts).handle(Packet(record.encode()))  # type: ignore[arg-type]
    assert Projections.decode(reply.head) == projections(round_, record, "site-02")


def test_the_challenge_is_another_one_for_every_record_and_attempt() -> None:
    """Were it known before the sum is fixed, a server could choose a false sum that has the same products."""
    round_, head, words = finished()
    again = replace(round_.context, header=replace(round_.context.header, attempt=2))
    records = [head.record.transcript(), forged(words + np.uint64(1)).transcript()]
    seeds = [challenge_seed(context, record) for context in (round_.context, again) for record in records]
    assert len(set(seeds)) == 4


def test_the_transcript_binds_every_part_of_the_record() -> None:
    _, head, _ = finished()
    record = head.record
    others = [
        replace(record, header=replace(record.header, attempt=2)), replace(record, sum_words=flipped(record.sum_words)),
        *[replace(record, **{name: getattr(record, name)[1:]})
          for name in ("adverts", "statements", "vectors", "signatures", "seeds", "keys")],
    ]  # fmt: skip
    assert len({each.transcript() for each in (record, *others)}) == 9


def test_a_sum_of_more_than_one_block_is_proved_to_its_end() -> None:
    """Five lanes to a word: 200,000 values are 40,000 words, and a block has 32,768."""
    round_ = federation(4, 200_000)
    packet = round_.run().payload
    assert packet.words is not None
    head = MaskedAggregate.decode(packet.head)
    round_.scheme.open(round_.site_context, packet)
    for at in (0, 32_767, 32_768, packet.words.size - len(WORDS) - 1):
        altered = packet.words.copy()
        altered[at] += np.uint64(1)
        digest = sum_words_digest(round_.context.digest, altered)
        with pytest.raises(FaultyServer, match="not that of the survivors' vectors"):
            round_.scheme.open(round_.site_context, aggregate(round_, replace(head.record, sum_words=digest), altered))


def test_a_server_does_not_go_on_with_the_record_of_another_attempt_or_archive() -> None:
    round_ = scene("check", 7, drop={"mask": ["site-07"]})
    keys, blob = round_.consortium.server_keys, round_.server.to_bytes()
    assert round_.scheme.resume(round_.context, keys, round_.archive, blob).phase == "check"
    again = replace(round_.context, header=replace(round_.context.header, attempt=2))
    with pytest.raises(Malformed, match="another attempt"):
        round_.scheme.resume(again, keys, round_.archive, blob)
    round_.archive.put("site-01", round_.archive.get("site-01") + np.uint64(1))
    with pytest.raises(Malformed, match="not the one the record was made from"):
        round_.scheme.resume(round_.context, keys, round_.archive, blob)


def test_a_server_does_not_go_on_with_an_archive_whose_vectors_have_another_length() -> None:
    round_ = scene("check", 7)
    keys, blob, words = round_.consortium.server_keys, round_.server.to_bytes(), round_.archive.get("site-01")
    for other in (words[:-1], np.append(words, words[:1]), words[:1]):
        round_.archive.put("site-01", other)
        with pytest.raises(Malformed, match="not the one the record was made from"):
            round_.scheme.resume(round_.context, keys, round_.archive, blob)


def test_a_site_gives_no_projections_for_a_record_of_vectors_that_it_did_not_sign() -> None:
    """Though a quorum signed it: the same survivors, one of them with another vector than this site was shown."""
    round_ = scene("check", 7, drop={"mask": ["site-07"]})
    record, keys = request(round_), round_.consortium.keys
    assert isinstance(record, RoundRecord)
    first = record.vectors[0]
    assert first.site == "site-01"
    other = resigned(round_.context, keys[first.site], replace(first, words=flipped(first.words)))
    vectors = (other, *record.vectors[1:])
    h3 = survivor_set_digest(round_.context.digest, vectors)
    signatures = tuple(
        resigned(round_.context, keys[each.site], replace(each, survivor_set=h3)) for each in record.signatures
    )
    false = replace(record, vectors=vectors, signatures=signatures)
    refuses(round_, false, FaultyServer, "the record names another survivor set than this site signed")
