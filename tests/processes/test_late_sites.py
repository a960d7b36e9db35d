"""A site that is slow, or away: the others wait as long as was agreed, and go on without it if they can."""

from __future__ import annotations

import pytest

from tests.processes.checking import assert_all_is_well, assert_everybody_has, assert_nobody_answered_twice
from tests.processes.running import Running, running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0")
LATE, OTHER = FIVE[-1], FIVE[0]


def play(federation: Running, phase: str, slow_s: float, timeout_s: float) -> list[list[str]]:
    """Who was missing in round 1, in which one site takes `slow_s` over a phase, and in the round after it is back."""
    timeouts = ("--phase-timeout", str(timeout_s), "--train-timeout", str(timeout_s if phase == "train" else 120))
    federation.start_server(*OPTIONS, *timeouts, "--rounds", "2")
    federation.start_toys(*FIVE[1:-1], train_s=0.0)
    federation.start_toy(OTHER, *() if phase == "train" else ("hold:train:2",), train_s=0.0)
    federation.start_toy(LATE, f"slow:{phase}:1:{slow_s}", train_s=0.0)
    if phase != "train":  # the second round waits until the late site has been asked to train for it
        federation.await_sign(OTHER, "hold:train:2")
        federation.await_words(LATE, "round 2 of 2: training")
        federation.let_go(OTHER)
    assert [federation.wait(name) for name in ("server", *FIVE)] == [0] * 6, federation.logs()
    assert_all_is_well(federation, 2)
    return [each["dropouts"] for each in federation.events("aggregated")]


def test_a_site_slower_than_a_phase_is_left_out_of_that_round_and_in_the_next_one_again(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        assert play(federation, "mask", slow_s=8.0, timeout_s=5.0) == [[LATE], []]
        assert f"{LATE} did not answer masked updates" in federation.log("server")
        assert f"without {LATE}" in federation.log("server")


@pytest.mark.slow
def test_a_site_within_its_time_is_waited_for(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        assert play(federation, "mask", slow_s=3.0, timeout_s=30.0) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize(("timeout_s", "missing"), [(30.0, [LATE]), (90.0, [])], ids=["phase-of-30-s", "phase-of-90-s"])
def test_a_site_60_s_slow_costs_its_own_update_at_most(tmp_path, timeout_s, missing):
    with running(tmp_path, *FIVE) as federation:
        assert play(federation, "mask", slow_s=60.0, timeout_s=timeout_s) == [missing, []]


def test_a_round_below_the_threshold_is_void_and_tried_again_when_the_site_is_back(tmp_path):
    sites = FIVE[:3]  # three sites: all must survive
    with running(tmp_path, *sites) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1", "--phase-timeout", "6", "--join-timeout", "40")
        federation.start_toys(sites[0], sites[2], train_s=0.0)
        federation.start_toy(sites[1], "kill-before:share:1", train_s=0.0)
        federation.await_one("void")
        federation.start_toy(sites[1], train_s=0.0)
        assert [federation.wait(name) for name in ("server", *sites)] == [0] * 4, federation.logs()
        [void] = federation.events("void")
        assert "site-2 (no answer in share)" in void["why"]
        assert [each["attempt"] for each in federation.events("aggregated")] == [2]
        assert_nobody_answered_twice(federation)
        assert_everybody_has(federation, sites)
