"""Every scheme there is; nothing else in the project names one (spec §3.3)."""

from __future__ import annotations

from typing import Final

from secagg.ckks.scheme import CkksScheme
from secagg.errors import Refused
from secagg.masked.scheme import MaskedScheme
from secagg.session import Scheme

SCHEMES: Final[dict[str, Scheme]] = {scheme.name: scheme for scheme in (MaskedScheme(), CkksScheme())}


def scheme_named(name: str) -> Scheme:
    """The scheme. Raises Refused for a name that is not one."""
    if name not in SCHEMES:
        raise Refused(f"there is no scheme {name}; choose one of {', '.join(sorted(SCHEMES))}")
    return SCHEMES[name]
