"""Every state x every message in ckks mode: what the table lists passes, everything else changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secagg.ckks.client import read_state, seeds_of
from secagg.ckks.states import Blind, BlindState, Opening
from secagg.errors import FaultyServer, Malformed, Refused, Sealed
from secagg.masked.messages import REPLIES as MASKED_REPLIES
from secagg.masked.messages import REQUESTS as MASKED_REQUESTS
from secagg.masked.messages import RoundRecord
from secagg.session import ClientSession, Packet
from tests.ckks.sessions import REPLIES, REQUESTS, ckks
from tests.masked.stage import ME, PHASES
from tests.sim import Dice, Round

STAGES = ("fresh", "advertised", "shared", "masked", "signed", "spent", "checked")
TABLE = {(STAGES[i], REQUESTS[i]): STAGES[i + 1] for i in range(6)}
PARTS = sorted({*MASKED_REQUESTS, *MASKED_REPLIES} - {*REQUESTS, *REPLIES}, key=lambda each: each.TAG)
History = tuple[Round, list[bytes], dict[type, Packet]]


def replayed(round_: Round, blob: bytes) -> ClientSession:
    """A session in that state, as it comes back from disk."""
    keys, update = round_.consortium.keys[ME], round_.updates[ME]
    return round_.scheme.restore(round_.site_context, keys, round_.policy, blob, update, Dice("again"))


@pytest.fixture(scope="module")
def history() -> History:
    """A finished round, one site's saved state at every stage, and every message it got or gave, parts included."""
    saved: list[bytes] = []
    messages: dict[type, Packet] = {}

    def note_request(phase: str, site: str, packet: Packet) -> Packet:
        if site == ME:
            saved.append(round_.clients[ME].to_bytes())
            messages[REQUESTS[PHASES.index(phase)]] = packet
        return packet

    def note_reply(phase: str, site: str, packet: Packet) -> Packet:
        if site == ME:
            messages[REPLIES[PHASES.index(phase)]] = packet
        return packet

    round_ = ckks(alter_request=note_request, alter_reply=note_reply)
    round_.run()
    saved.append(round_.clients[ME].to_bytes())
    by_name = {each.__name__: each.decode(packet.head) for each, packet in messages.items()}
    masked = {each.__name__: each for each in PARTS}
    roster = masked["KeyRoster"](tuple(each.advert for each in by_name["BlindRoster"].adverts))
    inner = {
        "KeyRoster": roster,
        "ShareBundle": by_name["BlindBundle"].bundle,
        "KeyAdvert": by_name["BlindAdvert"].advert,
        "SealedShares": by_name["BlindShares"].shares,
    }
    messages |= {masked[name]: Packet(message.encode()) for name, message in inner.items()}
    return round_, saved, messages


@pytest.mark.parametrize("message", [*REQUESTS, *REPLIES, *PARTS], ids=lambda each: each.__name__)
@pytest.mark.parametrize("state", range(7), ids=lambda i: STAGES[i])
def test_only_the_tables_pairs_pass_and_all_others_change_nothing(history: History, state: int, message: type) -> None:
    round_, saved, messages = history
    client = replayed(round_, saved[state])
    assert client.stage == STAGES[state]
    if (STAGES[state], message) == ("spent", RoundRecord):
        with pytest.raises(Refused, match="masked words are lost"):  # they are in no saved state
            client.handle(messages[message])
        return
    if (STAGES[state], message) in TABLE:
        client.handle(messages[message])
        assert client.stage == TABLE[STAGES[state], message]
        return
    with pytest.raises(FaultyServer if message in REQUESTS else Malformed):
        client.handle(messages[message])
    assert client.to_bytes() == saved[state]


def test_the_masked_parts_are_the_four_that_ckks_mode_wraps() -> None:
    assert [each.__name__ for each in PARTS] == ["KeyAdvert", "KeyRoster", "SealedShares", "ShareBundle"]


def test_each_state_forgets_what_the_next_steps_do_not_need(history: History) -> None:
    round_, saved, _ = history
    states = [read_state(round_.site_context, blob) for blob in saved]
    secret = states[0].blind_secret
    assert [each.blind_secret for each in states] == [secret] * 3 + [b""] * 4
    assert [len(each.commitments) for each in states] == [0, 0, 5, 0, 0, 0, 0]
    assert [len(each.seeds) for each in states] == [1, 1, 1, 5, 5, 5, 5]
    assert all(secret not in blob for blob in saved[3:])


