"""Every state x every message: what the literal table lists passes, everything else changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from secagg.errors import FaultyServer, Malformed, Refused, SecAggError
from secagg.masked.client import TRANSITIONS
from secagg.masked.messages import (
    REPLIES,
    REQUESTS,
    KeyRoster,
    RoundOpen,
    RoundRecord,
    ShareBundle,
    SurvivorProof,
    SurvivorSet,
    survivor_set_digest,
)
from secagg.masked.states import STATES, Advertised, Checked, Fresh, Masked, Shared, Signed, Spent, decode_state
from secagg.session import ClientSession, Packet
from tests.masked.stage import ME, PHASES
from tests.sim import Dice, Round, federation

TABLE = {
    (Fresh, RoundOpen): Advertised,
    (Advertised, KeyRoster): Shared,
    (Shared, ShareBundle): Masked,
    (Masked, SurvivorSet): Signed,
    (Signed, SurvivorProof): Spent,
    (Spent, RoundRecord): Checked,
}
ORDER = [*(state for state, _ in TABLE), Checked]


def replayed(round_: Round, blob: bytes) -> ClientSession:
    """A session in that state, as it comes back from disk."""
    keys, update = round_.consortium.keys[ME], round_.updates[ME]
    return round_.scheme.restore(round_.site_context, keys, round_.policy, blob, update, Dice("again"))


@pytest.fixture(scope="module")
def history() -> tuple[Round, list[bytes], dict[type, Packet]]:
    """A finished round, one site's saved state at every stage, and every message it got or gave."""
    saved, messages = [], {}

    def note_request(phase: str, site: str, packet: Packet) -> Packet:
        if site == ME:
            saved.append(round_.clients[ME].to_bytes())
            messages[REQUESTS[PHASES.index(phase)]] = packet
        return packet

    def note_reply(phase: str, site: str, packet: Packet) -> Packet:
        if site == ME:
            messages[REPLIES[PHASES.index(phase)]] = packet
        return packet

    round_ = federation(5, alter_request=note_request, alter_reply=note_reply)
    round_.run()
    saved.append(round_.clients[ME].to_bytes())
    return round_, saved, messages


def test_the_table_of_transitions_is_the_specs() -> None:
    assert set(TRANSITIONS) == set(TABLE)
    assert set(STATES.values()) == set(ORDER)


@pytest.mark.parametrize("message", [*REQUESTS, *REPLIES], ids=lambda each: each.__name__)
@pytest.mark.parametrize("state", range(7), ids=lambda i: ORDER[i].__name__)
def test_only_the_tables_pairs_pass_and_all_others_change_nothing(
    history: tuple[Round, list[bytes], dict[type, Packet]], state: int, message: type
) -> None:
    round_, saved, messages = history
    client = replayed(round_, saved[state])
    assert client.stage == ORDER[state].__name__.lower()
    if (ORDER[state], message) == (Spent, RoundRecord):
        with pytest.raises(Refused, match="masked words are lost"):  # they are in no saved state
            client.handle(messages[message])
        return
    if (ORDER[state], message) in TABLE:
        client.handle(messages[message])
        assert client.stage == TABLE[ORDER[state], message].__name__.lower()
        return
    error = FaultyServer if message in REQUESTS else Malformed
    with pytest.raises(error):
        client.handle(messages[message])
    assert client.to_bytes() == saved[state]


@pytest.mark.parametrize("state", range(5))
def test_a_repeated_request_gets_no_second_answer(
    history: tuple[Round, list[bytes], dict[type, Packet]], state: int
) -> None:
    round_, saved, messages = history
    client = replayed(round_, saved[state])
    client.handle(messages[REQUESTS[state]])
    after = client.to_bytes()
    with pytest.raises(FaultyServer, match="out of order"):
        client.handle(messages[REQUESTS[state]])
    assert client.to_bytes() == after


