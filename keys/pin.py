"""Which root a site trusts, and which roster it has accepted last: neither ever goes back (spec §6.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from filelock import FileLock

from keys.errors import RefusedRoster, UntrustedRoot
from keys.files import PUBLIC, NewFile, replace, require_private, write_new
from keys.public import load_roster, read_public_key, read_roster, render_public_key, render_roster
from keys.store import SiteHome
from secagg.errors import Refused
from secagg.identity import Roster, fingerprint

ROOT_FILE: Final = "root.pub"
ACCEPTED_FILE: Final = "accepted-roster.json"
LOCK_FILE: Final = ".lock"


def pin_root(home: Path, root_key: bytes) -> None:
    """Makes this the only root the site trusts. Raises UntrustedRoot if another one is pinned."""
    path = home / ROOT_FILE
    if not path.exists():
        write_new(NewFile(path, render_public_key("root", root_key).encode(), PUBLIC))
    elif (pinned := pinned_root(home)) != root_key:
        raise UntrustedRoot(
            f"{home} trusts another root, {fingerprint(pinned)}",
            "a consortium with a new root needs a new home: fedkeys init NAME --home ANOTHER",
        )


def pinned_root(home: Path) -> bytes:
    """The 32-byte key of the root that the site trusts. Raises UntrustedRoot if there is none."""
    path = home / ROOT_FILE
    if not path.exists():
        raise UntrustedRoot(f"{home} trusts no root yet", f"run: fedkeys trust ROOT.pub --home '{home}'")
    require_private(path, path.stat().st_mode & ~0o044)  # others may read it, nobody else may write it
    return read_public_key(path, "root")


def accept_roster(site: SiteHome, path: Path, now: int) -> Roster:
    """The roster in `path`: by the pinned root, current, listing this site, and not older than the last one.

    Remembers it in the site's home. now: seconds since 1970. Raises KeyFileError, nothing changed.
    """
    roster = load_roster(path, pinned_root(site.home), now)
    try:
        roster.verify_site(site.keys, now)
    except Refused as error:
        raise RefusedRoster(f"the roster does not admit this site: {error}", "ask the root keeper") from error
    with FileLock(site.home / LOCK_FILE, mode=0o600):
        _require_successor(site.home, roster)
        replace(site.home / ACCEPTED_FILE, render_roster(roster).encode())
    return roster


def _require_successor(home: Path, roster: Roster) -> None:
    if not (home / ACCEPTED_FILE).exists():
        return
    last = read_roster(home / ACCEPTED_FILE)
    if roster.consortium != last.consortium:
        raise RefusedRoster(
            f"this home belongs to the consortium {last.consortium}, the roster to {roster.consortium}",
            "use one home for each consortium",
        )
    if roster.epoch < last.epoch:
        raise RefusedRoster(
            f"the roster is of epoch {roster.epoch}, and epoch {last.epoch} was accepted here before",
            "ask the root keeper for the newest roster; an old one could bring a revoked site back",
        )
    if roster.epoch == last.epoch and roster.digest() != last.digest():
        raise RefusedRoster(
            f"this is a second roster of epoch {roster.epoch}, and it differs from the first",
            "ask the root keeper which one holds, and to sign the next epoch",
        )
