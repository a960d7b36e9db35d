"""What the consortium's root does, offline: makes its key and signs one roster after another (spec §6.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.errors import DamagedFile, KeyFileError, RefusedRoster
from keys.files import write_new
from keys.keyfile import RESTORE, Owner, new_key_file, open_key_file
from keys.params import DAY_S, LAST_DATE_S, MOST_DAYS
from keys.public import SitePublic, require_roster
from secagg.errors import Malformed
from secagg.identity import Roster, RosterEntry, public_bytes, sign_roster
from secagg.wire import MAX_SITES, NAME

MOST_REVOKED = 1000


def init_root(path: Path, passphrase: str | None = None) -> bytes:
    """A new root key in `path`, 0600; its 32-byte public key. Raises KeyFileError."""
    key = Ed25519PrivateKey.generate()
    owner = Owner("root", "root", public_bytes(key))
    write_new(new_key_file(path, owner, key.private_bytes_raw(), passphrase))
    return owner.public


def load_root(path: Path, passphrase: str | None = None) -> Ed25519PrivateKey:
    """The root's signing key. Raises KeyFileError."""
    owner, secret = open_key_file(path, "root", 32, passphrase)
    key = Ed25519PrivateKey.from_private_bytes(secret)
    if public_bytes(key) != owner.public:
        raise DamagedFile(f"{path} was altered: its public key is another one", RESTORE)
    return key


def expiry(now: int, days: int) -> int:
    """The second, `days` from now, at which a roster ceases to count. Raises KeyFileError."""
    if not 1 <= days <= MOST_DAYS or now + days * DAY_S > LAST_DATE_S:
        raise KeyFileError(f"a roster cannot last {days} days", f"give 1 to {MOST_DAYS} days")
    return now + days * DAY_S


def first_roster(
    root: Ed25519PrivateKey, consortium: str, sites: Sequence[SitePublic], *, expires: int, epoch: int = 1
) -> Roster:
    """A roster of these sites that revokes nobody. expires: seconds since 1970. Raises KeyFileError."""
    if not NAME.fullmatch(consortium):
        raise KeyFileError(f"{consortium!r} is not a name for a consortium", "use a-z, 0-9 and inner hyphens")
    entries = _entries(sites, expires)
    with _within_limits():
        unsigned = Roster(consortium, epoch, expires, public_bytes(root), entries, (), bytes(64))
        return sign_roster(unsigned, root)


def with_sites(roster: Roster, root: Ed25519PrivateKey, sites: Sequence[SitePublic], now: int) -> Roster:
    """The next epoch, with these sites too. Raises KeyFileError for a known name, a known or revoked key."""
    _require_ours(roster, root, now)
    for site in sites:
        if site.identity_key in roster.revoked:
            raise RefusedRoster(f"{site.site}'s key was revoked and never returns", "make new keys in a new home")
    known = [SitePublic(e.site, e.identity_key, e.node_key, bytes(64)) for e in roster.sites]
    expiries = {entry.site: entry.expires for entry in roster.sites}
    entries = _entries([*known, *sites], roster.expires)
    kept = tuple(replace(entry, expires=expiries.get(entry.site, roster.expires)) for entry in entries)
    return _next(roster, root, sites=kept)


def without_site(roster: Roster, root: Ed25519PrivateKey, site: str, now: int) -> Roster:
    """The next epoch, without the site; its identity key never returns. Raises KeyFileError."""
    _require_ours(roster, root, now)
    if site not in roster.names():
        raise RefusedRoster(f"{site} is not on the roster", "see who is: fedkeys roster show FILE")
    if len(roster.sites) == 1:
        raise RefusedRoster(f"{site} is the only site on the roster", "add another site first")
    if len(roster.revoked) >= MOST_REVOKED:
        raise RefusedRoster(f"the roster lists {MOST_REVOKED} revoked keys already", "found a consortium anew")
    revoked = tuple(sorted({*roster.revoked, roster.entry(site).identity_key}))
    return _next(roster, root, sites=tuple(e for e in roster.sites if e.site != site), revoked=revoked)


def renewed(roster: Roster, root: Ed25519PrivateKey, expires: int) -> Roster:
    """The next epoch of the same sites and revocations, all until `expires`. Raises KeyFileError."""
    _require_ours(roster, root, now=0)  # an expired roster is what one renews
    return _next(roster, root, expires=expires, sites=tuple(replace(each, expires=expires) for each in roster.sites))


def _require_ours(roster: Roster, root: Ed25519PrivateKey, now: int) -> None:
    try:
        require_roster(roster, public_bytes(root), now)
    except RefusedRoster as error:
        raise RefusedRoster(error.problem, "renew it first: fedkeys roster renew FILE --root KEY -o NEW") from error


def _entries(sites: Sequence[SitePublic], expires: int) -> tuple[RosterEntry, ...]:
    """The sites' entries, ascending. Raises KeyFileError if two share a name or a key."""
    if not 1 <= len(sites) <= MAX_SITES:
        raise RefusedRoster(f"a roster cannot list {len(sites)} sites", f"give 1 to {MAX_SITES} of them")
    ordered = sorted(sites, key=lambda site: site.site)
    for left, right in pairwise(ordered):
        if left.site == right.site:
            raise RefusedRoster(f"two sites are called {left.site}", "each needs a name of its own")
    for kind in ("identity_key", "node_key"):
        _require_distinct(ordered, kind)
    return tuple(RosterEntry(site.site, site.identity_key, site.node_key, expires) for site in ordered)


def _require_distinct(sites: Sequence[SitePublic], kind: str) -> None:
    owners: dict[bytes, str] = {}
    for site in sites:
        if (owner := owners.setdefault(getattr(site, kind), site.site)) != site.site:
            raise RefusedRoster(
                f"{owner} and {site.site} share a key", "each site makes its own, with: fedkeys init NAME"
            )


def _next(roster: Roster, root: Ed25519PrivateKey, **changes: object) -> Roster:
    with _within_limits():
        return sign_roster(replace(roster, epoch=roster.epoch + 1, **changes), root)  # type: ignore[arg-type]


@contextmanager
def _within_limits() -> Iterator[None]:
    try:
        yield
    except Malformed as error:
        raise RefusedRoster(f"the roster breaks a limit: {error}", "check epoch, names and keys") from error
