"""A site whose clock is a day off: it is told so in two lines, nothing of it is counted, and the rest go on.

The site's process reads another time in our own calls and in those with which Flower signs requests. OpenSSL reads the
machine's clock past that; so certificates are made as they look to a clock that is a day off.
"""

from __future__ import annotations

import time

import pytest

from fedclient.connection import CLOCK_AHEAD_S, CLOCK_BEHIND_S
from keys.provision import provision_consortium
from tests.processes.checking import assert_all_is_well
from tests.processes.running import running

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

FIVE = tuple(f"site-{i}" for i in range(1, 6))
OPTIONS = ("--model", "toy", "--first-range", "1.0", "--phase-timeout", "20", "--train-timeout", "20")
DAY_S = 86_400.0


def test_sites_whose_clocks_are_a_day_off_are_told_so_and_take_part_once_they_are_set_right(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "1")
        federation.start_toys(*FIVE[:3], train_s=0.0)
        federation.start_toy(FIVE[3], clock_off_s=-DAY_S)
        federation.start_toy(FIVE[4], clock_off_s=DAY_S)
        for site in FIVE[3:]:
            assert federation.wait(site) == 1
            problem, remedy = federation.log(site).splitlines()[-2:]
            assert problem.startswith("error: this machine's clock differs from the server's")
            assert remedy.startswith("set the clock by NTP")
            assert str(CLOCK_BEHIND_S) in remedy and str(CLOCK_AHEAD_S) in remedy
            federation.start_toy(site, train_s=0.0)
        assert [federation.wait(name) for name in ("server", *FIVE)] == [0] * 6, federation.logs()
        assert_all_is_well(federation, 1)


@pytest.mark.slow
def test_a_site_whose_clock_is_wrong_from_its_second_start_on_is_missed_and_comes_back(tmp_path):
    with running(tmp_path, *FIVE) as federation:
        federation.start_server(*OPTIONS, "--rounds", "2", "--phase-timeout", "4")
        federation.start_toy(FIVE[0], "hold:train:2", train_s=0.0)
        federation.start_toys(*FIVE[1:-1], train_s=0.0)
        federation.start_toy(FIVE[-1], "kill-before:share:1", train_s=0.0)
        assert federation.wait(FIVE[-1]) == -9
        federation.start_toy(FIVE[-1], clock_off_s=DAY_S)
        assert federation.wait(FIVE[-1]) == 1
        assert "clock differs from the server's" in federation.log(FIVE[-1]).splitlines()[-2]
        federation.start_toy(FIVE[-1], train_s=0.0)
        federation.await_words(FIVE[-1], "connected to", 2)
        federation.await_sign(FIVE[0], "hold:train:2")
        federation.let_go(FIVE[0])
        assert [federation.wait(name) for name in ("server", *FIVE)] == [0] * 6, federation.logs()
        assert_all_is_well(federation, 2)
        assert [each["dropouts"] for each in federation.events("aggregated")] == [[FIVE[-1]], []]


@pytest.mark.slow
def test_keys_made_today_are_good_for_clocks_a_day_off(tmp_path):
    with running(tmp_path, *FIVE[:3]) as federation:
        made = tmp_path / "made-tomorrow"
        federation.consortium = provision_consortium(made, FIVE[:3], now=int(time.time() + DAY_S))
        federation.start_server(*OPTIONS, "--rounds", "1")
        federation.start_toys(train_s=0.0)
        assert [federation.wait(name) for name in ("server", *FIVE[:3])] == [0] * 4, federation.logs()
        assert_all_is_well(federation, 1)
