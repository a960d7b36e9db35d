"""Sites, a root and a command line in a temporary folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from keys.cli import main
from keys.public import SitePublic
from keys.store import SiteHome, init_site, read_own_public

NOW = 1_800_000_000
LATER = NOW + 100 * 86_400


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str

    def is_clear_error(self) -> bool:
        """Exit 1, nothing on stdout, and two lines on stderr: what is wrong, what to do."""
        lines = self.err.splitlines()
        return self.status == 1 and not self.out and lines[-2].startswith("error: ") and "Traceback" not in self.err


@pytest.fixture
def fedkeys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`fedkeys`, run in a temporary folder with a data directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    """A site with keys of its own, no passphrase."""
    return init_site("hospital-a", tmp_path / "a")


@pytest.fixture
def make_public(tmp_path: Path) -> Callable[[str], SitePublic]:
    """Makes a new site and gives its public part."""

    def make(name: str) -> SitePublic:
        home = tmp_path / "homes" / f"{name}-{os.urandom(4).hex()}"
        init_site(name, home)
        return read_own_public(home)

    return make


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which `fedkeys` is on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "fedkeys"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keys.cli "$@"\n')
    script.chmod(0o755)
    repository = str(Path(__file__).parents[2])
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": repository,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "COLUMNS": "300",
        "LC_ALL": "C.UTF-8",
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Every file under the folder with its bytes, to show that nothing changed."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
