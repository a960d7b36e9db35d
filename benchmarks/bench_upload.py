"""One site's update on its way through our gateway into the server's process, beside a plain HTTPS upload.

Ours goes in pieces that are hashed to the gateway, which hands them to the SuperLink in its process, and from there by
TLS of its own to the ServerApp, which asks for it; the other is one POST to uvicorn. Same bytes, same certificate, same
machine, in turn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import plaintext, upload
from benchmarks.federation import Federation, Setting, federations, free_port, in_turn
from benchmarks.figures import Spread, tell
from benchmarks.profile import of_profile
from benchmarks.records import Against, Record
from keys.provision import provision_consortium

HTTPS: Final = "https"
MB: Final = 10**6
SIZES: Final = of_profile((100 * MB,), (32 * MB, 100 * MB))
REPETITIONS: Final = of_profile(5, 10)
NOTES: Final = {
    (plaintext.NAME, "upload"): "agent, gateway, SuperLink, ServerApp; until the words are there",
    (plaintext.NAME, "push"): "agent, gateway, SuperLink; until the last piece is confirmed to the site",
    (HTTPS, "upload"): "one POST by httpx to uvicorn over a kept connection",
}
ROLES: Final = {plaintext.NAME: ("server", "site"), HTTPS: ("https-server", "https-client")}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", SIZES)
def test_an_upload(benchmark: BenchmarkFixture, tmp_path: Path, size: int) -> None:
    settings = [Setting(scheme, upload.SITES, size // 8, REPETITIONS + 1) for scheme in ROLES]
    setups = dict.fromkeys(ROLES, _start)

    def run() -> dict[tuple[str, str], tuple[float, ...]]:
        with federations(tmp_path, settings, setups) as made:
            turns = in_turn(made, REPETITIONS)
            pushes = (made[0].journal.parent / upload.PUSHES).read_text().splitlines()[-REPETITIONS:]
        whole = {(scheme, "upload"): tuple(each.event["seconds_total"] for each in turns[scheme]) for scheme in ROLES}
        return whole | {(plaintext.NAME, "push"): tuple(json.loads(line)["seconds"] for line in pushes)}

    taken = benchmark.pedantic(run, rounds=1)
    theirs = taken[HTTPS, "upload"]
    for (scheme, stage), found in taken.items():
        ratios = tuple(mine / its for mine, its in zip(found, theirs, strict=True))
        record = Record(
            family="upload", scheme=scheme, role="site", stage=stage, values=size // 8, wall_s=found, bytes_up=size,
            against=() if scheme == HTTPS else (Against(HTTPS, ratios),), note=NOTES[scheme, stage],
        )  # fmt: skip
        line = f"upload of {size // MB} MB: {NOTES[scheme, stage]}: {Spread.of(found).show('s', digits=2)}"
        tell(benchmark, f"{line}, {Spread.of(ratios).show('x', digits=2)} of plain HTTPS", record)


def _start(made: Federation) -> None:
    """The two processes of an upload: who takes it, and who sends it."""
    folder, port = made.journal.parent, free_port()
    provision_consortium(folder / upload.CONSORTIUM, made.setting.sites)
    for role in ROLES[made.setting.scheme]:
        arguments = [role, str(folder), str(port), str(made.setting.size), str(made.turns)]
        made.start(role, sys.executable, "-m", "benchmarks.upload", *arguments)
        if role == "https-server":
            made.await_port(port)
