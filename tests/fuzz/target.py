"""What every fuzz target shares: the errors that may come out, and a reader that cuts an input into parts."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from fedclient.settings import LocalError
from keys.errors import KeyFileError
from secagg.ckks.messages import BlindAdvert
from secagg.ckks_shared.messages import Contribution
from secagg.enrol import SIGNED, Consent, Here, ModelCard, Ready
from secagg.errors import SecAggError
from secagg.identity import ServerKeys, SiteKeys
from secagg.labels import (
    SIGN_BLIND_ADVERT,
    SIGN_CONTRIBUTION,
    SIGN_KEY_ADVERT,
    SIGN_MASKED_VECTOR,
    SIGN_PROJECTIONS,
    SIGN_ROUND_OPEN,
    SIGN_SEALED_SHARES,
    SIGN_SURVIVORS,
    SIGN_UNMASK_SHARES,
)
from secagg.masked.messages import (
    KeyAdvert,
    MaskedVector,
    Projections,
    RoundOpen,
    ShareStatement,
    SurvivorSignature,
    UnmaskShares,
)
from secagg.primitives.signature import sign
from secagg.wire import Struct, field_rules
from tests.sim import Consortium

ALLOWED: Final = (SecAggError, LocalError, KeyFileError)
LABELS: Final[dict[type[Struct], bytes]] = {
    RoundOpen: SIGN_ROUND_OPEN,
    KeyAdvert: SIGN_KEY_ADVERT,
    ShareStatement: SIGN_SEALED_SHARES,
    MaskedVector: SIGN_MASKED_VECTOR,
    SurvivorSignature: SIGN_SURVIVORS,
    UnmaskShares: SIGN_UNMASK_SHARES,
    Projections: SIGN_PROJECTIONS,
    BlindAdvert: SIGN_BLIND_ADVERT,
    Contribution: SIGN_CONTRIBUTION,
}


class Cut:
    """Takes an input apart from its front; an input that is too short gives zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, width: int = 1) -> int:
        """The next `width` bytes, little-endian."""
        return int.from_bytes(self.octets(width), "little")

    def octets(self, count: int) -> bytes:
        """The next `count` bytes, or what is left of them."""
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def piece(self) -> bytes:
        """Bytes behind their own length of two bytes."""
        return self.octets(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self._data[self._at :]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)


def piece(content: bytes) -> bytes:
    """The content behind its length, as `Cut.piece` takes it."""
    return len(content).to_bytes(2, "little") + content


def resigned(value: Any, consortium: Consortium, digest: bytes) -> Any:
    """The value with every signature in it made good: what a server with its sites' keys can make of it.

    digest: of the header that the signatures are bound to. Signatures hide from a fuzzer what lies behind them.
    """
    if isinstance(value, tuple):
        return tuple(resigned(each, consortium, digest) for each in value)
    if not isinstance(value, Struct):
        return value
    inner = {rule.name: getattr(value, rule.name) for rule in field_rules(type(value))}
    value = type(value)(**{name: resigned(each, consortium, digest) for name, each in inner.items()})
    if isinstance(value, Here | ModelCard | Consent | Ready):
        keys = consortium.keys.get(value.site)
        return value if keys is None else _signed(value, keys, SIGNED[type(value)])
    label = LABELS.get(type(value))
    keys = consortium.server_keys if isinstance(value, RoundOpen) else consortium.keys.get(getattr(value, "site", ""))
    return value if label is None or keys is None else _signed(value, keys, label, digest)


def _signed(value: Any, keys: SiteKeys | ServerKeys, label: bytes, *prefix: bytes) -> Any:
    return replace(value, signature=sign(keys.identity, label, *prefix, value.unsigned()))


@cache
def folder() -> Path:
    """A folder for files that are written and read thousands of times a second: in memory where that is possible."""
    memory = Path("/dev/shm")  # noqa: S108
    made = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
