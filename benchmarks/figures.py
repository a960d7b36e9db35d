"""How a figure is taken and told: two ways of one job in turn, their ratio with its spread, the claim beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.records import Against, Record, add
from secagg.primitives import known

LINES: Final[list[str]] = []  # what the run found, for the table at its end


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, middle and largest of repeated measurements."""

    least: float
    middle: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError if there are none."""
        return cls(min(values), median(values), max(values))

    def show(self, unit: str, scale: float = 1.0, digits: int = 1) -> str:
        """Middle (least to most), times `scale`."""
        least, middle, most = (f"{each * scale:,.{digits}f}" for each in (self.least, self.middle, self.most))
        return f"{middle} {unit} ({least} to {most})"


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of every repetition, in order."""

    cpu_s: tuple[float, ...]
    wall_s: tuple[float, ...]

    @property
    def cpu(self) -> Spread:
        """Of the CPU seconds."""
        return Spread.of(self.cpu_s)

    def against(self, other: Taken) -> tuple[float, ...]:
        """CPU seconds of each repetition divided by those of the other's neighbouring one."""
        return tuple(mine / theirs for mine, theirs in zip(self.cpu_s, other.cpu_s, strict=True))


@dataclass(frozen=True, slots=True)
class Pair:
    """CPU seconds of ours and of theirs, and theirs / ours of each repetition, in which one followed the other."""

    ours: Spread
    theirs: Spread
    ratio: Spread
    taken: tuple[Taken, Taken]  # ours, theirs


def in_turn(
    benchmark: BenchmarkFixture,
    ours: Callable[..., object],
    theirs: Callable[[], object],
    *,
    prepare: Callable[[], tuple[object, ...]] = tuple,
    rounds: int = 5,
) -> Pair:
    """Runs theirs, then ours, `rounds` times after one warm-up; both on the CPU clock of the process, all threads.

    prepare: makes the arguments of ours, outside the measurement. The fixture's own statistics are ours.
    """
    found = in_turns(benchmark, {"ours": ours, "theirs": theirs}, prepare={"ours": prepare}, rounds=rounds)
    mine, others = found["ours"], found["theirs"]
    return Pair(mine.cpu, others.cpu, Spread.of(others.against(mine)), (mine, others))


def in_turns(
    benchmark: BenchmarkFixture,
    ways: Mapping[str, Callable[..., object]],
    *,
    prepare: Mapping[str, Callable[[], tuple[object, ...]]] | None = None,
    rounds: int = 5,
) -> dict[str, Taken]:
    """Runs every way, one after the other, `rounds` times after one warm-up; CPU time is all threads of the process.

    prepare: makes the arguments of a way, outside the measurement. The fixture's own statistics are the first's.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    first, *others = ways

    def arguments_of(name: str) -> tuple[object, ...]:
        return (prepare or {}).get(name, tuple)()

    def work(name: str, *arguments: object) -> None:
        known.RIGHT = known.Known()  # each repetition is the first that this process sees of its messages
        cpu, wall = time.process_time(), time.perf_counter()
        ways[name](*arguments)
        spent[name].append((time.process_time() - cpu, time.perf_counter() - wall))

    def setup() -> tuple[tuple[object, ...], dict[str, object]]:
        for name in others:
            work(name, *arguments_of(name))
        return (first, *arguments_of(first)), {}

    benchmark.pedantic(work, setup=setup, rounds=rounds, warmup_rounds=1)
    return {
        name: Taken(tuple(cpu for cpu, _ in found[-rounds:]), tuple(wall for _, wall in found[-rounds:]))
        for name, found in spent.items()
    }


def record_of(taken: Taken, against: Mapping[str, Taken] | None = None, **setting: Any) -> Record:
    """A record of repetitions. against: by scheme, what was measured in turn with them; setting: its other fields."""
    beside = tuple(Against(scheme, taken.against(other)) for scheme, other in (against or {}).items())
    return Record(cpu_s=taken.cpu_s, wall_s=taken.wall_s, against=beside, **setting)


def tell(benchmark: BenchmarkFixture, line: str, *records: Record, **facts: Any) -> None:
    """Keeps a line for the table at the end, and records and facts for --benchmark-json."""
    LINES.append(line)
    benchmark.extra_info.update(facts)
    for each in records:
        add(benchmark, each)


def records_of(pair: Pair, schemes: tuple[str, str], **setting: Any) -> tuple[Record, Record]:
    """Both sides of a comparison, each beside the other. schemes: ours, theirs; setting: the other fields."""
    ours, theirs = schemes
    mine, others = pair.taken
    return (
        record_of(mine, {theirs: others}, scheme=ours, **setting),
        record_of(others, {ours: mine}, scheme=theirs, **setting),
    )


def tell_pair(
    benchmark: BenchmarkFixture, name: str, pair: Pair, least_ratio: float | None = None, *records: Record
) -> None:
    """Tells a comparison of CPU time; `least_ratio` is the claim, held against the middle ratio."""
    claim = "" if least_ratio is None else f"; claim: at least {least_ratio:g}x"
    line = f"{name}: ours {pair.ours.show('ms', 1e3)}, theirs {pair.theirs.show('ms', 1e3)}"
    tell(
        benchmark,
        f"{line}, ratio {pair.ratio.show('x')}{claim}",
        *records,
        ours_s=plain(pair.ours),
        theirs_s=plain(pair.theirs),
        ratio=plain(pair.ratio),
        claimed_ratio=least_ratio,
    )
    assert least_ratio is None or pair.ratio.middle >= least_ratio


def plain(spread: Spread) -> dict[str, float]:
    """As JSON has it."""
    return {"min": spread.least, "median": spread.middle, "max": spread.most}
