"""Every scheme says the same of the same updates: what protects them has no part in the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from secagg.schemes import SCHEMES
from secagg.session import Mean, Packet, Update
from tests.contract.test_sums import GRID_RANGE, on_grid
from tests.sim import Consortium, Round, federation, random_update

N, SIZE, CAP = 7, 5000, 3
PAIRS = pytest.mark.parametrize("pair", list(combinations(sorted(SCHEMES), 2)), ids="-".join)


def opened(scheme: str, updates: Mapping[str, Update], lost: str = "", **changes: object) -> Mean:
    """What a site opens when the vector of `lost` never arrives."""
    consortium = Consortium(N)

    def without_vector(_phase: str, site: str, packet: Packet) -> Packet | None:
        return None if site == lost and packet.words is not None else packet

    manifest = {"scheme": scheme, "weight_cap": CAP, **changes}
    round_: Round = federation(
        N, SIZE, consortium=consortium, updates=updates, manifest=manifest, alter_reply=without_vector, seed="same"
    )
    return round_.mean(round_.run())


def weighted(updates: Mapping[str, Update]) -> dict[str, Update]:
    return {name: replace(each, weight=1 + place % CAP) for place, (name, each) in enumerate(updates.items())}


@PAIRS
@pytest.mark.parametrize("lost", ["", "site-04"], ids=["everybody", "one lost"])
def test_schemes_agree_to_the_last_bit_on_the_quantisers_grid(pair: tuple[str, str], lost: str) -> None:
    updates = weighted({name: on_grid(name, SIZE) for name in Consortium(N).names})
    one, other = (opened(scheme, updates, lost, rotate=0, first_range_q40=GRID_RANGE) for scheme in pair)
    assert one.values.tobytes() == other.values.tobytes()
    assert (one.totals, one.contributors, one.next_range_q40) == (
        other.totals,
        other.contributors,
        other.next_range_q40,
    )
    assert (lost in one.contributors, one.totals.sites) == (False, N - bool(lost))


@PAIRS
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_schemes_agree_to_the_quantisers_step(pair: tuple[str, str], bits: int) -> None:
    """Each rounds at random to one of the two levels beside a value, so two of them are never further apart."""
    updates = weighted({name: random_update(name, SIZE) for name in Consortium(N).names})
    one, other = (opened(scheme, updates, rotate=0, bits=bits) for scheme in pair)
    step = 2.0 / ((1 << bits) - 1)  # of the range -1..1
    apart = np.abs(one.values.astype(np.float64) - other.values.astype(np.float64))
    assert 0 < float(apart.max()) < step + 2.0**-22  # float32: scaling at the site, rounding of the mean
    assert one.totals == other.totals


@PAIRS
def test_schemes_agree_to_the_quantisers_step_after_the_rotation(pair: tuple[str, str]) -> None:
    """The rotation keeps lengths, and rotated entries are a step apart at most: so are their root mean squares."""
    updates = weighted({name: random_update(name, SIZE) for name in Consortium(N).names})
    one, other = (opened(scheme, updates, first_range_q40=2 << 40) for scheme in pair)
    assert one.totals.clipped == other.totals.clipped == 0.0
    apart = one.values.astype(np.float64) - other.values.astype(np.float64)
    assert 0 < float(np.sqrt(np.mean(apart**2))) < 4.0 / 255 + 2.0**-22
