"""What a site believes of an aggregate: only what signatures, commitments and its own chain say."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import FaultyPeerOrServer, FaultyServer, Malformed, SecAggError
from secagg.masked.messages import (
    MaskedAggregate,
    Revealed,
    RoundRecord,
    key_roster_digest,
    share_set_digest,
    sum_words_digest,
    survivor_set_digest,
)
from secagg.session import Packet
from tests.masked.stage import aggregate, flipped, resigned, swapped, without
from tests.sim import Round, federation


@cache
def finished() -> tuple[Round, RoundRecord, np.ndarray]:
    """Seven sites of which one drops out, the record of their round, and the sum."""
    round_ = federation(7, 8, drop={"mask": ["site-07"]})
    packet = round_.run().payload
    assert packet.words is not None
    return round_, MaskedAggregate.decode(packet.head).record, packet.words


def refused(head: RoundRecord, error: type[SecAggError], rule: str, words: np.ndarray | None = None) -> None:
    """The record is refused for this reason, though its sites gave projections for it and one lies for the sum."""
    round_, _, true_words = finished()
    packet = aggregate(round_, head, true_words if words is None else words, liar="site-01")
    with pytest.raises(error, match=rule) as caught:
        round_.scheme.open(round_.site_context, packet)
    assert type(caught.value) is error


@settings(max_examples=300)
@given(st.data())
def test_an_aggregate_altered_in_any_bit_of_its_head_is_refused(data: st.DataObject) -> None:
    round_, head, words = finished()
    encoded = bytearray(aggregate(round_, head, words).head)
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SecAggError):
        round_.scheme.open(round_.site_context, Packet(bytes(encoded), words))


@settings(max_examples=100)
@given(st.data())
def test_a_sum_altered_in_any_bit_is_refused(data: st.DataObject) -> None:
    round_, head, words = finished()
    altered = words.copy()
    at = data.draw(st.integers(0, words.size - 1))
    altered[at] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    with pytest.raises(FaultyServer, match="not the one that its record names"):
        round_.scheme.open(round_.site_context, aggregate(round_, head, altered))


def test_a_sum_of_another_length_or_without_words_is_refused() -> None:
    round_, head, words = finished()
    for wrong in (words[:-1], np.append(words, words[:1]), None):
        with pytest.raises(FaultyServer, match="words"):
            round_.scheme.open(round_.site_context, aggregate(round_, head, wrong))


def test_an_aggregate_of_another_attempt_is_refused() -> None:
    round_, head, words = finished()
    other = replace(round_.consortium.context(round_.context.manifest, attempt=2), cohort=())
    with pytest.raises(FaultyServer, match="another round"):
        round_.scheme.open(other, aggregate(round_, head, words))


def test_the_survivors_of_an_aggregate_are_those_a_quorum_signed() -> None:
    round_, head, _ = finished()
    quorum = round_.context.manifest.quorum
    refused(replace(head, signatures=head.signatures[: quorum - 1]), FaultyServer, "fewer than the quorum")
    fewer = replace(head, vectors=head.vectors[:-1], seeds=head.seeds[:-1])
    refused(fewer, FaultyServer, "outside the survivor set|another survivor set")
    less = replace(head, vectors=head.vectors[:4], seeds=head.seeds[:4])
    refused(less, FaultyServer, "below the fewest survivors")


def test_every_list_of_an_aggregate_must_hang_together() -> None:
    round_, head, _ = finished()
    context, keys = round_.context, round_.consortium.keys
    refused(replace(head, adverts=head.adverts[:-1]), FaultyServer, "outside the key roster")
    gone = replace(head, adverts=without(head.adverts, "site-07"), statements=without(head.statements, "site-07"))
    refused(gone, FaultyPeerOrServer, "another key roster")
    refused(replace(head, statements=without(head.statements, "site-07")), FaultyPeerOrServer, "share set")
    shorter = replace(head, statements=without(head.statements, "site-01"))
    refused(shorter, FaultyPeerOrServer, "masked over another share set")
    other = resigned(context, keys["site-02"], replace(head.statements[1], boxes=bytes(32)))
    refused(replace(head, statements=swapped(head.statements, "site-02", other)), FaultyPeerOrServer, "share set")
    vector = resigned(context, keys["site-02"], replace(head.vectors[1], words=bytes(32)))
    refused(replace(head, vectors=swapped(head.vectors, "site-02", vector)), FaultyServer, "another survivor set")


def conspiracy(head: RoundRecord) -> RoundRecord:
    """The same lists, each signed again over the one before by every site: only the rules themselves are left."""
    round_, _, _ = finished()
    context, keys = round_.context, round_.consortium.keys
    h1 = key_roster_digest(context.digest, head.adverts)
    statements = tuple(resigned(context, keys[each.site], replace(each, key_roster=h1)) for each in head.statements)
    h2 = share_set_digest(context.digest, statements)
    vectors = tuple(resigned(context, keys[each.site], replace(each, share_set=h2)) for each in head.vectors)
    h3 = survivor_set_digest(context.digest, vectors)
    signatures = tuple(resigned(context, keys[each.site], replace(each, survivor_set=h3)) for each in head.signatures)
    return replace(head, statements=statements, vectors=vectors, signatures=signatures)


def test_even_a_chain_that_everybody_signed_must_obey_the_rules() -> None:
    round_, head, words = finished()
    round_.scheme.open(round_.site_context, aggregate(round_, conspiracy(head), words))
    unsigned = replace(head.adverts[0], signature=flipped(head.adverts[0].signature))
    bad = conspiracy(replace(head, adverts=swapped(head.adverts, "site-01", unsigned)))
    refused(bad, FaultyPeerOrServer, "site-01: its KeyAdvert is not signed")
    outside = conspiracy(replace(head, statements=without(head.statements, "site-01")))
    refused(outside, FaultyServer, "outside the share set")
    unknown = conspiracy(replace(head, adverts=without(head.adverts, "site-01")))
    refused(unknown, FaultyServer, "outside the key roster")
    few = replace(head, vectors=head.vectors[:4], signatures=head.signatures[:4], seeds=head.seeds[:4])
    refused(conspiracy(few), FaultyServer, "below the fewest survivors")
    gone = conspiracy(replace(head, vectors=head.vectors[1:], seeds=head.seeds[1:]))
    refused(gone, FaultyServer, "a site outside the survivor set is counted")


def test_the_revealed_secrets_must_be_the_committed_ones_of_the_right_sites() -> None:
    _, head, _ = finished()
    false = Revealed("site-01", flipped(head.seeds[0].secret))
    refused(replace(head, seeds=(false, *head.seeds[1:])), FaultyServer, "seed of site-01 is not the one")
    refused(replace(head, seeds=head.seeds[1:]), FaultyServer, "revealed secrets are not")
    refused(replace(head, keys=()), FaultyServer, "revealed secrets are not")
    refused(replace(head, keys=(Revealed("site-01", bytes(32)),)), FaultyServer, "revealed secrets are not")
    wrong = Revealed("site-07", flipped(head.keys[0].secret, 5))
    refused(replace(head, keys=(wrong,)), FaultyServer, "key of site-07 is not the one it advertised")


@pytest.mark.parametrize(
    ("at", "value", "rule"),
    [
        (-8, 5, "does not count every survivor once"),
        (-8, 7, "does not count every survivor once"),
        (-7, 5, "does not count every survivor once"),
        (-7, 7, "larger than its survivors"),
        (-6, 5, "does not count every survivor once"),
        (-6, 2**40, "larger than its survivors"),
        (-5, 2**63, "larger than its survivors"),
        (-4, 2**63, "larger than its survivors"),
        (-3, 2**63, "larger than its survivors"),
        (-2, 6 * 8 + 1, "larger than its survivors"),
        (-1, 2**63, "larger than its survivors"),
    ],
)
def test_a_tally_that_the_survivors_cannot_have_made_is_refused(at: int, value: int, rule: str) -> None:
    """Six survivors of weight 1 and eight values each; a colluder helps to forge the sum."""
    round_, head, words = finished()
    forged = words.copy()
    forged[at] = value
    digest = sum_words_digest(round_.context.digest, forged)
    refused(replace(head, sum_words=digest), FaultyServer, rule, forged)


def test_a_forged_sum_with_bits_above_its_lanes_or_levels_is_refused() -> None:
    round_, head, words = finished()
    manifest = round_.context.manifest
    for value in (2**64 - 1, (1 << manifest.quantizer.lane_bits) - 1):
        forged = words.copy()
        forged[0] = value
        digest = sum_words_digest(round_.context.digest, forged)
        refused(replace(head, sum_words=digest), FaultyServer, "sum", forged)


def test_garbage_is_malformed() -> None:
    round_, head, words = finished()
    whole = aggregate(round_, head, words).head
    for bad in (b"", b"\x80", whole[:-1], whole + b"\x00", bytes(1 << 21), head.encode()):
        with pytest.raises(Malformed):
            round_.scheme.open(round_.site_context, Packet(bad, words))
