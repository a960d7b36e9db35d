"""A session that ended well, kept at its server and its sites, and the two commands that audit it.

Three rounds of five sites: in round 2 site-05 drops out before it masks, in round 3 site-03's answer to the check is
lost, so that its words travel in its place.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedclient import cli as client_cli
from fedserver import cli as server_cli
from keys.nodekey import node_public
from keys.pin import pin_root
from keys.public import render_roster
from secagg.identity import public_bytes, sign_roster
from secagg.session import Packet
from tests.federation.direct import Bench, Where

WORDS = 302  # of a vector of the bench


@dataclass(frozen=True)
class Kept:
    """Where a session lies after it."""

    folder: Path

    @property
    def out(self) -> Path:
        """The server's --out."""
        return self.folder / "out"

    @property
    def state(self) -> Path:
        """The server's transcript."""
        return self.out / "state"

    @property
    def roster(self) -> Path:
        """The roster as a file."""
        return self.folder / "roster.json"

    def home(self, site: str) -> Path:
        """A site's home."""
        return self.folder / site

    def session(self, site: str) -> Path:
        """A site's transcript."""
        (folder,) = (self.home(site) / "state").iterdir()
        return folder


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str

    def two_lines(self) -> tuple[str, str]:
        """What is wrong and what to do, of a command that failed."""
        problem, remedy = self.err.splitlines()
        assert self.status == 1, self
        assert problem.startswith("error: "), self
        return problem.removeprefix("error: "), remedy


Command = Callable[..., Said]


def with_roster_file(bench: Bench) -> Bench:
    """The same bench with a roster that can be a file: node keys are P-384, dates have years."""
    consortium = bench.consortium
    entries = tuple(
        replace(each, node_key=node_public(ec.generate_private_key(ec.SECP384R1())), expires=1 << 33)
        for each in consortium.roster.sites
    )
    consortium.roster = sign_roster(replace(consortium.roster, sites=entries, expires=1 << 33), consortium.root)
    bench.restart(*bench.names)
    return bench


def keep(bench: Bench) -> Kept:
    """Runs the session and gives each home the root that its site trusts."""
    bench.run()
    for name in bench.names:
        pin_root(bench.folder / name, public_bytes(bench.consortium.root))
    (bench.folder / "roster.json").write_text(render_roster(bench.consortium.roster))
    return Kept(bench.folder)


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    bench = with_roster_file(Bench(tmp_path_factory.mktemp("kept"), options={"rounds": 3}))

    def request(where: Where, packets: object) -> object:
        return None if where == Where("answer", "site-05", "mask", 2, 1) else packets

    def reply(where: Where, packet: Packet) -> Packet | None:
        return None if where == Where("answer", "site-03", "check", 3, 1) else packet

    bench.link.alter_request, bench.link.alter_reply = request, reply
    return keep(bench)


@pytest.fixture
def kept(_kept: Kept, tmp_path: Path) -> Kept:
    """A copy of the session for the test to spoil."""
    shutil.copytree(_kept.folder, tmp_path / "kept")
    return Kept(tmp_path / "kept")


def _command(
    main: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    def call(*arguments: object) -> Said:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def fedserver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`fedserver` in this process."""
    return _command(server_cli.main, monkeypatch, capsys)


@pytest.fixture
def fedclient(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`fedclient` in this process."""
    return _command(client_cli.main, monkeypatch, capsys)
