"""What a transcript takes on disk: the operator hears of it before the first round, if it is much."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fedserver import federation
from fedserver.checkpoint import disk_bytes
from fedserver.journal import read_events
from fedserver.live import View
from tests.federation.direct import Bench
from tests.sim import Consortium

HEADS = 40_000  # of five sites: what stands beside the words, with the tally's eight words a vector


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("keep", "rounds"), [(-1, 3), (1, 3), (0, 2)])
def test_the_foretold_bytes_are_those_on_disk_but_for_the_heads(tmp_path: Path, keep: int, rounds: int) -> None:
    bench = Bench(tmp_path, options={"keep_vectors": keep, "rounds": rounds})
    bench.run()
    manifest = bench.server()._checkpoint.manifest()
    assert manifest is not None
    _, session = disk_bytes(manifest, keep)
    found = bytes_of(Path(bench.plan.out) / "state" / "rounds")
    assert session < found < session + rounds * HEADS


def test_the_sum_and_every_sites_vector_count(tmp_path: Path) -> None:
    manifest = Consortium(3).manifest(6_000_000, rounds=10)  # lanes of 10 bits, 6 a word: 8 MB a vector
    assert disk_bytes(manifest) == (32_000_000, 320_000_000)
    assert disk_bytes(manifest, 2) == (32_000_000, 10 * 8_000_000 + 2 * 24_000_000)
    assert disk_bytes(manifest, 20) == disk_bytes(manifest)


@pytest.mark.parametrize("much", [True, False])
def test_a_session_says_once_how_much_it_will_take_if_that_is_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, much: bool
) -> None:
    monkeypatch.setattr(federation, "MUCH_DISK", 1000 if much else 10**9)
    bench = Bench(tmp_path)
    bench.run()
    bench.run()  # resumed: it was said
    told = bench.events("transcript")
    assert len(told) == much
    if much:
        names = [each["event"] for each in read_events(bench.journal)[0]]
        assert names.index("transcript") < names.index("round")


def test_the_line_names_the_option_that_bounds_it() -> None:
    shown = io.StringIO()
    View(Console(file=shown)).show({"event": "transcript", "bytes_round": 640_000_000, "bytes_session": 6_400_000_000})
    assert shown.getvalue() == (
        "the transcript takes 0.64 GB a round and 6.4 GB on disk at the end; --keep-vectors bounds it\n"
    )
