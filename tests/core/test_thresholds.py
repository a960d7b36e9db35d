"""The numbers of protocol.md's table, and the conditions that no session may break."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from secagg.errors import Malformed, Misuse
from secagg.thresholds import Thresholds, least_survivors, plan
from tests.sim import Consortium


@pytest.mark.parametrize(
    ("n", "c", "t", "d"),
    [(3, 1, 3, 0), (5, 1, 4, 1), (10, 3, 7, 3), (20, 6, 14, 6), (50, 16, 34, 16), (100, 33, 67, 33)],
)
def test_the_table_of_thresholds(n: int, c: int, t: int, d: int) -> None:
    """protocol.md, Thresholds: n, colluders, threshold, dropouts."""
    assert plan(n) == Thresholds(n, c, d, t, (n + c) // 2 + 1, max(t, c + 3) if n > 3 else 3)


@given(st.integers(3, 100), st.integers(0, 99), st.integers(0, 99))
def test_every_plan_satisfies_the_conditions_or_is_refused(n: int, c: int, d: int) -> None:
    try:
        numbers = plan(n, c, d)
    except Misuse as error:
        t = (n + c) // 2 + 1
        assert n - d < least_survivors(n, c, t) or (n == 3 and c > 1), error
        return
    t, q, m = numbers.threshold, numbers.quorum, numbers.least_survivors
    assert 2 * t > n + c
    assert t <= n - d
    assert q == (n + c) // 2 + 1
    assert m >= t
    assert m >= c + 3 or n == 3
    assert m <= n - d


@given(st.integers(3, 100), st.integers(-2, 102), st.integers(-2, 102), st.integers(0, 102), st.integers(0, 102),
       st.integers(0, 102))  # fmt: skip
def test_thresholds_that_break_a_condition_cannot_exist(n: int, c: int, d: int, t: int, q: int, m: int) -> None:
    broken = (
        not 0 <= c < n or not 0 <= d < n or 2 * t <= n + c or t > n - d or q != (n + c) // 2 + 1
        or m < max(t, c + 3 if n > 3 else 3) or m > n - d or (n == 3 and c > 1)
    )  # fmt: skip
    assume(broken)
    with pytest.raises(Misuse):
        Thresholds(n, c, d, t, q, m)


@pytest.mark.parametrize("n", [-1, 0, 1, 2, 101, 1000])
def test_a_roster_that_the_complete_graph_does_not_take_is_refused_with_the_numbers(n: int) -> None:
    with pytest.raises(Misuse, match=f"takes 3 to 100 sites, not {n}"):
        plan(n)
    with pytest.raises(Misuse, match=f"takes 3 to 100 sites, not {n}"):
        Thresholds(n, 1, 0, 3, 3, 3)


def test_a_hundred_and_one_sites_fit_no_manifest() -> None:
    with pytest.raises(Malformed, match=r"3\.\.100 items"):
        Consortium(4).manifest(10, sites=tuple(f"s{i:03d}" for i in range(101)))


def test_three_sites_are_the_exception_and_all_must_survive() -> None:
    assert plan(3) == Thresholds(3, 1, 0, 3, 3, 3)
    assert least_survivors(3, 1, 3) == 3 < 1 + 3
    with pytest.raises(Misuse, match="0 dropouts"):
        plan(3, dropouts=1)
    with pytest.raises(Misuse, match="of three sites at most one"):
        plan(3, colluders=2)
    with pytest.raises(Misuse):
        plan(4, colluders=2)


def test_a_refused_plan_says_what_would_do() -> None:
    with pytest.raises(Misuse, match="declare at most 3 dropouts or fewer colluders"):
        plan(10, dropouts=4)
    with pytest.raises(Misuse, match="9 sites must survive"):
        plan(10, dropouts=2, least=9)
    assert plan(10, least=9).dropouts == 1


@pytest.mark.parametrize("n", [3, 4, 5, 6, 7, 10, 33, 100])
def test_one_step_beyond_any_condition_no_thresholds_exist(n: int) -> None:
    """The honest numbers exist; each condition alone, broken by one, is enough to refuse them."""
    good = plan(n)
    assert Thresholds(n, good.colluders, good.dropouts, good.threshold, good.quorum, good.least_survivors) == good
    c, d, t, q, m = good.colluders, good.dropouts, good.threshold, good.quorum, good.least_survivors
    beyond = {
        "two sets of t sites with c in common": (c, d, (n + c) // 2, q, least_survivors(n, c, (n + c) // 2)),
        "a threshold that the survivors do not reach": (c, 0, n + 1, q, n),
        "fewer colluders than none": (-1, 0, t, (n - 1) // 2 + 1, max(t, m)),
        "fewer dropouts than none": (c, -1, t, q, n + 1),
        "a quorum one too small": (c, d, t, q - 1, m),
        "a quorum one too large": (c, d, t, q + 1, m),
        "a survivor fewer than the rule's": (c, d, t, q, m - 1),
        "more survivors than are left": (c, d, t, q, n - d + 1),
        "a dropout more than the survivors allow": (c, n - m + 1, t, q, m),
    }
    for what, (colluders, dropouts, threshold, quorum, least) in beyond.items():
        with pytest.raises(Misuse):
            pytest.fail(f"{what}: {Thresholds(n, colluders, dropouts, threshold, quorum, least)}")
