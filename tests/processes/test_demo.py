"""The demo: from nothing to its table, and how it ends when something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedserver.demo import MARKER, run_demo
from fedserver.plan import ServerError
from tests.processes.running import ROOT

pytestmark = pytest.mark.processes
SITES = ["cmake", "cpp", "numpy-docs", "yaml"]
DEADLINE_S = 240.0


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A small demo that does not outlive the block."""
    with (folder / "demo.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.processes.small_demo", str(folder / "out")],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def children_left(out: Path) -> list[str]:
    """Command lines of processes that still work on this demo's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        words = _command(entry).replace(b"\0", b" ").decode(errors="replace")
        if str(out) in words and entry.name != str(os.getpid()):
            found.append(words)
    return found


def await_line(folder: Path, words: str) -> None:
    """Waits until the demo has printed these words."""
    deadline = time.monotonic() + DEADLINE_S
    while words not in (folder / "demo.log").read_text(errors="replace"):
        assert time.monotonic() < deadline, (folder / "demo.log").read_text(errors="replace")
        time.sleep(0.05)


def test_the_demo_ends_with_its_table_its_summary_and_an_adapter_that_was_used(tmp_path):
    with demo(tmp_path) as process:
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "demo.log").read_text()
    shown = (tmp_path / "demo.log").read_text()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scheme"] == "masked"
    assert summary["rounds"] == 1
    assert summary["sites"] == SITES
    assert list(summary["perplexity"]["alone"]) == SITES
    assert summary["perplexity"]["federated"] < summary["perplexity"]["base"]
    assert set(summary["perplexity"]["per_domain"]["federated"]) == set(SITES)
    assert 1.3 < summary["bytes_up_per_param"] < 1.5  # six lanes of 10 bits in a word, and the heads
    assert {"train", "protocol", "total"} <= set(summary["seconds"])
    assert summary["dropouts"] == {}
    assert "the federated adapter continues a text of" in shown
    assert all(site in shown for site in SITES)
    assert "round 1/1 masked updates: 4 of 4" in shown
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert children_left(tmp_path / "out") == []


def test_ctrl_c_ends_every_child_of_the_demo(tmp_path):
    with demo(tmp_path) as process:
        await_line(tmp_path, "loading the model")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) != 0
    assert children_left(tmp_path / "out") == []


def test_a_site_that_fails_ends_the_demo_and_is_named(tmp_path):
    with demo(tmp_path) as process:
        await_line(tmp_path, "four fedclient processes")
        os.kill(process_of(tmp_path, b"--site\0cpp"), signal.SIGKILL)
        assert process.wait(60) == 1
    assert "site-cpp failed" in (tmp_path / "demo.log").read_text()
    assert children_left(tmp_path / "out") == []


def process_of(folder: Path, words: bytes) -> int:
    """The process whose command line holds these words and this folder, once there is one."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        for entry in Path("/proc").iterdir():
            command = _command(entry)
            if words in command and str(folder).encode() in command:
                return int(entry.name)
    raise AssertionError("no such process")


def _command(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
    except OSError:
        return b""


def test_the_demo_replaces_only_a_folder_that_it_made(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "thesis.txt").write_text("years of work")
    with pytest.raises(ServerError) as caught:
        run_demo(tmp_path, "masked")
    assert "holds no earlier demo" in caught.value.problem
    assert (tmp_path / "logs" / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / MARKER).exists()
