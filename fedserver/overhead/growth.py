"""How the cost grows: the records that differ in one size only, and the exponent fitted to them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedserver.overhead.blocks import Curve
from fedserver.overhead.record import Record
from fedserver.overhead.run import FLOORS, Run, middle_s

LEAST_POINTS: Final = 3  # two points lie on any power
SIZES: Final = {"values": "sites", "sites": "values"}  # what varies -> what is held


@dataclass(frozen=True)
class Slice:
    """Records of one role in which only `by` varies; `held` is the value of the other size."""

    role: str
    by: str
    held: int
    curves: tuple[Curve, ...]


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """(factor, exponent) of the power that fits best on logarithms; None of fewer than three sizes."""
    if len({x for x, _ in points}) < LEAST_POINTS:
        return None
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    exponent = sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)
    return math.exp(mean_y - exponent * mean_x), exponent


def slices(run: Run, role: str) -> list[Slice]:
    """By values and by sites, where at least one scheme was measured at two sizes."""
    records = [
        each for each in run.of("total", "peer")
        if each.role == role and each.values and each.sites and not each.dropped and each.scheme not in FLOORS
        and each.stage in (None, "whole") and middle_s(each)
    ]  # fmt: skip
    return [found for by, held in SIZES.items() if (found := _slice(records, role, by, held)) is not None]


def _slice(records: Sequence[Record], role: str, by: str, held: str) -> Slice | None:
    """The one slice with the most points in all; the larger size held where two have as many."""
    by_held: dict[int, list[Record]] = defaultdict(list)
    for each in records:
        by_held[getattr(each, held)].append(each)
    found = [(at, _curves(group, by)) for at, group in by_held.items()]
    found = [(at, curves) for at, curves in found if curves]
    if not found:
        return None
    at, curves = max(found, key=lambda each: (sum(len(c.measured) + len(c.guessed) for c in each[1]), each[0]))
    return Slice(role, by, at, tuple(curves))


def _curves(records: Sequence[Record], by: str) -> list[Curve]:
    curves = []
    for scheme in dict.fromkeys(each.scheme or "" for each in records):
        group = _alike([each for each in records if each.scheme == scheme], by)
        measured = tuple(sorted((getattr(each, by), middle_s(each) or 0.0) for each in group if not each.extrapolated))
        guessed = tuple(sorted((getattr(each, by), middle_s(each) or 0.0) for each in group if each.extrapolated))
        if len({x for x, _ in (*measured, *guessed)}) > 1:
            curves.append(Curve(scheme, measured, guessed, fit(measured)))
    return curves


def _alike(records: Sequence[Record], by: str) -> list[Record]:
    """One record a size, all with the settings under which the most sizes were measured."""
    groups: dict[tuple[Any, ...], dict[int, Record]] = defaultdict(dict)
    for each in records:
        neighbours = each.neighbours if by == "values" else None  # a graph's degree follows the sites
        groups[neighbours, each.bits, each.weight].setdefault(getattr(each, by), each)
    return list(max(groups.values(), key=len).values())
