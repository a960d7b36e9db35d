"""What several tests of this folder begin with."""

from __future__ import annotations

import pytest

from tests.flower import pki
from tests.flower.in_memory import Link


@pytest.fixture(scope="session")
def issued(tmp_path_factory: pytest.TempPathFactory) -> pki.Pki:
    """A CA and a certificate for loopback."""
    return pki.issue(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    """Flower's app and state in memory, with bundles."""
    return Link(monkeypatch)
