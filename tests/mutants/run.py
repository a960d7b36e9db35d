"""Takes one defence away after the other, and shows that the named test notices: `make mutants`.

    python -m tests.mutants.run --only masks
    python -m tests.mutants.run --list

Works in copies of the tree; your files stay as they are. Exit 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.mutants.table import ROOT, Mutant, mutants

PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "tests.mutants.hurry", "--hypothesis-seed=0", "--timeout=120")
NOT_COPIED = (".git", ".venv*", "out", "__pycache__", ".*_cache", ".hypothesis", ".benchmarks", "*.egg-info")
FAILED = 1  # pytest's exit status when tests were collected and ran, and one failed
HUNG = "from pytest-timeout"  # in what pytest says of a test that did not end: that is no verdict
CAUGHT, SURVIVED, BROKEN, ENDLESS = "caught", "SURVIVED", "BROKEN", "ENDLESS"


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    verdict: str
    seconds: float
    output: str


class Copy:
    """A copy of the tree in which one mutant at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        self._env = {**os.environ, "PYTHONPATH": str(folder)}
        self._worker: subprocess.Popen[str] | None = None

    def all_pass(self, tests: Sequence[str], of_all: Sequence[str]) -> tuple[bool, str]:
        """Whether these tests pass, and what pytest says; compiles all of them for later runs."""
        self._once("--collect-only", *of_all)
        done = self._once(*tests)
        return done.returncode == 0, done.stdout + done.stderr

    def _once(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", *PYTEST, *arguments]
        return subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, check=False)

    def pytest(self, test: str) -> tuple[int, str]:
        """Exit status and output of one test; no bytecode of a mutant is kept."""
        if self._worker is None:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tests.mutants.worker"], cwd=self._folder, text=True,
                env={**self._env, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps([*PYTEST, test]) + "\n")
        self._worker.stdin.flush()
        answer = json.loads(self._worker.stdout.readline())
        return answer["status"], answer["output"]

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    def try_out(self, mutant: Mutant) -> Outcome:
        """Runs the mutant's test without its defence."""
        path, started = self._folder / mutant.file, time.monotonic()
        whole, stat = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(mutant.source(), encoding="utf-8")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**10))  # else the whole file's bytecode would serve
        try:
            status, output = self.pytest(mutant.caught_by)
        finally:
            path.write_text(whole, encoding="utf-8")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        verdict = ENDLESS if HUNG in output else {FAILED: CAUGHT, 0: SURVIVED}.get(status, BROKEN)
        return Outcome(mutant, verdict, time.monotonic() - started, output)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 if every mutant was caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only mutants whose file, claim or test has it")
    parser.add_argument("--list", action="store_true", help="name them and their tests, and run nothing")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default 2)")
    options = parser.parse_args(arguments)
    try:
        chosen = [each for each in mutants() if options.only in f"{each.id} {each.caught_by}"]
    except ValueError as error:
        print(
            f"the table does not fit the source: {error}\nput the entry right in tests/mutants/table", file=sys.stderr
        )
        return 1
    if options.list:
        for each in chosen:
            print(f"{each.id}\n    {each.caught_by}")
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(max(1, min(options.jobs, len(chosen))))]
        if not _all_pass(copies, sorted({each.caught_by for each in chosen})):
            return 1
        try:
            outcomes = _try_all(copies, chosen)
        finally:
            for copy in copies:
                copy.close()
    return _report(outcomes, time.monotonic() - started)


def _all_pass(copies: Sequence[Copy], tests: Sequence[str]) -> bool:
    """Whether the named tests pass while nothing is missing."""
    print(f"{len(tests)} tests, with every defence in place ...", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(len(copies)) as pool:
        results = list(pool.map(Copy.all_pass, copies, _dealt(tests, len(copies)), [tests] * len(copies)))
    for passed, output in results:
        if not passed:
            print(output, "\nthese tests must pass before a mutant can be judged by them", file=sys.stderr)
    return all(passed for passed, _ in results)


def _dealt(tests: Sequence[str], parts: int) -> list[list[str]]:
    """The tests in as many parts, each file whole, of about one size."""
    dealt: list[list[str]] = [[] for _ in range(parts)]
    for file in sorted({test.partition("::")[0] for test in tests}):
        min(dealt, key=len).extend(test for test in tests if test.startswith(f"{file}::"))
    return dealt


def _try_all(copies: Sequence[Copy], chosen: Sequence[Mutant]) -> list[Outcome]:
    left: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    for mutant in chosen:
        left.put(mutant)

    def work(copy: Copy) -> None:
        try:
            while True:
                done.put(copy.try_out(left.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:  # raised again where the outcomes are counted
            done.put(error)

    for copy in copies:
        threading.Thread(target=work, args=(copy,), daemon=True).start()
    console, outcomes = Console(stderr=True), []
    columns = (TextColumn("mutants"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("", total=len(chosen))
        for _ in chosen:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
            progress.advance(bar)
            line = f"{outcome.verdict:8} {outcome.seconds:5.1f} s  {outcome.mutant.id}"
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    return outcomes


def _report(outcomes: Sequence[Outcome], seconds: float) -> int:
    """Prints who survived and a table by file; the exit status."""
    bad = [each for each in outcomes if each.verdict != CAUGHT]
    for each in bad:
        print(f"\n{each.verdict}: {each.mutant.id}\n  {each.mutant.caught_by}\n{each.output[-1500:]}")
    table = Table("file", "mutants", "caught")
    total, caught = (Counter(each.mutant.file for each in group) for group in (outcomes, set(outcomes) - set(bad)))
    for file in sorted(total):
        table.add_row(file, str(total[file]), str(caught[file]))
    Console().print(table)
    print(f"{len(outcomes)} mutants, {len(outcomes) - len(bad)} caught, {len(bad)} not, {seconds / 60:.1f} minutes")
    return 1 if bad or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
