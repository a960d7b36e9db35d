"""`fedkeys ckks-shared`: the key that all sites share in that mode; nothing heavy is loaded until it is needed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keys.console import new_app, notice
from keys.passphrase import FromFile, passphrase_for
from keys.store import KEY_FILE, default_home, load_site

if TYPE_CHECKING:
    from keys.store import SiteHome
    from secagg.identity import Roster

shared_app = new_app("The key that all sites share in ckks-shared mode; the server never has it.")

Site = Annotated[str, typer.Option("--site", help="The site's name.")]
Home = Annotated[Path | None, typer.Option(help="The site's folder, if not the usual one.")]
RosterFile = Annotated[Path, typer.Option("--roster", help="The roster of the session to come.")]


@shared_app.command("new")
def new(
    site: Site,
    roster: RosterFile,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file for the other sites and the server.")],
    home: Home = None,
    passphrase_file: FromFile = None,
) -> None:
    """Make a key at this site, and a file with it sealed to every other site of the roster. One session uses it.

    \b
    Example, at one of the sites:
      fedkeys ckks-shared new --site hospital-a --roster roster.json -o first.keys > first.name
    """
    from keys.sharedkey import make_shared_key

    key = make_shared_key(*_opened(site, home, roster, passphrase_file), out)
    notice(f"{site} holds the key; send {out} to every other site, which runs")
    notice(f"  fedkeys ckks-shared accept {out} --site NAME --roster {roster}")
    notice(f"and to the server's administrator, who cannot open it, for fedserver --shared-key {out}")
    notice("read this name of the key to the other sites by telephone:")
    typer.echo(key.name.hex())


@shared_app.command("accept")
def accept(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the site that made the key sent.")],
    site: Site,
    roster: RosterFile,
    home: Home = None,
    passphrase_file: FromFile = None,
) -> None:
    """Accept a key that another site of the roster made: its signature is checked, and the key kept sealed.

    \b
    Example, at every other site:
      fedkeys ckks-shared accept first.keys --site hospital-b --roster roster.json
    """
    from keys.sharedkey import accept_shared_key

    maker, key = accept_shared_key(*_opened(site, home, roster, passphrase_file), file)
    notice(f"{site} holds the key that {maker} made; compare its name with {maker} by telephone:")
    typer.echo(key.name.hex())


@shared_app.command("list")
def list_(site: Site, home: Home = None) -> None:
    """Print the names of the shared keys that a site holds, and which session used each.

    \b
    Example:
      fedkeys ckks-shared list --site hospital-a
    """
    from keys.sharedkey import held_keys

    for held in held_keys(_folder(site, home)):
        typer.echo(f"{held.name.hex()}  {'session ' + held.session[:16] if held.session else 'free'}")


@shared_app.command("forget")
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's name, or how it begins.")],
    site: Site,
    home: Home = None,
) -> None:
    """Remove a shared key, and what else here opens its session's sums: who takes this machine cannot read them then.

    \b
    Example, when the session is over and audited:
      fedkeys ckks-shared forget "$(cat first.name)" --site hospital-a
    """
    from keys.sharedkey import forget_shared_key

    held = forget_shared_key(_folder(site, home), name)
    notice("verify-round can no longer read that session's sums at this site" if held.session else "no session used it")
    typer.echo(held.name.hex())


def _opened(site: str, home: Path | None, roster: Path, passphrase_file: Path | None) -> tuple[SiteHome, Roster]:
    from keys.pin import accept_roster

    folder = _folder(site, home)
    key_file = folder / KEY_FILE
    own = load_site(folder, passphrase_for(key_file, passphrase_file) if key_file.exists() else None)
    return own, accept_roster(own, roster, int(time.time()))


def _folder(site: str, home: Path | None) -> Path:
    return default_home(site) if home is None else home
