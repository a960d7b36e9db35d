"""The ServerApp and ClientApp as an ordinary Flower app: `flwr run` on the simulation engine."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from fedserver.journal import events_named
from fedserver.simulate import site_names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs secagg-lora[sim]"),
]
ROOT = Path(__file__).parent.parent.parent
SITES, ROUNDS = 5, 2


def left_over(home: Path) -> list[str]:
    """Command lines of processes that work in this Flower home."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def test_five_virtual_sites_run_two_rounds_and_leave_an_adapter_and_no_process(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    command = [sys.executable, "-m", "fedserver.simulate", "--sites", str(SITES), "--rounds", str(ROUNDS), "--run"]
    done = subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (out / "flower.log").read_text(errors="replace")

    rounds = list(events_named(out / "events.jsonl", "aggregated"))
    assert [each["contributors"] for each in rounds] == [site_names(SITES)] * ROUNDS
    assert not list(events_named(out / "events.jsonl", "refused"))

    assert done.stdout.strip() == str(out / "adapter")
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == rounds[-1]["size"]
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    factors = [np.abs(tensor).max() for name, tensor in tensors.items() if "lora_B" in name]
    assert min(factors) > 0  # B starts at zero: every layer was trained
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    for name in site_names(SITES):
        own = load_file(out / "consortium" / "sites" / name / "adapter" / "adapter_model.safetensors")
        assert all(np.array_equal(own[each], tensors[each]) for each in tensors)

    [bundle] = (out / "flower" / "apps").iterdir()
    carried = {each.name for each in bundle.rglob("*") if each.is_file()}
    assert carried <= {"pyproject.toml", "LICENSE", "CONTENT"}  # names of installed apps; no code, data or weights
    assert left_over(out / "flower") == []
