"""What the operator sees of a session while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from fedserver.journal import read_events
from fedserver.live import View
from tests.federation.direct import Bench


def shown(bench: Bench) -> str:
    """What the view prints of the bench's journal, on something that is no terminal."""
    out = io.StringIO()
    with View(Console(file=out, width=200)) as view:
        for event in read_events(bench.journal)[0]:
            view.show(event)
    return out.getvalue()


def test_every_phase_of_every_round_shows_who_answered(bench: Bench) -> None:
    bench.run(rounds=2)
    text = shown(bench)
    everybody = f"5 of 5: {' '.join(bench.names)}"
    for round_ in (1, 2):
        for phase in ("training", "keys", "shares", "masked updates", "survivors", "unmask"):
            assert f"round {round_}/2 {phase}: {everybody}" in text
    assert "bytes up per parameter" in text


def test_a_dropout_is_named_with_the_phase_it_missed(bench: Bench) -> None:
    bench.link.alter_reply = lambda where, reply: None if where.asks("mask") and where.site == "site-03" else reply
    bench.run(rounds=1)
    text = shown(bench)
    assert "site-03 did not answer masked updates" in text
    assert "without site-03" in text


def test_a_range_that_clips_more_than_one_percent_is_a_warning_and_a_sane_one_is_not(bench: Bench) -> None:
    bench.run(rounds=1)
    assert "WARNING" not in shown(bench)


def test_a_narrow_range_warns_and_says_what_to_do(tmp_path) -> None:
    bench = Bench(tmp_path, options={"first_range": 0.01})
    bench.run(rounds=1)
    text = shown(bench)
    assert "WARNING" in text
    assert "--first-range" in text
