"""The stopwatch gives every moment to one part, and the stages of a round name functions that are there and used."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from benchmarks.records import STAGES
from benchmarks.stages import parts_of
from benchmarks.stopwatch import Part, Seconds, Stopwatch
from benchmarks.watched import play
from secagg.schemes import SCHEMES


def spin(seconds: float) -> None:
    """Keeps the processor busy, on the clock that is tested."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def numbers(count: int) -> Iterator[int]:
    for number in range(count):
        spin(0.004)
        yield number


def test_a_part_does_not_count_what_is_nested_in_it() -> None:
    watch = Stopwatch()
    with watch.at(Part("a", "site", "outer")):
        spin(0.01)
        with watch.at(Part("a", "site", "inner")):
            spin(0.02)
        spin(0.01)
    found = watch.of("a")
    assert found["outer"].cpu >= 0.02 and found["inner"].cpu >= 0.02
    whole = found["outer"] + found["inner"]
    assert found["outer"].cpu == pytest.approx(whole.cpu - found["inner"].cpu)
    assert watch.of("b") == {}


def test_functions_and_generators_are_stages_of_the_roles_that_are_named() -> None:
    watch, module = Stopwatch(), __name__
    table = {f"{module}:spin": {"site": "spin"}, f"{module}:numbers": {"site": "count"}}
    with watch.watching(table):
        with watch.at(Part("a", "site", "rest")):
            assert sum(numbers(3)) == 3
            globals()["spin"](0.01)
        with watch.at(Part("b", "server", "rest")):
            globals()["spin"](0.01)
        globals()["spin"](0.0)  # nobody's
    assert set(watch.of("a")) == {"rest", "count", "spin"}
    assert watch.of("a")["spin"].cpu >= 0.01 + 3 * 0.004
    assert set(watch.of("b")) == {"rest"}
    assert globals()["spin"] is spin


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_stages_of_a_round_are_those_of_the_records(scheme: str) -> None:
    played = play(scheme, 3, 5000)
    assert len(played.sites) == 2
    for role in ("site", "server", "open"):
        for stages in played.of(role):
            assert set(stages) <= set(STAGES)
            assert all(isinstance(spent, Seconds) for spent in stages.values())
    assert {"quantise", "protect", "frame"} <= set(played.sites[0])
    assert "add" in played.server
    assert {"dequantise"} <= set(played.open)
    assert 0 < played.up < played.down
    assert played.mean.totals.sites == 3
    assert parts_of(scheme)
