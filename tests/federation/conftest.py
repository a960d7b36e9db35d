"""A bench of five sites: four must survive a round, one may vanish."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedserver import enrolment
from tests.federation.direct import Bench
from tests.sim import Dice


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """In memory where the system has such a place: the sites flush every answer, and a disk makes that slow."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _same_nonces_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nonce decides rotation and clipping; with the sites' dice too, a session is the same every time."""
    monkeypatch.setattr(enrolment, "os", SimpleNamespace(urandom=Dice("nonces")))
