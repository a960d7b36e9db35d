"""What counts as a change between two runs, and what does not."""

from __future__ import annotations

from dataclasses import replace

from fedserver.overhead.compare import compare
from fedserver.overhead.run import Run
from tests.overhead.samples import Plain, run_of, total


def timed(*cpu_s: float, **more: object) -> Plain:
    return total("masked", "site", 10**6, 10, 1.0) | {"cpu_s": list(cpu_s)} | more


def changed(old: Plain, new: Plain) -> list[tuple[str, float]]:
    return [(each.what, round(each.ratio, 3)) for each in compare(run_of(new), run_of(old)).changes]


def test_a_time_is_slower_only_if_the_ranges_do_not_meet_and_the_middles_differ_by_a_tenth() -> None:
    assert changed(timed(1.0, 1.1, 1.2), timed(1.3, 1.65, 1.7)) == [("CPU time", 1.5)]
    assert changed(timed(1.0, 1.1, 1.2), timed(1.15, 1.65, 1.7)) == []  # the ranges meet
    assert changed(timed(1.00, 1.01, 1.02), timed(1.03, 1.05, 1.06)) == []  # apart, by too little
    assert changed(timed(1.0, 1.1, 1.2), timed(0.5, 0.55, 0.6)) == [("CPU time", 0.5)]


def test_times_with_few_repetitions_are_counted_and_not_judged() -> None:
    found = compare(run_of(timed(9.0, 9.0)), run_of(timed(1.0, 1.0)))
    assert (found.changes, found.judged, found.unjudged) == ((), 0, 1)


def test_bytes_and_memory_are_judged_from_one_number() -> None:
    memory = {"family": "memory", "scheme": "masked", "role": "site", "values": 10**6, "sites": 10}
    assert changed(memory | {"peak_bytes": 1000}, memory | {"peak_bytes": 1100}) == [("peak memory", 1.1)]
    assert changed(memory | {"peak_bytes": 1000}, memory | {"peak_bytes": 1001}) == []


def test_another_setting_is_another_figure() -> None:
    found = compare(run_of(timed(9.0, 9.0, 9.0, bits=12)), run_of(timed(1.0, 1.0, 1.0)))
    assert (found.judged, found.appeared, found.vanished) == (0, 1, 1)


def test_runs_of_two_machines_are_held_against_each_other_by_ratios_alone() -> None:
    def on(processor: str, run: Run) -> Run:
        return replace(run, facts={"processor": processor})

    def against(*ratios: float) -> list[dict[str, object]]:
        return [{"scheme": "aes-ctr", "ratios": list(ratios)}]

    new = on("new", run_of(timed(9.0, 9.0, 9.0, against=against(1.9, 2.0, 2.1))))
    found = compare(new, on("old", run_of(timed(1.0, 1.0, 1.0, against=against(1.3, 1.3, 1.3)))))
    assert not found.same_machine
    assert [each.what for each in found.changes] == ["ratio to aes-ctr"]
