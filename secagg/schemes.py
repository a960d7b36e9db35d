"""Every scheme there is, and how a key is made that its sites share; nothing else names a scheme (spec §3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secagg.ckks.scheme import CkksScheme
from secagg.ckks_shared import keys as shared_keys
from secagg.ckks_shared.scheme import SharedCkksScheme
from secagg.config import SERVER_READS_SUM
from secagg.errors import Refused
from secagg.masked.scheme import MaskedScheme
from secagg.session import Scheme

__all__ = ["SCHEMES", "cautions", "scheme_named", "shared_keys"]

_ALL: Final[tuple[Scheme, ...]] = (MaskedScheme(), CkksScheme(), SharedCkksScheme())
SCHEMES: Final[dict[str, Scheme]] = {scheme.name: scheme for scheme in _ALL}


def scheme_named(name: str) -> Scheme:
    """The scheme. Raises Refused for a name that is not one."""
    if name not in SCHEMES:
        raise Refused(f"there is no scheme {name}; choose one of {', '.join(sorted(SCHEMES))}")
    return SCHEMES[name]


def cautions(name: str, options: Mapping[str, str]) -> tuple[str, ...]:
    """What whoever takes part in a session must know that it does not protect. Raises Refused for no scheme.

    options: of the manifest, by name.
    """
    said = [f"{name}: {caution}" for caution in (scheme_named(name).caution,) if caution]
    if options.get(SERVER_READS_SUM) == "yes":
        said.append(f"{name} with {SERVER_READS_SUM}: the server reads the sum of every round, and so the adapter")
    return tuple(said)
