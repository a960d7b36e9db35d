"""Every scheme: a site that lies is dropped and named, a server that lies is refused, and nothing changes by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from secagg.errors import FaultyServer, FaultySite, Malformed, Misuse, SecAggError
from secagg.session import Packet
from tests.contract.phases import PHASES, VECTOR, after_vector, each_phase, schemes
from tests.contract.test_sums import assert_exact, exact
from tests.sim import Consortium, Dice, Round, federation

LIAR = "site-03"
ME = "site-02"


# ------------------------------------------------------------------ sites that lie


def lying(scheme: str, phase: str, lie: Callable[[Packet], Packet]) -> Round:
    """A finished round in which one site's reply of one phase was replaced."""
    round_ = exact(scheme, 7)
    round_.alter_reply = lambda now, site, packet: lie(packet) if (now, site) == (phase, LIAR) else packet
    round_.run()
    return round_


def assert_dropped(round_: Round, phase: str, *errors: type[SecAggError]) -> None:
    """The liar alone is named, and the sum is exact over all others."""
    assert {site: type(fault) in errors for site, fault in round_.server.faults.items()} == {LIAR: True}
    assert_exact(round_)
    assert (LIAR in round_.server.result().contributors) == (phase in after_vector(round_.scheme.name))


@each_phase()
@pytest.mark.parametrize("head", [b"", b"\x80", b"\x81\x0b", b"\x9f\xff"])
def test_garbage_in_any_phase_counts_as_a_dropout(scheme: str, phase: str, head: bytes) -> None:
    assert_dropped(lying(scheme, phase, lambda packet: Packet(head, packet.words)), phase, Malformed)


@each_phase()
def test_a_truncated_reply_counts_as_a_dropout(scheme: str, phase: str) -> None:
    round_ = lying(scheme, phase, lambda packet: Packet(packet.head[:-1], packet.words))
    assert_dropped(round_, phase, Malformed)


@each_phase(*VECTOR.values())
def test_words_beside_any_other_reply_than_the_vector_are_refused(scheme: str, phase: str) -> None:
    round_ = lying(scheme, phase, lambda packet: Packet(packet.head, np.ones(3, np.uint64)))
    assert_dropped(round_, phase, Malformed)


@schemes
@pytest.mark.parametrize(
    ("words", "error"),
    [
        (lambda words: None, Misuse),
        (lambda words: words[:-1], Misuse),
        (lambda words: np.append(words, words[:1]), Misuse),
        (lambda words: words.astype(np.uint32), Misuse),
        (lambda words: words ^ np.eye(1, words.size, 0, dtype=np.uint64)[0], FaultySite),
        (lambda words: words ^ np.eye(1, words.size, words.size - 1, dtype=np.uint64)[0], FaultySite),
    ],
    ids=["none", "short", "long", "narrow", "first word", "last word"],
)
def test_words_that_are_not_the_signed_ones_never_enter_the_sum(scheme: str, words, error: type[SecAggError]) -> None:
    round_ = lying(scheme, VECTOR[scheme], lambda packet: Packet(packet.head, words(packet.words)))
    assert_dropped(round_, VECTOR[scheme], error)


@each_phase()
def test_a_reply_replayed_from_an_earlier_attempt_counts_as_a_dropout(scheme: str, phase: str) -> None:
    kept: list[Packet] = []

    def keep(now: str, site: str, packet: Packet) -> Packet:
        if (now, site) == (phase, LIAR):
            kept.append(packet)
        return packet

    first = exact(scheme, 7)
    first.alter_reply = keep
    first.run()
    context = first.consortium.context(first.context.manifest, attempt=2)
    second = Round(first.consortium, context, first.updates)
    second.alter_reply = lambda now, site, packet: kept[0] if (now, site) == (phase, LIAR) else packet
    second.run()
    assert set(second.server.faults) == {LIAR}
    assert_exact(second)
    assert (LIAR in second.server.result().contributors) == (phase in after_vector(scheme))


