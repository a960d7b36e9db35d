"""Sums that only sites can read, with real processes: everybody ends with the same bits, the server with none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.processes.checking import (
    assert_nobody_answered_twice,
    assert_rounds_are_in_order,
    exact_adapter,
)
from tests.processes.running import Running, running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
LATE, OTHER = FIVE[-1], FIVE[0]
OPTIONS = ("--secagg", "ckks", "--model", "toy", "--first-range", "1.0", "--phase-timeout", "4", "--rounds", "2")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Two rounds; a site is killed once its shares have left, and comes back when the first round is over."""
    with running(tmp_path_factory.mktemp("blind-server"), *FIVE) as federation:
        federation.start_server(*OPTIONS)
        federation.start_toys(*FIVE[1:-1], train_s=0.0)
        federation.start_toy(OTHER, "hold:train:2", train_s=0.0)
        federation.start_toy(LATE, "kill-after:share:1", train_s=0.0)
        assert federation.wait(LATE) == -9
        federation.await_one("aggregated", round=1)
        federation.await_sign(OTHER, "hold:train:2")
        federation.start_toy(LATE, train_s=0.0)
        federation.await_words(LATE, "refused start")  # it asks for what opens round 1
        federation.let_go(OTHER)
        assert [federation.wait(name) for name in ("server", *FIVE)] == [0] * 6, federation.logs()
        yield federation


def vectors(federation: Running) -> dict[str, np.ndarray]:
    """The adapter that each site wrote."""
    return {site: np.fromfile(federation.folder / f"{site}.f32", "<f4") for site in FIVE}


def test_every_site_has_the_mean_of_the_recorded_survivors_also_one_that_was_killed(ended):
    assert_rounds_are_in_order(ended, 2)
    assert_nobody_answered_twice(ended)
    first, *others = vectors(ended).values()
    assert all(np.array_equal(first, other) for other in others)
    wanted, bound = exact_adapter(ended)
    assert np.linalg.norm(first - wanted) <= bound


def test_the_killed_site_read_the_round_it_missed_with_what_a_peer_lent(ended):
    assert LATE not in next(each["contributors"] for each in ended.events("aggregated"))
    assert (1, LATE) in {(each["round"], each["site"]) for each in ended.events("lent")}


def test_nothing_in_the_servers_folder_holds_the_adapter(ended):
    adapter = vectors(ended)[OTHER]
    files = [path for path in Path(ended.results).rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith("adapter")]
    assert any(path.name == "words.u64" for path in files)
    held = b"".join(path.read_bytes() for path in files)
    for start in range(0, adapter.size - 4, 4):
        assert adapter[start : start + 4].tobytes() not in held
    assert "adapter is at the sites" in ended.log("server")
