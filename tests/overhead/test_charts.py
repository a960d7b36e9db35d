"""A bar many times as long as the others is cut, so that their parts can be told apart, and keeps its number."""

from __future__ import annotations

import re

import pytest

from fedserver.overhead.blocks import Bars
from fedserver.overhead.charts import draw

pytest.importorskip("matplotlib")


def bars(*totals: float) -> Bars:
    rows = tuple(str(place) for place in range(len(totals)))
    return Bars("name", "caption", "alt", rows, ("a", "b"), tuple((each / 2, each / 2) for each in totals), "time (s)")


def texts(figure: Bars) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", draw(figure).svg.decode())


@pytest.mark.parametrize(
    ("totals", "last_tick"),
    [((0.3, 0.5, 9.3), 0.5), ((0.3, 0.5, 1.9), 1.9), ((9.3,), 9.3), ((0.0, 9.3), 9.3), ((9.3, 9.3, 0.1), 9.3)],
)
def test_the_axis_ends_behind_the_longest_bar_that_is_not_many_times_the_next(
    totals: tuple[float, ...], last_tick: float
) -> None:
    shown = texts(bars(*totals))
    ticks = [float(each) for each in shown[: shown.index("time (s)")] if re.fullmatch(r"[0-9.]+", each)]
    assert 0.7 * last_tick < max(ticks) < 1.15 * last_tick


def test_a_bar_that_is_cut_keeps_its_number() -> None:
    shown = texts(bars(0.31, 0.52, 9.34))
    assert {"0.310", "0.520", "9.34"} <= set(shown)
