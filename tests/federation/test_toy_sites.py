"""The toy sites of the benchmarks and of the process tests say what a real site says."""

from __future__ import annotations

import numpy as np

from benchmarks.layout import layout_of
from benchmarks.toy_site import InstantLearner
from fedclient.site import Facts


def test_the_benchmarks_toy_site_describes_a_model_as_a_site_must() -> None:
    facts = InstantLearner(layout_of(500_000)).prepare({}, bytes(32))
    assert isinstance(facts, Facts)
    assert facts.initial_values.shape == (facts.layout.size,)
    assert facts.initial_values.dtype == np.float32
