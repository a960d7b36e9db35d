"""A session under a key that the sites share, from the commands that deal it to the adapter, with real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keys.store import load_site
from tests.processes.checking import exact_adapter
from tests.processes.memory import WINDOW_BYTES, found_in_files, held_by_server, learnt_at
from tests.processes.running import ROOT, Running, running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SITES = tuple(f"site-{i}" for i in range(1, 4))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--rounds", "2")


def fedkeys(federation: Running, command: str, site: str, *more: object) -> str:
    """What a command of a site's administrator prints."""
    home = federation.consortium.homes[site]
    words = ["ckks-shared", command, *map(str, more), "--site", site, "--home", str(home)]
    done = subprocess.run(
        [sys.executable, "-m", "keys.cli", *words], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A key made at one site and accepted by the others, and the two rounds that used it."""
    with running(tmp_path_factory.mktemp("shared"), *SITES) as federation:
        roster, dealt = ("--roster", federation.consortium.roster), federation.folder / "first.keys"
        names = {fedkeys(federation, "new", SITES[0], *roster, "-o", dealt)}
        names |= {fedkeys(federation, "accept", site, dealt, *roster) for site in SITES[1:]}
        (federation.name_of_key,) = names
        for home in federation.consortium.homes.values():
            (home / "policy.toml").write_text('schemes = ["ckks-shared"]\n')
        federation.start_server("--secagg", "ckks-shared", "--shared-key", str(dealt), *OPTIONS)
        federation.start_toys(*SITES[:-1], train_s=0.0)
        federation.start_toy(SITES[-1], "hold:finish:2", train_s=0.0)
        federation.await_one("aggregated", round=2)
        federation.await_sign(SITES[-1], "hold:finish:2")
        federation.await_file(federation.folder / f"{SITES[0]}.f32")
        federation.secrets = [*learnt_at(federation, SITES[0]), *_of_key(federation)]
        federation.held = held_by_server(federation, federation.secrets)
        federation.let_go(SITES[-1])
        assert [federation.wait(name) for name in ("server", *SITES)] == [0] * 4, federation.logs()
        yield federation


def _of_key(federation: Running) -> list[bytes]:
    """Pieces of the secret that the sites share, but for its ends, where the format's own bytes are."""
    (key,) = load_site(federation.consortium.homes[SITES[0]]).keys.shared
    return [key.secret[at : at + WINDOW_BYTES] for at in range(20_000, 50_000, 10_000)]


def test_neither_adapter_nor_key_is_in_the_servers_memory_or_files(ended):
    assert set(ended.held.values()) == {0}, ended.held
    assert found_in_files(ended.results, ended.secrets) == []


def test_every_site_ends_with_the_mean_and_the_server_without_an_adapter(ended):
    first, *others = (np.fromfile(ended.folder / f"{site}.f32", "<f4") for site in SITES)
    assert all(np.array_equal(first, other) for other in others)
    wanted, bound = exact_adapter(ended)
    assert np.linalg.norm(first - wanted) <= bound
    assert not list(Path(ended.results).rglob("adapter*"))


def test_server_and_sites_say_what_the_session_does_not_protect(ended):
    assert "fedserver: CAUTION: ckks-shared: All sites share one" in ended.log("server")
    assert f"the sites share the key {ended.name_of_key}, made by {SITES[0]}" in ended.log("server")
    for site in SITES:
        assert f"{site}: CAUTION: ckks-shared: All sites share one" in ended.log(site)
        assert f"fedkeys ckks-shared forget {ended.name_of_key[:16]} --site {site}" in ended.log(site)


def test_each_site_has_noted_which_session_used_the_key(ended):
    for site in SITES:
        assert fedkeys(ended, "list", site).startswith(f"{ended.name_of_key}  session ")


def test_a_server_without_the_key_or_with_one_of_nobody_does_not_start(ended):
    def fails(*options: object) -> str:
        words = ["--secagg", "ckks-shared", *OPTIONS, "--roster", ended.consortium.roster]
        words += ["--keys", ended.consortium.server, "--out", ended.folder / "other", *options]
        done = subprocess.run(
            [sys.executable, "-m", "fedserver.cli", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 1
        return done.stderr

    assert "fedkeys ckks-shared new" in fails()
    assert "is no dealt key" in fails("--shared-key", ended.consortium.roster)
    content = (ended.folder / "first.keys").read_bytes()
    (ended.folder / "forged.keys").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is not signed by its maker" in fails("--shared-key", ended.folder / "forged.keys")
