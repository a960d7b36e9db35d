"""A site's place in a session moves forward only, and its log never lets one question be answered twice."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.chain import RELEASED, STAGES, Answer, Ledger, Position
from secagg.errors import FaultyServer, Refused
from secagg.masked.states import STATES
from secagg.session import Mean, Totals
from tests.sim import Consortium

MANIFEST = Consortium(5).manifest(10)
START = Position.start(MANIFEST)
SESSION = MANIFEST.digest()
EVIDENCE = bytes(32)


def header(attempt: int = 1, position: Position = START):  # type: ignore[no-untyped-def]
    return position.header(MANIFEST, attempt)


def mean() -> Mean:
    totals = Totals(5, 5, 50, 1.0, 1.0, 10, 0.0)
    return Mean(np.zeros(10, np.float32), totals, MANIFEST.sites, b"t" * 32, 1 << 39)


def test_a_session_starts_from_what_the_manifest_says() -> None:
    assert Position(SESSION, 0, MANIFEST.initial_adapter, SESSION, MANIFEST.first_range_q40) == START
    first = header()
    assert (first.session, first.round, first.attempt) == (SESSION, 1, 1)
    assert (first.adapter, first.previous) == (MANIFEST.initial_adapter, SESSION)
    assert (first.range_q40, first.graph) == (MANIFEST.first_range_q40, MANIFEST.graph_digest())


def test_the_next_header_continues_the_mean_of_the_last_round() -> None:
    after = START.after(mean(), b"a" * 32)
    assert after == Position(SESSION, 1, b"a" * 32, b"t" * 32, 1 << 39)
    second = header(position=after)
    assert (second.round, second.adapter, second.previous, second.range_q40) == (2, b"a" * 32, b"t" * 32, 1 << 39)


@pytest.mark.parametrize("name", [f.name for f in fields(header()) if f.name not in ("suite", "attempt")])
def test_a_header_that_does_not_continue_the_chain_is_refused(name: str) -> None:
    value = getattr(header(), name)
    other = bytes(32) if isinstance(value, bytes) else "other" if isinstance(value, str) else value + 1
    Ledger(SESSION).admit(START, header(), MANIFEST)
    with pytest.raises(FaultyServer, match="does not continue"):
        Ledger(SESSION).admit(START, replace(header(), **{name: other}), MANIFEST)


def test_the_stages_of_the_log_are_the_states_of_a_session() -> None:
    assert [state.__name__.lower() for state in STATES.values()] == ["fresh", *STAGES]


def test_an_answer_is_logged_once_and_in_order() -> None:
    ledger = Ledger(SESSION)
    for stage in STAGES:
        ledger, line = ledger.answer(header(), stage, EVIDENCE)
        assert (line, ledger.last) == (Answer(SESSION, 1, 1, STAGES.index(stage) + 1, EVIDENCE), line)
        for earlier in STAGES[: STAGES.index(stage) + 1]:
            with pytest.raises(Refused, match="answered before"):
                ledger.answer(header(), earlier, EVIDENCE)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(STAGES)), max_size=30))
def test_whatever_is_asked_the_log_moves_forward_and_never_past_a_release(asked: list[tuple[int, int, str]]) -> None:
    ledger = Ledger(SESSION)
    lines: list[tuple[int, int, int]] = []
    for round_, attempt, stage in asked:
        try:
            ledger, line = ledger.answer(replace(header(attempt), round=round_ + 1), stage, EVIDENCE)
        except Refused:
            continue
        lines.append((line.round, line.attempt, line.stage))
    assert lines == sorted(set(lines))
    spent = [round_ for round_, _, stage in lines if stage == RELEASED]
    assert len(spent) == len(set(spent))
    for round_ in spent:
        assert [line for line in lines if line[0] == round_][-1][2] >= RELEASED


def test_a_new_attempt_is_admitted_until_an_unmask_share_has_left() -> None:
    ledger = Ledger(SESSION)
    for attempt in (1, 2, 5):
        ledger.admit(START, header(attempt), MANIFEST)
        for stage in STAGES[: RELEASED - 1]:
            ledger, _ = ledger.answer(header(attempt), stage, EVIDENCE)
            assert not ledger.released(1)
            with pytest.raises(Refused, match="not after the last"):
                ledger.admit(START, header(attempt), MANIFEST)
    ledger, _ = ledger.answer(header(5), "spent", EVIDENCE)
    assert ledger.released(1)
    assert not ledger.released(2)
    for attempt in (1, 5, 6, 1000):
        with pytest.raises(Refused, match="already left for this round"):
            ledger.admit(START, header(attempt), MANIFEST)
    for stage in ("advertised", "checked"):
        with pytest.raises(Refused, match="already left for this round"):
            ledger.answer(header(6), stage, EVIDENCE)
    ledger, _ = ledger.answer(header(5), "checked", EVIDENCE)
    assert ledger.released(1)
    second = START.after(mean(), b"a" * 32)
    ledger.admit(second, header(1, second), MANIFEST)


def test_a_log_that_is_ahead_of_the_position_refuses() -> None:
    """The position was restored from a backup, the log was not."""
    ledger = Ledger(SESSION, Answer(SESSION, 2, 1, 1, EVIDENCE))
    with pytest.raises(Refused, match="not after the last"):
        ledger.admit(START, header(9), MANIFEST)
