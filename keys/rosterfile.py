"""The roster as a file: readable JSON whose canonical encoding is what the root signed (spec §6.4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from keys.errors import DamagedFile, RefusedRoster, UntrustedRoot
from keys.files import read_bounded
from keys.nodekey import require_node_key
from keys.params import ROSTER_FORMAT, ROSTER_LIMIT
from keys.strictjson import date_of, expiry_of, from_hex, parse_object, render, require_fields, require_format
from secagg.errors import Malformed, Refused
from secagg.identity import Roster, RosterEntry, fingerprint
from secagg.wire import MAX_SITES

ASK: Final = "ask the root keeper for roster.json again"

_ROSTER: Final = {
    "format": str,
    "consortium": str,
    "epoch": int,
    "expires": str,
    "expires_s": int,
    "root_key": str,
    "sites": list,
    "revoked": list,
    "signature": str,
}
_ENTRY: Final = {"site": str, "identity_key": str, "node_key": str, "expires": str, "expires_s": int}


def render_roster(roster: Roster) -> str:
    """The text of roster.json."""
    head = {"format": ROSTER_FORMAT, "consortium": roster.consortium, "epoch": roster.epoch}
    return render(
        {
            **head,
            **_dates(roster.expires),
            "root_key": roster.root_key.hex(),
            "sites": [_render_entry(entry) for entry in roster.sites],
            "revoked": [key.hex() for key in roster.revoked],
            "signature": roster.signature.hex(),
        }
    )


def _render_entry(entry: RosterEntry) -> dict[str, object]:
    keys = {"identity_key": entry.identity_key.hex(), "node_key": entry.node_key.hex()}
    return {"site": entry.site, **keys, **_dates(entry.expires)}


def _dates(seconds: int) -> dict[str, object]:
    return {"expires": date_of(seconds), "expires_s": seconds}


def parse_roster(data: bytes) -> Roster:
    """The roster in the text of a roster.json, its signature not yet checked. Raises Malformed."""
    value = parse_object(data)
    require_format(value, ROSTER_FORMAT)
    require_fields(value, _ROSTER)
    if len(value["sites"]) > MAX_SITES:
        raise Malformed(f"it lists more than {MAX_SITES} sites")
    return Roster(
        consortium=value["consortium"],
        epoch=value["epoch"],
        expires=expiry_of(value),
        root_key=from_hex(value["root_key"], "root_key"),
        sites=tuple(_parse_entry(each) for each in value["sites"]),
        revoked=tuple(from_hex(each, "revoked") for each in value["revoked"]),
        signature=from_hex(value["signature"], "signature"),
    )


def _parse_entry(value: Any) -> RosterEntry:
    fields = require_fields(value, _ENTRY)
    node_key = from_hex(fields["node_key"], "node_key")
    require_node_key(node_key)
    identity_key = from_hex(fields["identity_key"], "identity_key")
    return RosterEntry(fields["site"], identity_key, node_key, expiry_of(fields))


def read_roster(path: Path) -> Roster:
    """The roster in the file, signed by the root that it names, whoever that is. Raises KeyFileError."""
    try:
        roster = parse_roster(read_bounded(path, ROSTER_LIMIT))
    except Malformed as error:
        raise DamagedFile(f"{path} is not a roster: {error}", ASK) from error
    try:
        roster.verify(roster.root_key, now=0)
    except Malformed as error:
        raise RefusedRoster(f"{path} was altered or never signed", ASK) from error
    return roster


def require_roster(roster: Roster, root_key: bytes, now: int) -> None:
    """Raises UntrustedRoot unless this root signed it, RefusedRoster if it has expired.

    root_key: 32 bytes, pinned by the caller. now: seconds since 1970.
    """
    if roster.root_key != root_key:
        raise UntrustedRoot(
            f"the roster is signed by another root, {fingerprint(roster.root_key)}",
            "telephone the root keeper and compare fingerprints; do not go on if they differ",
        )
    try:
        roster.verify(root_key, now)
    except Malformed as error:
        raise RefusedRoster("the roster was altered or never signed", ASK) from error
    except Refused as error:
        raise RefusedRoster(
            f"the roster has expired on {date_of(roster.expires)}", "ask the root keeper to renew it"
        ) from error


def load_roster(path: Path, root_key: bytes, now: int) -> Roster:
    """The roster in the file, signed by this root and current. Raises KeyFileError."""
    roster = read_roster(path)
    require_roster(roster, root_key, now)
    return roster
