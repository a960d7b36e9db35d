"""How a site makes a key that all sites share, and how another one accepts it (spec §6.8)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.dealt import AGAIN, read_dealt
from keys.errors import DamagedFile, KeyFileError, MissingFile
from keys.files import PUBLIC, NewFile, make_private_folder, write_new
from keys.params import USED_KEYS_FILE
from keys.sharedfile import FOLDER, names_in, path_of, shared_key_file
from keys.store import SiteHome
from secagg.errors import SecAggError
from secagg.identity import Roster, SharedKey
from secagg.schemes import shared_keys

_STATE: Final = "state"  # these two as in fedclient.store
_OPENINGS: Final = "opening-*.sealed"


@dataclass(frozen=True, slots=True)
class Held:
    """A shared key of a home. session: the id, in hexadecimal, of the one that used it; empty if none has."""

    name: bytes
    session: str


def make_shared_key(site: SiteHome, roster: Roster, out: Path) -> SharedKey:
    """A new key: in the site's home, and in `out` sealed to every other site of the roster. Raises KeyFileError."""
    try:
        key = shared_keys.new_shared_key()
        dealt = shared_keys.deal(site.keys, roster, key)
    except SecAggError as error:
        raise KeyFileError(f"no shared key can be made: {error}", "check the roster and the installation") from error
    make_private_folder(site.home / FOLDER)
    write_new(shared_key_file(site.home, site.state_key, key), NewFile(out, dealt.encode(), PUBLIC))
    return key


def accept_shared_key(site: SiteHome, roster: Roster, path: Path) -> tuple[str, SharedKey]:
    """The maker, and the key that it dealt to this site, kept in the site's home. Raises KeyFileError."""
    dealt = read_dealt(path, roster)
    if path_of(site.home, dealt.key).exists():
        raise KeyFileError(f"{site.name} holds the shared key {dealt.key.hex()[:16]} already", "nothing is left to do")
    try:
        key = shared_keys.accept(dealt, site.keys, roster)
    except SecAggError as error:
        raise DamagedFile(f"the key in {path} cannot be accepted: {error}", AGAIN) from error
    make_private_folder(site.home / FOLDER)
    write_new(shared_key_file(site.home, site.state_key, key))
    return dealt.maker, key


def held_keys(home: Path) -> tuple[Held, ...]:
    """The shared keys in a home; takes no passphrase. Raises KeyFileError."""
    log = home / USED_KEYS_FILE
    lines = log.read_text(encoding="ascii", errors="replace").splitlines() if log.exists() else []
    used = dict(line.split(" ", 1) for line in lines if " " in line)
    return tuple(Held(name, used.get(name.hex(), "")) for name in names_in(home))


def forget_shared_key(home: Path, prefix: str) -> Held:
    """Removes the key whose name begins so, and the openings of its session, which hold it too.

    That it was used stays noted. Raises KeyFileError.
    """
    found = [each for each in held_keys(home) if each.name.hex().startswith(prefix.lower())]
    if not prefix or len(found) != 1:
        raise MissingFile(f"{home} holds {len(found)} shared keys whose name begins with {prefix!r}", "give more of it")
    (held,) = found
    openings = (home / _STATE / held.session).glob(_OPENINGS) if held.session else ()
    for path in (*openings, path_of(home, held.name)):
        path.unlink(missing_ok=True)
    return held
