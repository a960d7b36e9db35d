"""The bench of five sites, as the federation's tests have it."""

from __future__ import annotations

from tests.federation.conftest import bench, tmp_path

__all__ = ["bench", "tmp_path"]
