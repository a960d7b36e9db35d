"""What the round benchmark makes of a server's events, and that federations run when it is their turn and only then."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks import bench_round
from benchmarks.bench_round import seconds_by_phase, traffic
from benchmarks.federation import FEDAVG, Setting, Turn, federations, in_turn
from benchmarks.turns import Turns, note
from fedserver.journal import read_events

OURS = {
    "event": "aggregated", "round": 3, "seconds_train": 0.5, "seconds": {"send": 1.0, "check": 0.25},
    "seconds_total": 2.0, "bytes_up": {"start": 40, "send": 4001, "check": 8},
    "bytes_down": {"start": 4000, "send": 12, "check": 9}, "contributors": ["a", "b", "c", "d"],
}  # fmt: skip
FLOWERS = {
    "event": "aggregated", "round": 3, "seconds_total": 8.0, "answered": 4, "bytes_up": {"train": 400},
    "bytes_down": {"train": 400},
}  # fmt: skip


def test_the_phases_of_a_round_add_up_to_the_whole() -> None:
    phases = seconds_by_phase(OURS)
    assert phases == {"start": 0.5, "send": 1.0, "check": 0.25, "commit": 0.25}
    assert sum(phases.values()) == OURS["seconds_total"]


def test_flowers_round_has_no_phases() -> None:
    assert seconds_by_phase(FLOWERS) == {}


def test_bytes_are_a_sites_on_average() -> None:
    up, down = traffic(OURS, 4)
    assert up == {"start": 10, "send": 1001, "check": 2}
    assert down == {"start": 1000, "send": 3, "check": 3}


def test_a_round_s_records_hold_its_ratios_to_both_baselines() -> None:
    slow = {**OURS, "seconds_total": 4.0}
    kept = {"masked": [Turn(slow, 3.0)] * 2, "plain": [Turn(OURS, 1.0)] * 2, FEDAVG: [Turn(FLOWERS, 6.0)] * 2}
    whole, *phases = bench_round._records("masked", kept, 4, 1600, 0)
    assert {each.scheme: each.ratios for each in whole.against} == {"plain": (2.0, 2.0), FEDAVG: (0.5, 0.5)}
    assert (whole.wall_s, whole.cpu_s) == ((4.0, 4.0), (3.0, 3.0))
    assert (whole.bytes_up, whole.bytes_down) == (1013, 1006)
    assert [each.stage for each in phases] == ["start", "send", "check", "commit"]
    [flower] = bench_round._records(FEDAVG, kept, 4, 1600, 0)
    assert flower.bits is None
    assert [each.scheme for each in flower.against] == ["plain"]


def test_a_round_waits_until_it_may_begin(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    turns.allow(1)
    turns.await_turn(1)
    began = threading.Event()
    waiting = threading.Thread(target=lambda: (turns.await_turn(2), began.set()), daemon=True)
    waiting.start()
    assert not began.wait(0.1)
    turns.allow(2)
    assert began.wait(10)


def test_a_noted_event_reads_as_the_servers_own(tmp_path: Path) -> None:
    note(tmp_path / "events.jsonl", FLOWERS)
    assert read_events(tmp_path / "events.jsonl")[0] == [FLOWERS]


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_federations_take_turns_and_lose_a_site_every_second_round(tmp_path: Path) -> None:
    sites = ("a", "b", "c", "d")
    settings = [Setting(scheme, sites, 1600, 4, drops=2) for scheme in ("plain", "masked", FEDAVG)]
    with federations(tmp_path, settings) as made:
        turns = in_turn(made, 2)
        processes = [process for each in made for process in each.processes]
    for scheme in ("plain", "masked"):
        assert [len(each.event["contributors"]) for each in turns[scheme]] == [3, 4]
    assert [each.event["answered"] for each in turns[FEDAVG]] == [3, 4]
    assert all(each.cpu_s > 0 for found in turns.values() for each in found)
    assert all(process.poll() is not None for process in processes)