@pytest.mark.parametrize("state", range(5))
def test_a_truncated_extended_or_oversized_request_is_malformed(
    history: tuple[Round, list[bytes], dict[type, Packet]], state: int
) -> None:
    round_, saved, messages = history
    head = messages[REQUESTS[state]].head
    client = replayed(round_, saved[state])
    for bad in (head[:-1], head[: len(head) // 2], head[:2], head + b"\x00", head + bytes(1 << 20)):
        with pytest.raises(Malformed):
            client.handle(Packet(bad))
    with pytest.raises(Malformed, match="vector"):
        client.handle(Packet(head, np.zeros(4, np.uint64)))
    assert client.to_bytes() == saved[state]


@pytest.mark.parametrize("state", range(1, 5))
def test_messages_of_another_attempt_are_refused_at_every_stage(
    history: tuple[Round, list[bytes], dict[type, Packet]], state: int
) -> None:
    _, _, old = history
    round_ = federation(5)
    context = round_.consortium.context(round_.context.manifest, attempt=2)
    now = Round(round_.consortium, context, round_.updates).until(PHASES[state])
    before = now.clients[ME].to_bytes()
    with pytest.raises(SecAggError):
        now.clients[ME].handle(old[REQUESTS[state]])
    assert now.clients[ME].to_bytes() == before


def test_each_state_forgets_what_the_next_steps_do_not_need(
    history: tuple[Round, list[bytes], dict[type, Packet]],
) -> None:
    round_, saved, _ = history
    states = [decode_state(blob[32:]) for blob in saved]
    shared = states[2]
    assert isinstance(shared, Shared)
    for secret in (shared.share_secret, shared.mask_secret, shared.seed):
        assert all(secret not in blob for blob in saved[3:])
    masked = states[3]
    assert isinstance(masked, Masked)
    for held in masked.held:
        assert held.key_share not in saved[5]
        assert held.seed_share not in saved[5]
    assert len(saved[5]) < 100
    assert client_update(round_) is None


def client_update(round_: Round) -> object:
    """The update that the session still holds in memory."""
    return vars(round_.clients[ME])["_update"]


def test_a_state_prints_its_name_only(history: tuple[Round, list[bytes], dict[type, Packet]]) -> None:
    _, saved, _ = history
    for blob in saved:
        state = decode_state(blob[32:])
        assert repr(state) == f"{type(state).__name__}(...)"
    held = decode_state(saved[3][32:])
    assert isinstance(held, Masked)
    assert repr(held.held[0]) == "HeldShares(...)"


def test_what_is_saved_as_a_session_must_be_one_of_its_states(
    history: tuple[Round, list[bytes], dict[type, Packet]],
) -> None:
    round_, saved, messages = history
    for packet in messages.values():
        with pytest.raises(Malformed, match="not a state"):
            replayed(round_, saved[0][:32] + packet.head)


def test_the_log_keeps_the_set_and_the_record_that_were_signed_and_whether_shares_left(
    history: tuple[Round, list[bytes], dict[type, Packet]],
) -> None:
    """`evidence` is what a site can show of an answer, `released` what keeps it from a second attempt."""
    round_, saved, messages = history
    h3 = survivor_set_digest(round_.context.digest, SurvivorSet.decode(messages[SurvivorSet].head).vectors)
    record = RoundRecord.decode(messages[RoundRecord].head).transcript()
    kept = {Signed: h3, Spent: h3, Checked: record}
    for state, blob in zip(ORDER, saved, strict=True):
        client = replayed(round_, blob)
        assert client.evidence == kept.get(state, round_.context.digest)
        assert client.released == (state in (Spent, Checked))


def test_the_words_that_left_are_forgotten_when_nobody_will_ask_for_them_again(
    history: tuple[Round, list[bytes], dict[type, Packet]],
) -> None:
    round_, _, _ = history
    assert vars(round_.clients[ME])["_sent"] is None
