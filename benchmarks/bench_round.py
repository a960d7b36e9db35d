"""A whole secure round over loopback TLS, training excluded: one fedserver, its SuperLink, four site processes.

Wall time of each round as the server's journal has it, from asking the sites to start until the sum is opened and
stored, and what each phase took of it. `start` hands out the sum of the round before, which every site verifies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.federation import run_session
from benchmarks.figures import Spread, tell

SITES = ("alesund", "bergen", "oslo", "tromso")
SIZE, ROUNDS = 500_000, 6
MOST_S = 4.0


def seconds_by_phase(round_: dict[str, Any]) -> dict[str, float]:
    """Seconds of each phase of one round, from its "aggregated" event, and what is left as 'rest'."""
    phases = {"start": round_["seconds_train"], **round_["seconds"]}
    return {**phases, "rest": round_["seconds_total"] - sum(phases.values())}


@pytest.mark.timeout(600)
def test_a_secure_round_of_four_sites(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    events = benchmark.pedantic(run_session, args=(tmp_path, SITES, SIZE, ROUNDS), rounds=1)
    rounds = [each for each in events if each["event"] == "aggregated"][1:]  # the first hands out no sum
    assert len(rounds) == ROUNDS - 1 and all(each["contributors"] == list(SITES) for each in rounds)
    total = Spread.of([each["seconds_total"] for each in rounds])
    by_phase = [seconds_by_phase(each) for each in rounds]
    spreads = {phase: Spread.of([each[phase] for each in by_phase]) for phase in by_phase[0]}
    parts = ", ".join(f"{phase} {spread.middle:.2f}" for phase, spread in spreads.items())
    line = f"secure round, {len(SITES)} sites, d = {SIZE:,}, {len(rounds)} rounds: {total.show('s', digits=2)}: {parts}"
    tell(
        benchmark, f"{line}; claim: at most {MOST_S:g} s", claimed_s=MOST_S, seconds=by_phase,
        bytes_up=rounds[-1]["bytes_up"], bytes_down=rounds[-1]["bytes_down"],
    )  # fmt: skip
    assert total.middle <= MOST_S
