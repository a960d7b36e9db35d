"""`fedkeys`: what a site, the root keeper and the server's administrator type, once."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Never

import typer

from keys.cli_roster import root_app, roster_app
from keys.cli_shared import shared_app
from keys.console import new_app, notice, run
from keys.errors import KeyFileError, UntrustedRoot
from keys.files import replace
from keys.params import CA_FILE
from keys.passphrase import Ask, FromFile, new_passphrase
from keys.pin import pin_root
from keys.public import fingerprint, read_public_key, render_site_public, require_fingerprint
from keys.recognise import fingerprints_in
from keys.store import default_home, init_site, read_own_public

app = new_app("Make and look after the keys of a federation. Private keys never leave the folder they are made in.")
server_app = new_app("The server's own signing key.")
app.add_typer(root_app, name="root")
app.add_typer(roster_app, name="roster")
app.add_typer(server_app, name="server")
app.add_typer(shared_app, name="ckks-shared")

NameOf = Annotated[str, typer.Argument(metavar="NAME", help="The site's name, such as hospital-a.")]
Home = Annotated[Path | None, typer.Option(help="The site's folder, if not the usual one.")]


@app.command()
def init(name: NameOf, home: Home = None, passphrase: Ask = False, passphrase_file: FromFile = None) -> None:
    """Make a site's keys: identity, Flower node key, state key.

    \b
    Example, at each site:
      fedkeys init hospital-a
    """
    site = init_site(name, home, new_passphrase(passphrase_file, passphrase))
    notice(f"made the keys of {name} in {site.home}; site.key never leaves this machine")
    notice(f"next: fedkeys public {name}{_home_option(home)} > {name}.pub, and send that to the root keeper")
    notice("then read this fingerprint to the root keeper by telephone:")
    typer.echo(fingerprint(site.keys.public))


@app.command()
def public(name: NameOf, home: Home = None) -> None:
    """Print the public part that a site sends to the root keeper.

    \b
    Example:
      fedkeys public hospital-a > hospital-a.pub
    """
    folder = default_home(name) if home is None else home
    own = read_own_public(folder)
    if own.site != name:
        raise KeyFileError(f"{folder} holds the keys of {own.site}, not of {name}", "give the right NAME or --home")
    typer.echo(render_site_public(own), nl=False)
    notice(f"send this to the root keeper; its fingerprint is {fingerprint(own.identity_key)}")


@app.command()
def trust(
    root_pub: Annotated[Path, typer.Argument(metavar="ROOT.pub", help="The root's public key.")],
    site: Annotated[str, typer.Option(help="The site whose usual folder it is.")] = "",
    home: Home = None,
    heard: Annotated[str, typer.Option("--fingerprint", help="What the root keeper read to you.")] = "",
    ca: Annotated[Path | None, typer.Option(help="The server's ca.pem, for fedclient to use by default.")] = None,
) -> None:
    """Make a site trust the consortium's root, once its fingerprint was compared by telephone.

    \b
    Example (without --fingerprint it shows the fingerprint and asks):
      fedkeys trust root.pub --site hospital-a --fingerprint "$(cat heard-by-telephone.txt)"

    --ca ca.pem keeps the server's CA certificate in the site's folder as well.
    """
    folder = _folder(site, home)
    read_own_public(folder)
    root_key = read_public_key(root_pub, "root")
    _compare(root_key, heard)
    if ca is not None:
        from keys.server import read_certificate

        read_certificate(ca)
    pin_root(folder, root_key)
    notice(f"{folder} now trusts this root, and no other")
    if ca is not None:
        replace(folder / CA_FILE, ca.read_bytes())
        notice(f"fedclient will trust the server's CA in {folder / CA_FILE}; compare it by telephone too:")
        notice(fingerprints_in(ca)[0][1])
    typer.echo(fingerprint(root_key))


@app.command(name="fingerprint")
def fingerprint_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pub, .key, roster or certificate.")],
) -> None:
    """Print the fingerprints of the keys in a file, to compare by telephone.

    \b
    Example:
      fedkeys fingerprint hospital-a.pub
    """
    for name, digits in fingerprints_in(file):
        typer.echo(f"{digits}  {name}")


@server_app.command("init")
def server_init(
    out: Annotated[Path, typer.Option(help="The server's folder.")],
) -> None:
    """Make the key with which the server signs the rounds that it opens; it protects nobody's data.

    \b
    Example, at the server:
      fedkeys server init --out server
    """
    from keys.server import init_server

    server = init_server(out)
    notice(f"made the server's signing key in {out}; signing.key never leaves this machine")
    notice(f"next: fedkeys tls --host HOST --out '{out / 'tls'}'")
    typer.echo(fingerprint(server.keys.public))


@app.command()
def tls(
    host: Annotated[list[str], typer.Option(help="A name or address that sites connect to; repeat for each.")],
    out: Annotated[Path, typer.Option(help="A folder for the CA and the certificate.")],
    localhost: Annotated[bool, typer.Option("--localhost", help="Name localhost and 127.0.0.1 too.")] = False,
    ca: Annotated[Path | None, typer.Option(help="An earlier --out, to keep its CA.")] = None,
) -> None:
    """Make a CA and the server's TLS certificate.

    \b
    Example, at the server:
      fedkeys tls --host server.example --host 10.0.0.5 --out server/tls
    """
    from keys.tls import issue_tls, load_authority

    now = int(time.time())
    hosts = [*host, *(["localhost", "127.0.0.1"] if localhost else [])]
    paths = issue_tls(out, hosts, now, authority=load_authority(ca, now) if ca else None)
    notice(f"made a certificate for {', '.join(hosts)}; ca.key and server.key never leave this machine")
    notice(f"next: send {paths.ca} to every site; they compare its fingerprint by telephone:")
    notice(fingerprints_in(paths.ca)[0][1])
    typer.echo(paths.ca)


def _folder(site: str, home: Path | None) -> Path:
    if home is None and not site:
        raise typer.BadParameter("give --site NAME or --home DIR")
    return default_home(site) if home is None else home


def _home_option(home: Path | None) -> str:
    return "" if home is None else f" --home '{home}'"


def _compare(root_key: bytes, heard: str) -> None:
    """Raises UntrustedRoot unless a person, or the fingerprint they gave, says that this is the root."""
    if heard:
        require_fingerprint(root_key, heard)
        return
    notice(f"the root's fingerprint is {fingerprint(root_key)}")
    if not sys.stdin.isatty():
        raise UntrustedRoot(
            "nobody has compared the root's fingerprint",
            'telephone the root keeper, then give --fingerprint "..."',
        )
    if not typer.confirm("Did the root keeper read you the same by telephone?", err=True):
        raise UntrustedRoot("the root's fingerprint differs", "do not use this file: somebody swapped it")


def main(arguments: Sequence[str] | None = None) -> Never:
    """Runs `fedkeys` and ends the process."""
    run(app, "fedkeys", arguments)


if __name__ == "__main__":
    main()
