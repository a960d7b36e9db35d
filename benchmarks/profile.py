"""How much a run measures: `BENCH_PROFILE` is "quick", the default, or "full"."""

from __future__ import annotations

import os
from typing import Final, TypeVar

PROFILES: Final = ("quick", "full")

_T = TypeVar("_T")


def profile() -> str:
    """The chosen one. Raises ValueError for another word."""
    chosen = os.environ.get("BENCH_PROFILE", PROFILES[0])
    if chosen not in PROFILES:
        raise ValueError(f"BENCH_PROFILE is {' or '.join(PROFILES)}, not {chosen!r}")
    return chosen


def of_profile(quick: _T, full: _T) -> _T:
    """One of two, by the profile."""
    return full if profile() == "full" else quick
