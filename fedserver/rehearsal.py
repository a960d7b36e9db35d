"""What the demo and a simulation do in place of the sites' administrators, and how they look for what must not be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from safetensors.numpy import load_file

from fedclient.adapter_folder import WEIGHTS
from fedserver.plan import ServerError
from keys.dealt import read_dealt
from keys.params import PROVISIONED_SHARED_KEY
from keys.public import read_roster
from secagg.config import Policy
from secagg.schemes import scheme_named
from secagg.session import SHARED_KEY

POLICY_FILE: Final = "policy.toml"  # as in fedclient.policy, which the server does not load
WRITTEN: Final = ("state", "run", "events.jsonl", "plan.json")  # by the server, in its --out
PIECES: Final = 64
PIECE_BYTES: Final = 64


def allow(scheme: str, homes: Sequence[Path]) -> None:
    """Writes the policy of each site's administrator, who allows a scheme that the default policy does not."""
    if scheme not in Policy().schemes:
        for home in homes:
            (home / POLICY_FILE).write_text(f'schemes = ["{scheme}"]\n', encoding="utf-8")


def shared_key_of(consortium: Path, scheme: str) -> str:
    """The name of the key that a provisioned consortium's sites share; empty if the scheme needs none."""
    if SHARED_KEY not in scheme_named(scheme).needs:
        return ""
    roster = read_roster(consortium / "roster.json")
    return read_dealt(consortium / PROVISIONED_SHARED_KEY, roster).key.hex()


def require_no_adapter(out: Path, adapter: Path) -> int:
    """How many of the server's files were searched for pieces of a site's adapter; it has none of its own.

    out: the server's folder. adapter: the site's. Raises ServerError if a piece is found.
    """
    pieces = list(_pieces(adapter))
    files = [file for name in WRITTEN for file in (out / name, *(out / name).rglob("*")) if file.is_file()]
    for file in files:
        content = file.read_bytes()
        if any(piece in content for piece in pieces):
            raise ServerError(f"{file} holds a piece of the adapter", "please report it, as SECURITY.md says")
    return len(files)


def _pieces(adapter: Path) -> Iterator[bytes]:
    """64 bytes of float32 each, from all over the adapter; none is all zeros."""
    content = b"".join(each.astype("<f4").tobytes() for each in load_file(adapter / WEIGHTS).values())
    step = max(PIECE_BYTES, len(content) // PIECES // 4 * 4)
    found = (content[at : at + PIECE_BYTES] for at in range(0, len(content) - PIECE_BYTES, step))
    return (piece for piece in found if any(piece))
