"""Single-threaded arithmetic for every benchmark, and a table of all figures at the end."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when numpy is loaded, which is after this file

import pytest  # noqa: E402

from benchmarks.figures import LINES  # noqa: E402
from benchmarks.profile import profile  # noqa: E402

PACKAGES: Final = ("numpy", "cryptography", "pynacl", "flwr", "tenseal", "torch")  # whose versions the report names


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds what else the figures depend on: the profile, and packages' versions."""
    machine_info["profile"] = profile()
    machine_info["packages"] = {name: found for name in PACKAGES if (found := _version(name))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what every benchmark found, claims first to last."""
    if LINES:
        terminalreporter.section("figures")
        for line in LINES:
            terminalreporter.write_line(line)
