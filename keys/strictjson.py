"""How our JSON files are read: known keys only, each exactly once, each of its type."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from keys.params import LAST_DATE_S
from secagg.errors import Malformed

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
_DATE: Final = "%Y-%m-%dT%H:%M:%SZ"


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`. Raises Malformed for anything else, and for a key given twice."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Malformed("not a whole JSON text in UTF-8") from error
    if type(value) is not dict:
        raise Malformed("not a JSON object")
    return value


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise Malformed("a key stands twice in one JSON object")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise Malformed(f"{name} is not JSON")


def require_fields(value: object, fields: Mapping[str, type]) -> dict[str, Any]:
    """The object, if it has exactly these keys with values of these types. Raises Malformed."""
    if type(value) is not dict:
        raise Malformed("an entry is not a JSON object")
    for name in fields.keys() - value.keys():
        raise Malformed(f"the key {name!r} is missing")
    for name in value.keys() - fields.keys():
        raise Malformed(f"the key {name[:40]!r} is unknown")
    for name, kind in fields.items():
        if type(value[name]) is not kind:
            raise Malformed(f"{name!r} has the wrong type")
    return value


def require_format(value: Mapping[str, Any], expected: str) -> None:
    """Raises Malformed unless the file says that it is of this format."""
    if value.get("format") != expected:
        raise Malformed(f'it does not say "format": "{expected}"')


def from_hex(text: object, name: str) -> bytes:
    """The bytes of lower-case hexadecimal digits. Raises Malformed."""
    if type(text) is not str or not _HEX.fullmatch(text):
        raise Malformed(f"{name!r} is not lower-case hexadecimal")
    return bytes.fromhex(text)


def date_of(seconds: int) -> str:
    """The instant as people read it: 2027-01-31T12:00:00Z. Raises Malformed beyond the year 9999."""
    if not 0 <= seconds <= LAST_DATE_S:
        raise Malformed("a date lies outside the years 1970 to 9999")
    return datetime.fromtimestamp(seconds, UTC).strftime(_DATE)


def expiry_of(value: Mapping[str, Any]) -> int:
    """The seconds of `expires_s`, if `expires` is the same instant. Raises Malformed."""
    seconds: int = value["expires_s"]
    if date_of(seconds) != value["expires"]:
        raise Malformed("'expires' and 'expires_s' are not the same instant")
    return seconds


def render(value: Mapping[str, Any]) -> str:
    """The JSON text, one field a line."""
    return json.dumps(value, indent=2) + "\n"
