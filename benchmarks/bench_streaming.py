"""Peak memory of each role at d = 4e7, the adapter of an 8-billion-parameter model, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import tell
from benchmarks.profile import of_profile
from benchmarks.records import Record
from secagg.schemes import SCHEMES
from secagg.session import SHARED_KEY
from tests.sim import site_name

SITES, SIZE, BITS = 3, 40_000_000, 8
MOST_BYTES = 1e9
# The roles replay their round from a seed, which a key that sites share does not come from.
REPLAYED = sorted(name for name, scheme in SCHEMES.items() if SHARED_KEY not in scheme.needs)
ROOT = Path(__file__).resolve().parents[1]
ROLES = {"masking": "site", "answering the check": "site", "server": "server", "opening": "open", "audit": "whole"}


def play(folder: Path, scheme: str, size: int, audited: bool = True) -> dict[str, int]:
    """Bytes at each part's peak, beyond its input and what its imports take: the most of all sites for theirs.

    audited: with the audit, which takes a third of the time.
    """
    names = [site_name(number) for number in range(1, SITES + 1)]

    def run(*role: str) -> int:
        command = [sys.executable, "-m", "benchmarks.streaming_role", str(folder), scheme, str(SITES), str(size), *role]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return beyond_input(done.stdout)

    sites = [run("site", name) for name in names]
    took = {"masking": max(sites), "server": run("server"), "opening": run("open")}
    checks = [beyond_input((folder / f"{name}.check.json").read_text()) for name in names]
    took["answering the check"] = max(checks)
    return took | ({"audit": run("audit")} if audited else {})


def beyond_input(said: str) -> int:
    """From what a role printed."""
    took = json.loads(said)
    return max(0, int(took["peak"] - took["baseline"] - took["input"]))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", of_profile([SIZE], [1_000_000, 4_000_000, SIZE]))
@pytest.mark.parametrize("scheme", REPLAYED)
def test_no_role_takes_a_gigabyte_beyond_its_input(
    benchmark: BenchmarkFixture, tmp_path: Path, scheme: str, size: int
) -> None:
    took = benchmark.pedantic(play, args=(tmp_path, scheme, size, of_profile(False, True)), rounds=1)
    parts = ", ".join(f"{part} {peak / 1e6:.0f} MB" for part, peak in took.items())
    line = f"peak memory beyond input and imports, {scheme}, d = {size:,}, {SITES} sites: {parts}"
    record = partial(
        Record, family="memory", scheme=scheme, values=size, sites=SITES, neighbours=SITES - 1, bits=BITS,
        note="the process's high-water mark less its imports and its input",
    )  # fmt: skip
    records = [record(role=ROLES[part], stage=part, peak_bytes=peak) for part, peak in took.items()]
    claim = f"; claim: below {MOST_BYTES / 1e6:.0f} MB"
    tell(benchmark, line + claim, *records, extra_bytes=took, claimed_bytes=MOST_BYTES)
    assert max(took.values()) < MOST_BYTES
