"""How numbers are written, fitted and compared."""

from __future__ import annotations

import math

import pytest

from fedserver.overhead import units
from fedserver.overhead.growth import fit, slices
from fedserver.overhead.peers import Place, pairs, side_by_side
from fedserver.overhead.rounds import added, costs, headline
from tests.overhead.samples import around, everything, round_, run_of, total


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.2e-8, "32.0 ns"), (4.56e-5, "45.6 µs"), (0.31, "310 ms"), (0.9996, "1.00 s"), (1.2345, "1.23 s"),
     (9.996, "10.0 s"), (119, "119 s"), (200, "3.33 min"), (36_000, "10.0 h")],
)  # fmt: skip
def test_a_time_has_three_digits_and_a_unit_that_suits_it(seconds: float, text: str) -> None:
    assert units.seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (830, "830 B"), (999_900, "1.00 MB"), (2_700_000, "2.70 MB"), (8 * 10**12, "8.00 TB")],
)
def test_a_size_has_a_decimal_unit(count: int, text: str) -> None:
    assert units.size(count) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(4, "4"), (500_000, "500,000"), (10**6, "1 million"), (41_943_040, "41.9 million"), (7.62e9, "7.62 billion")],
)
def test_a_count_is_exact_or_rounded_without_needless_zeros(number: float, text: str) -> None:
    assert units.count(number) == text


def test_what_was_not_measured_is_said_and_what_is_no_number_is_refused() -> None:
    assert {units.seconds(None), units.size(None), units.ratio(None), units.spread(None)} == {units.NOTHING}
    for number in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="no figure"):
            units.digits(number)


def test_a_number_keeps_its_digits_however_small_or_large() -> None:
    texts = [units.digits(each) for each in (0, 4.5776e-5, 0.00123456, -0.5, 12.345, 12345.6)]
    assert texts == ["0", "4.58e-5", "0.00123", "-0.500", "12.3", "12,300"]


def test_a_spread_names_a_common_unit_once() -> None:
    assert units.spread([1.3, 1.2, 1.1]) == "1.20 s (1.10 to 1.30 s)"
    assert units.spread([0.9, 1.1, 1.2]) == "1.10 s (900 ms to 1.20 s)"
    assert units.spread([9.0, 8.0, 10.0], units.ratio) == "9.00x (8.00 to 10.0)"
    assert units.spread([2.0]) == units.spread([2.0, 2.0]) == "2.00 s"


def test_the_fit_finds_the_power_that_made_the_points() -> None:
    factor, exponent = fit([(x, 3e-7 * x**1.25) for x in (1e5, 1e6, 4e6, 4e7)]) or (0, 0)
    assert (factor, exponent) == (pytest.approx(3e-7), pytest.approx(1.25))


def test_two_sizes_are_no_curve_to_fit() -> None:
    assert fit([(1e5, 1.0), (1e5, 1.1), (1e6, 9.0)]) is None


def test_extrapolated_points_are_told_apart_and_not_fitted() -> None:
    run = run_of(
        *(total("masked", "site", values, 10, values / 1e6) for values in (10**5, 10**6, 10**7)),
        total("masked", "site", 10**9, 10, 1.0, extrapolated=True),
    )
    (found,) = slices(run, "site")
    (curve,) = found.curves
    assert (found.by, found.held, len(curve.measured), len(curve.guessed)) == ("values", 10, 3, 1)
    assert curve.fit is not None and curve.fit[1] == pytest.approx(1.0)


def test_growth_with_sites_takes_complete_graphs_of_any_degree() -> None:
    run = run_of(*(total("masked", "site", 500_000, sites, 0.01 * sites**2) for sites in (4, 10, 40)))
    (found,) = slices(run, "site")
    assert (found.by, found.held) == ("sites", 500_000)
    assert found.curves[0].fit is not None and found.curves[0].fit[1] == pytest.approx(2.0)


def test_a_ratio_is_theirs_over_ours_whoever_took_it() -> None:
    ours = total("masked", "site", 10**6, 10, 0.3, against=[{"scheme": "flower-secagg+", "ratios": [0.1, 0.125]}])
    (pair,) = pairs(run_of(ours))
    assert (pair.upper, pair.lower, pair.ratios) == ("flower-secagg+", "masked", (10.0, 8.0))
    floor = total("masked", "site", 10**6, 10, 0.3, against=[{"scheme": "aes-ctr", "ratios": [1.3]}])
    (pair,) = pairs(run_of(floor))
    assert (pair.upper, pair.lower, pair.ratios) == ("masked", "aes-ctr", (1.3,))


def test_schemes_that_name_each_other_give_one_ratio() -> None:
    one = total("masked", "site", 10**6, 10, 0.3, against=[{"scheme": "ckks", "ratios": [0.5]}])
    other = total("ckks", "site", 10**6, 10, 0.6, against=[{"scheme": "masked", "ratios": [2.0]}])
    assert [(pair.upper, pair.lower) for pair in pairs(run_of(one, other))] == [("masked", "ckks")]


def test_settings_with_other_packages_stand_before_larger_ones_without() -> None:
    places = [place for place, _ in side_by_side(run_of(*everything()))]
    assert places[:2] == [Place("site", 10**6, 10, 9), Place("site", 4 * 10**6, 10, 9)]


def test_the_headline_is_the_setting_with_the_most_to_hold_against_each_other() -> None:
    lone = {"family": "round", "scheme": "masked", "stage": "whole", "values": 10**7, "sites": 20, "wall_s": [9.0]}
    assert headline(costs(run_of(lone, *everything()))) == (500_000, 4, 0)


def test_what_a_scheme_adds_is_taken_round_by_round() -> None:
    found = costs(run_of(*round_("plain", 1.0, 5, 5), *round_("masked", 1.3, 8, 4)))[500_000, 4, 0]  # type: ignore[index]
    more = added(found["masked"], found["plain"])
    assert more.seconds == pytest.approx([own - other for own, other in zip(around(1.3), around(1.0), strict=True)])
    assert (more.bytes_up, more.bytes_down) == (3, -1)
