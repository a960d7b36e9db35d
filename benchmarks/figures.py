"""How a figure is taken and told: two ways of one job in turn, their ratio with its spread, the claim beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from pytest_benchmark.fixture import BenchmarkFixture

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
class Pair:
    """CPU seconds of ours and of theirs, and theirs / ours of each repetition, in which one followed the other."""

    ours: Spread
    theirs: Spread
    ratio: Spread


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
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}

    def setup() -> tuple[tuple[object, ...], dict[str, object]]:
        spent["theirs"].append(_cpu_seconds(theirs))
        return prepare(), {}

    def work(*arguments: object) -> None:
        spent["ours"].append(_cpu_seconds(lambda: ours(*arguments)))

    benchmark.pedantic(work, setup=setup, rounds=rounds, warmup_rounds=1)
    mine, others = spent["ours"][-rounds:], spent["theirs"][-rounds:]
    ratios = [other / own for other, own in zip(others, mine, strict=True)]
    return Pair(Spread.of(mine), Spread.of(others), Spread.of(ratios))


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def tell(benchmark: BenchmarkFixture, line: str, **facts: Any) -> None:
    """Keeps a line for the table at the end, and facts for --benchmark-json."""
    LINES.append(line)
    benchmark.extra_info.update(facts)


def tell_pair(benchmark: BenchmarkFixture, name: str, pair: Pair, least_ratio: float | None = None) -> None:
    """Tells a comparison of CPU time; `least_ratio` is the claim, held against the middle ratio."""
    claim = "" if least_ratio is None else f"; claim: at least {least_ratio:g}x"
    line = f"{name}: ours {pair.ours.show('ms', 1e3)}, theirs {pair.theirs.show('ms', 1e3)}"
    tell(
        benchmark,
        f"{line}, ratio {pair.ratio.show('x')}{claim}",
        ours_s=_plain(pair.ours),
        theirs_s=_plain(pair.theirs),
        ratio=_plain(pair.ratio),
        claimed_ratio=least_ratio,
    )
    assert least_ratio is None or pair.ratio.middle >= least_ratio


def _plain(spread: Spread) -> dict[str, float]:
    return {"min": spread.least, "median": spread.middle, "max": spread.most}
