"""What anybody may read of a file in which a shared key was dealt: who made it, and its name (spec §6.8)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from keys.errors import DamagedFile, RefusedRoster
from keys.files import read_bounded
from keys.params import DEALT_LIMIT
from secagg.errors import Malformed, SecAggError
from secagg.identity import Roster
from secagg.schemes import shared_keys

AGAIN: Final = "ask its maker for the file as it was made, or for a new one"


def read_dealt(path: Path, roster: Roster) -> shared_keys.SharedKeys:
    """The file's content, if a site of this roster signed it for all others. Raises KeyFileError.

    The key itself is sealed to each site in it; the maker and the name are for everybody.
    """
    try:
        dealt = shared_keys.SharedKeys.decode(read_bounded(path, DEALT_LIMIT))
    except Malformed as error:
        raise DamagedFile(f"{path} is no dealt key: {error}", AGAIN) from error
    try:
        shared_keys.require_dealt(dealt, roster)
    except SecAggError as error:
        raise RefusedRoster(f"the key in {path} cannot be used: {error}", AGAIN) from error
    return dealt
