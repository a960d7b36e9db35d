"""One call, or one script for each role, makes a consortium in which every part trusts the right others."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keys.errors import KeyFileError, WouldOverwrite
from keys.pin import accept_roster
from keys.provision import provision_consortium
from keys.public import load_roster, read_public_key
from keys.root import load_root, renewed
from keys.server import load_server, load_tls
from keys.store import load_site
from secagg.identity import public_bytes
from tests.keys.conftest import NOW, tree

SCRIPTS = Path(__file__).parents[2] / "keys" / "scripts"
SITES = ("hospital-a", "hospital-b", "hospital-c")


def test_a_provisioned_consortium_is_ready_to_run(tmp_path: Path) -> None:
    made = provision_consortium(tmp_path / "demo", SITES, now=NOW)
    roster = load_roster(made.roster, read_public_key(made.root_public, "root"), NOW)
    assert roster.names() == SITES
    for name, home in made.homes.items():
        site = load_site(home)
        assert site.name == name
        assert accept_roster(site, made.roster, NOW) == roster
    assert load_server(made.server).keys.public
    assert load_tls(made.server / "tls", NOW) == made.tls
    renewed(roster, load_root(made.root_key), NOW + 1)
    assert public_bytes(load_root(made.root_key)) == roster.root_key


def test_every_private_file_of_it_is_private(tmp_path: Path) -> None:
    provision_consortium(tmp_path / "demo", SITES)
    found = list((tmp_path / "demo").rglob("*.key"))
    assert len(found) == 1 + 3 + 1 + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in found} == {0o600}


@pytest.mark.parametrize(
    ("sites", "hosts"),
    [(("a", "a"), ("localhost",)), (("a", "B"), ("localhost",)), (("a",), ("h:1",)), ((), ("h",))],
)
def test_a_consortium_is_made_whole_or_not_at_all(
    tmp_path: Path, sites: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    with pytest.raises(KeyFileError):
        provision_consortium(tmp_path / "demo", sites, hosts)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    provision_consortium(tmp_path / "demo", SITES)
    before = tree(tmp_path)
    with pytest.raises(WouldOverwrite):
        provision_consortium(tmp_path / "demo", SITES)
    assert tree(tmp_path) == before


def test_the_command_prints_the_paths_as_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "keys.provision", "--out", str(tmp_path / "demo"), "--host", "localhost"]
    for site in SITES:
        command += ["--site", site]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    paths = json.loads(first.stdout)
    assert set(paths) == {"root_key", "root_public", "roster", "homes", "server", "tls"}
    assert set(paths["homes"]) == set(SITES)
    for path in [paths["roster"], paths["server"], *paths["homes"].values(), *paths["tls"].values()]:
        assert Path(path).exists()
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (again.returncode, len(again.stderr.splitlines()), again.stdout) == (1, 2, "")


def test_the_scripts_of_the_three_roles_make_a_consortium(tmp_path: Path, on_path: dict[str, str]) -> None:
    def run(script: str, *arguments: str) -> str:
        command = ["sh", str(SCRIPTS / f"{script}.sh"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=on_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for site in SITES:
        run("site-administrator", "make", site)
    heard = run("root-keeper", "make").strip()
    run("root-keeper", "sign", "hospitals", *(f"{site}.pub" for site in SITES))
    for site in SITES:
        run("site-administrator", "join", site, "root.pub", "roster.json", heard)
    run("server-administrator", "server", "roster.json", "root.pub", "server.example", "10.0.0.5")
    for site in SITES:
        home = load_site(tmp_path / "data" / "secagg-lora" / site)
        assert accept_roster(home, tmp_path / "roster.json", int(time.time())).names() == SITES
    assert load_tls(tmp_path / "server" / "tls", int(time.time()))


@pytest.mark.parametrize("script", ["site-administrator", "root-keeper", "server-administrator"])
def test_a_script_without_arguments_says_how_to_use_it(script: str, on_path: dict[str, str]) -> None:
    command = ["sh", str(SCRIPTS / f"{script}.sh")]
    done = subprocess.run(command, env=on_path, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{script}.sh" in done.stderr
