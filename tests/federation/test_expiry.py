"""Who counts as current: entries expire, and clocks that are a day apart still agree."""

from __future__ import annotations

import pytest

from fedclient.site import Site
from fedserver.plan import ServerError
from tests.federation.direct import Bench
from tests.sim import Dice

EXPIRES = 2**40  # of every entry of the bench's roster
DAY_S = 86_400


def with_clock(bench: Bench, name: str, now: int) -> None:
    """Starts this site's process again on a machine with another clock."""
    bench.link.members[name] = Site(
        bench.folder / name, bench.consortium.keys[name], bench.state_key(name), bench.consortium.roster,
        bench.policies[name], bench.learners[name], Dice(("clock", name)), lambda: now,
    )  # fmt: skip


def test_a_site_whose_clock_is_a_day_ahead_of_an_expiry_still_takes_part(bench: Bench) -> None:
    with_clock(bench, "site-02", EXPIRES + DAY_S)
    result = bench.run(rounds=1)
    bench.assert_right(result, bench.names)


def test_a_session_with_an_expired_site_is_refused_by_the_others(bench: Bench) -> None:
    for name in bench.names:
        with_clock(bench, name, EXPIRES + 3 * DAY_S)
    with pytest.raises(ServerError, match="server"):
        bench.run(rounds=1)
    assert {str(error) for _, error in bench.link.refusals} == {"site-01's entry on the roster has expired"}