@schemes
def test_an_answer_of_a_site_that_was_not_asked_or_a_second_one_counts_for_nothing(scheme: str) -> None:
    for phase in PHASES[scheme]:
        round_ = exact(scheme, 7)
        round_.context = replace(round_.context, cohort=round_.consortium.names)
        round_.until(phase)
        replies = {site: round_.clients[site].handle(packet) for site, packet in round_.server.requests().items()}
        twice = [*replies.items(), (LIAR, replies[LIAR]), ("site-99", replies[LIAR])]
        round_.server.receive(twice)
        assert {site: type(fault) for site, fault in round_.server.faults.items()} == {
            LIAR: FaultySite,
            "site-99": FaultySite,
        }
        round_.run()
        assert_exact(round_)
        assert round_.server.result().contributors == round_.consortium.names


# ------------------------------------------------------------------ a server that lies


def sealed_at(scheme: str, phase: str, attempt: int = 1) -> tuple[Round, Packet, bytes]:
    """A round at a phase, what its server would send, and the site's state."""
    consortium = Consortium(5)
    manifest = consortium.manifest(40, scheme=scheme)
    round_ = federation(5, consortium=consortium, context=consortium.context(manifest, attempt)).until(phase)
    return round_, round_.server.requests()[ME], round_.clients[ME].to_bytes()


@each_phase()
def test_a_truncated_extended_or_oversized_request_changes_nothing(scheme: str, phase: str) -> None:
    round_, packet, before = sealed_at(scheme, phase)
    client, head = round_.clients[ME], packet.head
    for bad in (head[:-1], head[: len(head) // 2], head[:2], head + b"\x00", head + bytes(1 << 20)):
        with pytest.raises(Malformed):
            client.handle(Packet(bad))
    with pytest.raises(Malformed, match="carries a vector"):
        client.handle(Packet(head, np.zeros(4, np.uint64)))
    assert client.to_bytes() == before


@each_phase()
def test_a_repeated_request_gets_no_second_answer(scheme: str, phase: str) -> None:
    round_, packet, _ = sealed_at(scheme, phase)
    client = round_.clients[ME]
    client.handle(packet)
    after = client.to_bytes()
    with pytest.raises(FaultyServer, match=r"out of order|twice"):
        client.handle(packet)
    assert client.to_bytes() == after


@each_phase()
def test_a_request_of_another_attempt_is_refused_and_changes_nothing(scheme: str, phase: str) -> None:
    _, old, _ = sealed_at(scheme, phase)
    round_, _, before = sealed_at(scheme, phase, attempt=2)
    with pytest.raises(SecAggError):
        round_.clients[ME].handle(old)
    assert round_.clients[ME].to_bytes() == before


@schemes
@pytest.mark.parametrize("silent", [False, True], ids=["projections", "every site silent"])
def test_no_word_of_the_sum_can_be_altered(scheme: str, silent: bool) -> None:
    round_ = federation(5, manifest={"scheme": scheme}, drop={"check": Consortium(5).names} if silent else {})
    done = round_.run()
    words = done.payload.words
    assert words is not None
    round_.mean(done)
    for at in Dice("places")(20):
        altered = words.copy()
        altered[at * altered.size // 256] += np.uint64(1)
        with pytest.raises(FaultyServer, match=r"not the one that its record names|are not those it signed"):
            round_.mean(replace(done, payload=Packet(done.payload.head, altered)))
    for other in (words[:-1], np.append(words, words[:1]), None):
        with pytest.raises(FaultyServer):
            round_.mean(replace(done, payload=Packet(done.payload.head, other)))


@schemes
def test_no_byte_of_an_aggregates_head_can_be_altered(scheme: str) -> None:
    round_ = federation(4, 8, manifest={"scheme": scheme})
    done = round_.run()
    head = done.payload.head
    round_.mean(done)
    for at in (each * len(head) // 256 for each in Dice("bytes")(30)):
        altered = head[:at] + bytes([head[at] ^ 1]) + head[at + 1 :]
        with pytest.raises(SecAggError):
            round_.mean(replace(done, payload=Packet(altered, done.payload.words)))
