"""No role of a scheme without shared keys needs memory that grows beyond a gigabyte with an update of 4e7 values."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench_streaming import MOST_BYTES, REPLAYED, ROLES, SIZE, play


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scheme", REPLAYED)
def test_every_role_stays_below_a_gigabyte_beyond_its_input(scheme: str, tmp_path: Path) -> None:
    took = play(tmp_path, scheme, SIZE)
    assert took.keys() == ROLES.keys()
    assert 0 < max(took.values()) < MOST_BYTES, took
