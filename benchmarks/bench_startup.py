"""How long the three commands take to say what they can do, beside an interpreter that does nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import Spread, tell
from benchmarks.profile import of_profile
from benchmarks.records import Record

ROOT: Final = Path(__file__).resolve().parents[1]
BARE: Final = "python"
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    BARE: ("-c", "pass"),
    "fedserver": ("-m", "fedserver.cli", "--help"),
    "fedkeys": ("-m", "keys.cli", "--help"),
    "fedclient": ("-m", "fedclient.cli", "--help"),
}


def test_start_up(benchmark: BenchmarkFixture) -> None:
    """One after the other, so that whatever else the machine does slows all of them."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}

    def start_each() -> None:
        for name, arguments in COMMANDS.items():
            taken[name].append(_seconds(arguments))

    repetitions = of_profile(5, 20)
    benchmark.pedantic(start_each, rounds=repetitions, warmup_rounds=1)
    bare = [cpu for cpu, _ in taken[BARE][-repetitions:]]
    for name, found in taken.items():
        cpu, wall = zip(*found[-repetitions:], strict=True)
        times = Spread.of([mine / its for mine, its in zip(cpu, bare, strict=True)])
        arguments = " ".join(COMMANDS[name])
        record = Record(family="startup", stage=name, cpu_s=cpu, wall_s=wall, note=f"python {arguments}")
        line = f"start-up, {name}: CPU {Spread.of(cpu).show('ms', 1e3)}, wall {Spread.of(wall).show('ms', 1e3)}"
        tell(benchmark, line if name == BARE else f"{line}, CPU {times.show('x')} of python -c pass", record)


def _seconds(arguments: Sequence[str]) -> tuple[float, float]:
    """CPU and wall seconds of one start, which has to end well."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall
