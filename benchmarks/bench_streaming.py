"""Peak memory of each role at d = 4e7, the adapter of an 8-billion-parameter model, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.figures import tell
from tests.sim import site_name

SITES, SIZE = 3, 40_000_000
MOST_BYTES = 1e9
ROOT = Path(__file__).resolve().parents[1]


def play(folder: Path, *role: str) -> float:
    """Bytes at the role's peak, beyond its input and what its imports take."""
    command = [sys.executable, "-m", "benchmarks.streaming_role", str(folder), str(SITES), str(SIZE), *role]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return beyond_input(done.stdout)


def beyond_input(said: str) -> float:
    """From what a role printed."""
    took = json.loads(said)
    return float(took["peak"] - took["baseline"] - took["input"])


@pytest.mark.timeout(600)
def test_no_role_takes_a_gigabyte_beyond_its_input(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    names = [site_name(number) for number in range(1, SITES + 1)]
    roles = {f"site {name}": ("site", name) for name in names}
    roles |= {role: (role,) for role in ("server", "open", "audit")}
    took = benchmark.pedantic(lambda: {title: play(tmp_path, *role) for title, role in roles.items()}, rounds=1)
    took |= {f"check {name}": beyond_input((tmp_path / f"{name}.check.json").read_text()) for name in names}
    masking, checking = (max(took[f"{stage} {name}"] for name in names) for stage in ("site", "check"))
    line = f"peak memory beyond input and imports, d = {SIZE:,}, {SITES} sites: masking {masking / 1e6:.0f} MB, "
    line += (
        f"answering the check {checking / 1e6:.0f} MB, server's sum, unmasking and check {took['server'] / 1e6:.0f} "
    )
    line += f"MB, opening {took['open'] / 1e6:.0f} MB, audit {took['audit'] / 1e6:.0f} MB"
    tell(benchmark, f"{line}; claim: below {MOST_BYTES / 1e6:.0f} MB", extra_bytes=took, claimed_bytes=MOST_BYTES)
    assert max(took.values()) < MOST_BYTES
