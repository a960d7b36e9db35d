"""A whole round over loopback TLS, training excluded: every scheme, none, and Flower's FedAvg, round by round in turn.

Wall time of each round as the server has it, from asking the sites until the sum is opened and stored, what each phase
took of it, and the CPU time of all processes. `start` hands out the sum of the round before, which every site opens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import plaintext
from benchmarks.federation import FEDAVG, Setting, Turn, federations, in_turn
from benchmarks.figures import Spread, tell
from benchmarks.profile import of_profile
from benchmarks.records import Against, Record, add
from secagg.schemes import SCHEMES

ALL: Final = (*sorted(SCHEMES), plaintext.NAME, FEDAVG)
BASELINES: Final = (plaintext.NAME, FEDAVG)
REPETITIONS: Final = 3  # of each kind of round: every site there, or one gone
TOGETHER: Final = 8  # with more sites than this, one federation has all its rounds before the next one starts
QUICK: Final = ((4, 100_000), (4, 500_000))
MORE: Final = ((3, 500_000), (8, 500_000), (20, 100_000), (20, 500_000), (4, 2_000_000), (4, 4_000_000))
CLAIMED: Final = (4, 500_000, 0)
BITS: Final = 8


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("n", "size"), of_profile(QUICK, QUICK + MORE))
def test_a_round(benchmark: BenchmarkFixture, tmp_path: Path, n: int, size: int) -> None:
    sites = tuple(f"site-{number:02d}" for number in range(n))
    drops = 2 if n > 3 else 0  # three sites bear no dropout
    rounds = REPETITIONS * (2 if drops else 1)
    settings = [Setting(scheme, sites, size, rounds + 1, drops) for scheme in ALL]
    turns = benchmark.pedantic(_run, args=(tmp_path, settings, rounds), rounds=1)
    for dropped in (0, 1) if drops else (0,):
        kept = {scheme: [each for each in found if _dropped(each, drops) == dropped] for scheme, found in turns.items()}
        for scheme in ALL:
            _require_complete(scheme, kept[scheme], n - dropped)
            for record in _records(scheme, kept, n, size, dropped):
                add(benchmark, record)
        for scheme in ALL:
            _tell(benchmark, scheme, kept, n, size, dropped)
        if (n, size, dropped) == CLAIMED:
            _require_faster_than_flower(kept)


def _run(folder: Path, settings: Sequence[Setting], rounds: int) -> dict[str, list[Turn]]:
    """The turns of each scheme, the first round left out: it hands out no sum."""
    together = len(settings[0].sites) <= TOGETHER
    turns: dict[str, list[Turn]] = {}
    for group in [settings] if together else [[each] for each in settings]:
        with federations(folder, group) as made:
            turns |= in_turn(made, rounds)
    return turns


def _dropped(turn: Turn, drops: int) -> int:
    return int(bool(drops) and turn.event["round"] % drops == 0)


def _require_complete(scheme: str, turns: Sequence[Turn], survivors: int) -> None:
    """As many rounds as were asked for, each with the sites that were meant to be in it."""
    assert len(turns) == REPETITIONS, f"{scheme}: {len(turns)} rounds"
    found = {each.event.get("answered") or len(each.event["contributors"]) for each in turns}
    assert found == {survivors}, f"{scheme}: {found} sites where {survivors} survive"


def _seconds(turns: Sequence[Turn]) -> tuple[float, ...]:
    return tuple(each.event["seconds_total"] for each in turns)


def _ratios(scheme: str, other: str, kept: Mapping[str, Sequence[Turn]]) -> tuple[float, ...]:
    """Wall time of each round divided by that of the other's neighbouring round."""
    return tuple(own / its for own, its in zip(_seconds(kept[scheme]), _seconds(kept[other]), strict=True))


def _records(scheme: str, kept: Mapping[str, Sequence[Turn]], n: int, size: int, dropped: int) -> list[Record]:
    """The whole round, and each phase of it."""
    turns = kept[scheme]
    setting: dict[str, Any] = {
        "family": "round", "scheme": scheme, "role": "whole", "values": size, "sites": n, "dropped": dropped,
        "bits": None if scheme == FEDAVG else BITS, "weight": 1,
    }  # fmt: skip
    up, down = traffic(turns[-1].event, n)
    against = tuple(Against(other, _ratios(scheme, other, kept)) for other in BASELINES if other != scheme)
    whole = Record(
        **setting, stage="whole", wall_s=_seconds(turns), cpu_s=tuple(each.cpu_s for each in turns),
        bytes_up=sum(up.values()), bytes_down=sum(down.values()), against=against,
        note="CPU time is that of all processes together; bytes are the mean of the sites",
    )  # fmt: skip
    phases = [seconds_by_phase(each.event) for each in turns]
    return [whole] + [
        Record(
            **setting, stage=phase, wall_s=tuple(each[phase] for each in phases), bytes_up=up.get(phase),
            bytes_down=down.get(phase),
        )
        for phase in phases[0]
    ]  # fmt: skip


def seconds_by_phase(event: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of each phase of a round, and of what comes after the last one; Flower's FedAvg knows none."""
    if "seconds" not in event:
        return {}
    phases = {"start": event["seconds_train"], **event["seconds"]}
    return {**phases, "commit": max(0.0, event["seconds_total"] - sum(phases.values()))}


def traffic(event: Mapping[str, Any], n: int) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes up and down by phase, a site's on average, rounded up."""
    up, down = ({phase: -(-sent // n) for phase, sent in event[name].items()} for name in ("bytes_up", "bytes_down"))
    return up, down


def _tell(
    benchmark: BenchmarkFixture, scheme: str, kept: Mapping[str, Sequence[Turn]], n: int, size: int, dropped: int
) -> None:
    total, cpu = Spread.of(_seconds(kept[scheme])), Spread.of([each.cpu_s for each in kept[scheme]])
    ratios = ", ".join(
        f"{Spread.of(_ratios(scheme, other, kept)).show('x', digits=2)} of {other}"
        for other in BASELINES
        if other != scheme
    )
    line = f"round, {scheme}, {n} sites, {dropped} gone, d = {size:,}: {total.show('s', digits=2)}"
    phases = [seconds_by_phase(each.event) for each in kept[scheme]]
    parts = ", ".join(f"{phase} {Spread.of([each[phase] for each in phases]).middle:.2f}" for phase in phases[0])
    tell(benchmark, f"{line}; CPU {cpu.show('s', digits=2)}; {ratios}" + (f": {parts}" if parts else ""))


def _require_faster_than_flower(kept: Mapping[str, Sequence[Turn]]) -> None:
    """The claim, for four sites, 5e5 values and no dropout: no scheme takes longer than Flower's unprotected round."""
    for scheme in sorted(SCHEMES):
        assert Spread.of(_ratios(scheme, FEDAVG, kept)).middle <= 1
