"""Every scheme there is; nothing else in the project names one (spec §3.3)."""

from __future__ import annotations

from typing import Final

from secagg.ckks.scheme import CkksScheme
from secagg.ckks_shared.scheme import SharedCkksScheme
from secagg.errors import Refused
from secagg.masked.scheme import MaskedScheme
from secagg.session import Scheme

_ALL: Final[tuple[Scheme, ...]] = (MaskedScheme(), CkksScheme(), SharedCkksScheme())
SCHEMES: Final[dict[str, Scheme]] = {scheme.name: scheme for scheme in _ALL}


def scheme_named(name: str) -> Scheme:
    """The scheme. Raises Refused for a name that is not one."""
    if name not in SCHEMES:
        raise Refused(f"there is no scheme {name}; choose one of {', '.join(sorted(SCHEMES))}")
    return SCHEMES[name]
