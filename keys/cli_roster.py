"""`fedkeys root` and `fedkeys roster`: what the root keeper types, and how anybody checks the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.console import new_app, notice
from keys.errors import DamagedFile
from keys.files import PUBLIC, NewFile, write_new
from keys.keyfile import read_owner
from keys.params import ROSTER_DAYS
from keys.passphrase import Ask, FromFile, new_passphrase, passphrase_for
from keys.pin import pinned_root
from keys.public import (
    fingerprint,
    read_public_key,
    read_roster,
    read_site_public,
    render_public_key,
    render_roster,
    require_fingerprint,
    require_roster,
)
from keys.root import expiry, first_roster, init_root, load_root, renewed, with_sites, without_site
from keys.store import default_home
from keys.strictjson import date_of
from secagg.identity import Roster

root_app = new_app("The consortium's root key: made and kept offline.")
roster_app = new_app("The list of the consortium's sites, signed by the root.")

RootKey = Annotated[Path, typer.Option("--root", help="The root's private key file.")]
Days = Annotated[int, typer.Option("--expires", help="Days until the roster expires.")]
New = Annotated[Path, typer.Option("--out", "-o", help="The new roster file; never an existing one.")]
Old = Annotated[Path, typer.Argument(metavar="ROSTER", help="The newest roster.")]
Sites = Annotated[list[Path], typer.Argument(metavar="SITE.pub...", help="The sites' public files.")]


@root_app.command("init")
def root_init(
    out: Annotated[Path, typer.Option(help="The new private key file.")],
    passphrase: Ask = False,
    passphrase_file: FromFile = None,
) -> None:
    """Make the root key that signs rosters.

    \b
    Example, on a machine that stays offline:
      fedkeys root init --out root.key
    """
    key = init_root(out, new_passphrase(passphrase_file, passphrase))
    notice(f"made the root key {out}; keep it offline, and a copy in a safe")
    notice(f"next: fedkeys root public --root '{out}' > root.pub, and send root.pub to every site")
    notice("then read this fingerprint to every site's administrator by telephone:")
    typer.echo(fingerprint(key))


@root_app.command("public")
def root_public(root: RootKey) -> None:
    """Print the root's public key, which every site pins.

    \b
    Example:
      fedkeys root public --root root.key > root.pub
    """
    owner = read_owner(root)
    if owner.role != "root":
        raise DamagedFile(f"{root} is a {owner.role}'s key, not a root's", "check that this is the file you mean")
    typer.echo(render_public_key("root", owner.public), nl=False)
    notice(f"send this to every site; its fingerprint is {fingerprint(owner.public)}")


@roster_app.command("sign")
def roster_sign(
    sites: Sites,
    root: RootKey,
    *,
    consortium: Annotated[str, typer.Option(help="The consortium's name, such as hospitals.")],
    out: New,
    epoch: Annotated[int, typer.Option(help="Number of this roster.")] = 1,
    expires: Days = ROSTER_DAYS,
    passphrase_file: FromFile = None,
) -> None:
    """Sign the first roster of a consortium.

    \b
    Example, on the root's machine:
      fedkeys roster sign --root root.key --consortium hospitals -o roster.json \\
        hospital-a.pub hospital-b.pub hospital-c.pub
    """
    publics = [read_site_public(path) for path in sites]
    ends = expiry(int(time.time()), expires)
    key = load_root(root, passphrase_for(root, passphrase_file))
    _publish(first_roster(key, consortium, publics, expires=ends, epoch=epoch), out)


@roster_app.command("add")
def roster_add(roster: Old, sites: Sites, root: RootKey, out: New, passphrase_file: FromFile = None) -> None:
    """Sign the next roster, with more sites.

    \b
    Example:
      fedkeys roster add roster.json hospital-d.pub --root root.key -o roster-2.json
    """
    publics = [read_site_public(path) for path in sites]
    _succeed(roster, root, passphrase_file, out, lambda old, key: with_sites(old, key, publics, int(time.time())))


@roster_app.command("revoke")
def roster_revoke(
    roster: Old,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The site to leave out.")],
    root: RootKey,
    out: New,
    passphrase_file: FromFile = None,
) -> None:
    """Sign the next roster, without a site; its identity key never returns.

    \b
    Example:
      fedkeys roster revoke roster-2.json hospital-d --root root.key -o roster-3.json
    """
    _succeed(roster, root, passphrase_file, out, lambda old, key: without_site(old, key, site, int(time.time())))


@roster_app.command("renew")
def roster_renew(
    roster: Old, root: RootKey, out: New, expires: Days = ROSTER_DAYS, passphrase_file: FromFile = None
) -> None:
    """Sign the next roster, of the same sites, with a later expiry.

    \b
    Example:
      fedkeys roster renew roster-3.json --root root.key --expires 365 -o roster-4.json
    """
    ends = expiry(int(time.time()), expires)
    _succeed(roster, root, passphrase_file, out, lambda old, key: renewed(old, key, ends))


@roster_app.command("show")
def roster_show(file: Old) -> None:
    """Print who is on a roster, and who signed it.

    \b
    Example:
      fedkeys roster show roster.json
    """
    roster = read_roster(file)
    for line in _lines(roster):
        typer.echo(line)
    notice("this says who signed, not that you trust them: see fedkeys roster verify")


@roster_app.command("verify")
def roster_verify(
    file: Old,
    root_pub: Annotated[Path | None, typer.Option(help="The root's public key file.")] = None,
    root_fingerprint: Annotated[str, typer.Option(help="The root's fingerprint.")] = "",
    site: Annotated[str, typer.Option(help="The site whose pinned root it must be.")] = "",
    home: Annotated[Path | None, typer.Option(help="The same, by the site's folder.")] = None,
) -> None:
    """Check that a root you trust signed the roster, and that it is current.

    \b
    Example:
      fedkeys roster verify roster.json --root-pub root.pub
    """
    given = [bool(root_pub), bool(root_fingerprint), bool(site or home)]
    if sum(given) != 1:
        raise typer.BadParameter("give one of --root-pub, --root-fingerprint, --site or --home")
    roster = read_roster(file)
    if root_fingerprint:
        require_fingerprint(roster.root_key, root_fingerprint)
    require_roster(roster, _root_key(roster, root_pub, site, home), int(time.time()))
    typer.echo(f"{file}: signed by the root, epoch {roster.epoch}, until {date_of(roster.expires)}")


def _root_key(roster: Roster, root_pub: Path | None, site: str, home: Path | None) -> bytes:
    if root_pub is not None:
        return read_public_key(root_pub, "root")
    if site or home is not None:
        return pinned_root(default_home(site) if home is None else home)
    return roster.root_key


def _succeed(
    old: Path,
    root: Path,
    passphrase_file: Path | None,
    out: Path,
    change: Callable[[Roster, Ed25519PrivateKey], Roster],
) -> None:
    roster = read_roster(old)
    _publish(change(roster, load_root(root, passphrase_for(root, passphrase_file))), out)


def _publish(roster: Roster, out: Path) -> None:
    write_new(NewFile(out, render_roster(roster).encode(), PUBLIC))
    for line in _lines(roster):
        notice(line)
    notice("compare each site's fingerprint by telephone before you send this; then send it to every site")
    notice("and to the server's administrator. A session needs 3 sites at least.")
    typer.echo(out)


def _lines(roster: Roster) -> list[str]:
    return [
        f"consortium   {roster.consortium}",
        f"epoch        {roster.epoch}",
        f"expires      {date_of(roster.expires)}",
        f"root         {fingerprint(roster.root_key)}",
        f"digest       {roster.digest().hex()}",
        *(f"site         {fingerprint(entry.identity_key)}  {entry.site}" for entry in roster.sites),
        *(f"revoked      {fingerprint(key)}" for key in roster.revoked),
    ]