def test_the_update_and_what_was_encrypted_are_in_no_saved_state(history: History) -> None:
    round_, saved, _ = history
    values = round_.updates[ME].values
    for start in range(0, values.size - 4, 4):
        assert all(values[start : start + 4].tobytes() not in blob for blob in saved)
    assert all(len(blob) < 4096 for blob in saved)  # a key alone is larger, as it is sent: 4096 lanes of 10 bits


def test_a_truncated_extended_or_mixed_saved_session_is_malformed(history: History) -> None:
    round_, saved, _ = history
    for blob in saved:
        for cut in (0, 1, 31, 32, 33, len(blob) // 2, len(blob) - 1):
            with pytest.raises(Malformed):
                replayed(round_, blob[:cut])
        with pytest.raises(Malformed):
            replayed(round_, blob + b"\x00")
        inner = read_state(round_.site_context, blob).masked
        with pytest.raises(Malformed):
            replayed(round_, inner)
        assert replayed(round_, blob).to_bytes() == blob


def test_a_saved_session_whose_masked_part_is_of_another_attempt_is_malformed(history: History) -> None:
    round_, saved, _ = history
    context = round_.consortium.context(round_.context.manifest, attempt=2)
    other = ckks(context=context).until("mask").clients[ME].to_bytes()
    theirs = read_state(context, other)
    mixed = replace(read_state(round_.site_context, saved[2]), masked=theirs.masked)
    with pytest.raises(Malformed, match="another attempt"):
        replayed(round_, round_.context.digest + mixed.encode())


def test_a_saved_session_without_its_own_seed_or_with_half_a_key_is_malformed(history: History) -> None:
    round_, saved, _ = history
    for stage, blob in enumerate(saved):
        state = read_state(round_.site_context, blob)
        lacking = tuple(each for each in state.seeds if each.site != ME)
        for bad in (replace(state, seeds=lacking), replace(state, blind_secret=b"x" * 31)):
            with pytest.raises(Malformed, match="lacks its own blind seed or key"):
                replayed(round_, round_.context.digest + bad.encode())
        assert replayed(round_, blob).stage == STAGES[stage]


def test_nothing_that_holds_a_secret_prints_it(history: History) -> None:
    round_, saved, _ = history
    for blob in saved:
        state = read_state(round_.site_context, blob)
        assert repr(state) == f"{state}" == "BlindState(...)"
        assert {repr(each) for each in state.seeds} == {"Blind(...)"}
        shown = " ".join([repr(state), repr(state.seeds), repr(replayed(round_, blob)), repr(round_.server)])
        for seed in seeds_of(state).values():
            assert seed.hex() not in shown
            assert repr(seed)[2:-1] not in shown
    opening = Opening(read_state(round_.site_context, saved[-1]).seeds)
    assert repr(opening) == str(opening) == "Opening(...)"
    assert repr(Blind(ME, bytes(32))) == "Blind(...)"
    assert repr(BlindState(b"0", b"", bytes(32), (), ())) == "BlindState(...)"


def test_the_openings_of_every_stage_open_the_round_once_the_vector_has_left(history: History) -> None:
    round_, saved, _ = history
    aggregate = round_.server.result().payload
    for stage, blob in enumerate(saved):
        opening = round_.opening(blob)
        if stage < STAGES.index("masked"):
            with pytest.raises(Sealed):
                round_.scheme.open(round_.site_context, aggregate, opening)
        else:
            assert len(round_.scheme.open(round_.site_context, aggregate, opening).contributors) == 5


def test_a_request_that_carries_words_is_malformed_at_every_stage(history: History) -> None:
    round_, saved, messages = history
    for state, request in enumerate(REQUESTS):
        client = replayed(round_, saved[state])
        with pytest.raises(Malformed, match="carries a vector"):
            client.handle(Packet(messages[request].head, np.zeros(1, np.uint64)))
        assert client.to_bytes() == saved[state]
