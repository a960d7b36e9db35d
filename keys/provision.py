"""A whole consortium on one machine, for demos and tests: what every administrator would make, in one call.

    python -m keys.provision --out demo --site a --site b --site c --host localhost

prints the paths as JSON. A real consortium never does this: here one person holds every private key.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from keys.console import new_app, run
from keys.errors import WouldOverwrite
from keys.files import PUBLIC, NewFile, write_new
from keys.params import PROVISIONED_SHARED_KEY, ROSTER_DAYS
from keys.pin import accept_roster, pin_root
from keys.public import read_site_public, render_public_key, render_roster
from keys.root import expiry, first_roster, init_root, load_root
from keys.server import TLS_FOLDER, TlsPaths, init_server, tls_files
from keys.store import PUBLIC_FILE, init_site, load_site
from keys.tls import issue_tls

LOOPBACK: Final = ("localhost", "127.0.0.1")
DEMO: Final = "demo"


@dataclass(frozen=True, slots=True)
class Consortium:
    """Where everything of a provisioned consortium lies."""

    root_key: Path
    root_public: Path
    roster: Path
    homes: dict[str, Path]
    server: Path
    tls: TlsPaths
    shared_key: Path

    def as_json(self) -> str:
        """The paths, one a line."""
        tls = {"ca": self.tls.ca, "certificate": self.tls.certificate, "key": self.tls.key}
        plain = {"root_key": self.root_key, "root_public": self.root_public, "roster": self.roster}
        paths = {**plain, "homes": self.homes, "server": self.server, "tls": tls}
        if self.shared_key.exists():
            paths["shared_key"] = self.shared_key
        return json.dumps(paths, indent=2, default=str)


def paths_under(out: Path, sites: Sequence[str]) -> Consortium:
    """Where `provision_consortium` puts things."""
    return Consortium(
        root_key=out / "root" / "root.key",
        root_public=out / "root.pub",
        roster=out / "roster.json",
        homes={site: out / "sites" / site for site in sites},
        server=out / "server",
        tls=tls_files(out / "server" / TLS_FOLDER),
        shared_key=out / PROVISIONED_SHARED_KEY,
    )


def provision_consortium(
    out: Path,
    sites: Sequence[str],
    hosts: Sequence[str] = LOOPBACK,
    *,
    consortium: str = DEMO,
    days: int = ROSTER_DAYS,
    now: int | None = None,
    needs: Set[str] = frozenset(),
) -> Consortium:
    """Root, sites that trust it, roster, server and TLS under `out`, all of it or nothing.

    out: a folder that does not exist, or is empty. needs: of a scheme; a shared key is made if it is among them.
    Raises KeyFileError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WouldOverwrite(f"{out} exists already and is not empty", "name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        moment = int(time.time()) if now is None else now
        paths = paths_under(unfinished, sites)
        _make(paths, sites, hosts, consortium=consortium, days=days, now=moment)
        if needs:
            _share(paths, moment, needs)
        unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return paths_under(out, sites)


def _make(
    paths: Consortium, sites: Sequence[str], hosts: Sequence[str], *, consortium: str, days: int, now: int
) -> None:
    paths.root_key.parent.mkdir(mode=0o700)
    root_key = init_root(paths.root_key)
    for site in sites:
        init_site(site, paths.homes[site])
        pin_root(paths.homes[site], root_key)
    publics = [read_site_public(paths.homes[site] / PUBLIC_FILE) for site in sites]
    roster = first_roster(load_root(paths.root_key), consortium, publics, expires=expiry(now, days))
    init_server(paths.server)
    issue_tls(paths.server / TLS_FOLDER, hosts, now)
    write_new(
        NewFile(paths.root_public, render_public_key("root", root_key).encode(), PUBLIC),
        NewFile(paths.roster, render_roster(roster).encode(), PUBLIC),
    )


def _share(paths: Consortium, now: int, needs: Set[str]) -> None:
    """Has the first site make a shared key and all others accept it, if it is needed."""
    from keys.sharedkey import accept_shared_key, make_shared_key
    from secagg.session import SHARED_KEY

    if SHARED_KEY not in needs:
        return
    maker, *others = (load_site(home) for home in paths.homes.values())
    make_shared_key(maker, accept_roster(maker, paths.roster, now), paths.shared_key)
    for site in others:
        accept_shared_key(site, accept_roster(site, paths.roster, now), paths.shared_key)


app = new_app("Provision a whole consortium on this machine, for a demo.")


@app.command()
def provision(
    out: Annotated[Path, typer.Option(help="A new folder for everything.")],
    site: Annotated[list[str], typer.Option(help="A site's name; repeat for each.")],
    host: Annotated[list[str] | None, typer.Option(help="A host that sites connect to; repeat for each.")] = None,
    consortium: Annotated[str, typer.Option(help="The consortium's name.")] = DEMO,
    secagg: Annotated[str, typer.Option(help="The scheme whose keys to make too, as for fedserver.")] = "",
) -> None:
    """Make root, sites, roster, server and TLS in one folder, and print the paths as JSON."""
    needs = _needs(secagg) if secagg else frozenset[str]()
    made = provision_consortium(out, site, tuple(host or LOOPBACK), consortium=consortium, needs=needs)
    typer.echo(made.as_json())


def _needs(scheme: str) -> frozenset[str]:
    from secagg.errors import Refused
    from secagg.schemes import scheme_named

    try:
        return scheme_named(scheme).needs
    except Refused as error:
        raise typer.BadParameter(str(error), param_hint="--secagg") from None


if __name__ == "__main__":
    run(app, "python -m keys.provision")
