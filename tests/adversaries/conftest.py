"""The scheme that a test's laboratories and federations are of, and the bench, for what needs real sites with disks."""

from pathlib import Path

import pytest

from tests.adversaries.forms import FORMS
from tests.adversaries.lab import Lab
from tests.federation.conftest import _same_nonces_in_every_run, tmp_path
from tests.federation.direct import Bench

__all__ = ["_same_nonces_in_every_run", "tmp_path"]


@pytest.fixture(params=list(FORMS))
def scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each scheme in turn: the laboratories that the test builds are of it."""
    name = str(request.param)
    monkeypatch.setattr(Lab, "scheme", name)
    return name


@pytest.fixture
def bench(tmp_path: Path, scheme: str) -> Bench:
    """Five real sites with disks, in each scheme."""
    return Bench(tmp_path, options={"scheme": scheme})
