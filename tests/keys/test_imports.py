"""The server never loads the code that reads a site's or the root's key; `fedkeys` loads no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

PRIVATE = {"keys.keyfile", "keys.store", "keys.root", "keys.pin", "keys.server", "keys.tls", "keys.provision"}


def loaded_by(module: str) -> set[str]:
    """Every module that a fresh process holds after importing this one."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_public_part_loads_no_code_that_reads_a_private_key() -> None:
    assert not loaded_by("keys.public") & PRIVATE


def test_the_servers_part_loads_no_code_that_reads_a_sites_or_the_roots_key() -> None:
    assert not loaded_by("keys.server") & {
        "keys.store",
        "keys.root",
        "keys.pin",
        "keys.provision",
        "keys.tls",
    }


@pytest.mark.parametrize("module", ["keys.cli", "keys.provision"])
def test_provisioning_loads_neither_flower_nor_torch_nor_numpy(module: str) -> None:
    assert not loaded_by(module) & {"flwr", "torch", "numpy", "transformers", "peft"}
