"""Training that gives no update that may be shared: a typed refusal, nothing kept, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedclient.site import UpdateError
from fedserver.plan import ServerError
from secagg.session import Metrics
from secagg.vector import Vector
from tests.federation.direct import LAYOUT, Bench

VICTIM = "site-02"
GOOD = Metrics(examples=10, train_loss=2.5, eval_loss=3.0, eval_tokens=100)


def with_value(value: float) -> Vector:
    values = np.zeros(LAYOUT.size, np.float32)
    values[7] = value
    return values


BAD: dict[str, tuple[Vector, Metrics]] = {
    "NaN": (with_value(float("nan")), GOOD),
    "infinity": (with_value(float("inf")), GOOD),
    "minus infinity": (with_value(float("-inf")), GOOD),
    "beyond 2^64": (with_value(2.0**65), GOOD),
    "too short": (np.zeros(LAYOUT.size - 1, np.float32), GOOD),
    "too long": (np.zeros(LAYOUT.size + 1, np.float32), GOOD),
    "a matrix": (np.zeros((1, LAYOUT.size), np.float32), GOOD),
    "doubles": (np.zeros(LAYOUT.size), GOOD),  # type: ignore[dict-item]
    "no examples": (with_value(0.0), replace(GOOD, examples=0)),
    "too many examples": (with_value(0.0), replace(GOOD, examples=(1 << 28) + 1)),
    "an infinite loss": (with_value(0.0), replace(GOOD, train_loss=float("inf"))),
    "a loss that is no number": (with_value(0.0), replace(GOOD, eval_loss=float("nan"))),
    "a negative loss": (with_value(0.0), replace(GOOD, eval_loss=-1.0)),
    "a negative count": (with_value(0.0), replace(GOOD, eval_tokens=-1)),
}


def gives(bench: Bench, name: str, outcome: Any) -> None:
    bench.learners[name].train = lambda adapter, round_: outcome  # type: ignore[method-assign]


@pytest.mark.parametrize("what", BAD)
def test_an_update_that_may_not_be_shared_stays_at_the_site_and_the_others_go_on(bench: Bench, what: str) -> None:
    gives(bench, VICTIM, BAD[what])
    bench.assert_right(bench.run(rounds=1), bench.but(VICTIM))
    assert bench.codes(VICTIM) == [("start", "training")]
    ((_, error),) = bench.link.refusals
    assert isinstance(error, UpdateError) and str(error) == "training"
    assert "\n" not in error.problem + error.remedy
    assert not [name for name in bench.state(VICTIM) if "update" in name]


def test_bad_updates_at_too_many_sites_end_the_run_with_their_names(bench: Bench) -> None:
    gives(bench, VICTIM, BAD["NaN"])
    gives(bench, "site-05", BAD["no examples"])
    with pytest.raises(ServerError) as ended:
        bench.run()
    assert "site-02 (refused, training), site-05 (refused, training)" in ended.value.problem


def test_a_site_whose_training_recovers_takes_part_in_the_next_round(bench: Bench) -> None:
    train = bench.learners[VICTIM].train
    bench.learners[VICTIM].train = (  # type: ignore[method-assign]
        lambda adapter, round_: BAD["NaN"] if round_ == 1 else train(adapter, round_)
    )
    bench.assert_right(bench.run(), bench.but(VICTIM), bench.names)
