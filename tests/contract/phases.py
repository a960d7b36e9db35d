"""The phases of every scheme, and which of them the vectors travel in: what tests over all schemes are made of."""

from __future__ import annotations

from typing import Final

import pytest

from secagg.config import Manifest
from tests.sim import READABLE, VARIANTS

SIX: Final = ("advertise", "share", "mask", "consent", "unmask", "check")
PHASES: Final = {"masked": SIX, "ckks": SIX, READABLE: SIX, "ckks-shared": ("contribute",)}
VECTOR: Final = {"masked": "mask", "ckks": "mask", READABLE: "mask", "ckks-shared": "contribute"}
DRAWS_FROM_OURS: Final = {"masked", "ckks", READABLE}  # every random byte is that of the test's dice, none SEAL's own

schemes = pytest.mark.parametrize("scheme", VARIANTS)


def until_vector(scheme: str) -> tuple[str, ...]:
    """The phases up to the one in which vectors travel."""
    return PHASES[scheme][: PHASES[scheme].index(VECTOR[scheme]) + 1]


def after_vector(scheme: str) -> tuple[str, ...]:
    """The phases in which a site that fails is in the sum all the same."""
    return PHASES[scheme][len(until_vector(scheme)) :]


def needed(manifest: Manifest, phase: str) -> int:
    """How many sites must answer in a phase."""
    if phase == "check":
        return 0
    return manifest.threshold if phase in ("consent", "unmask") else manifest.least_survivors


def each_phase(*but: str) -> pytest.MarkDecorator:
    """(scheme, phase): every phase of every scheme, but for those named."""
    cases = [(scheme, phase) for scheme in VARIANTS for phase in PHASES[scheme] if phase not in but]
    return pytest.mark.parametrize(("scheme", "phase"), cases)


each_phase_before_the_vector_leaves = pytest.mark.parametrize(
    ("scheme", "phase"), [(scheme, phase) for scheme in VARIANTS for phase in until_vector(scheme)]
)
