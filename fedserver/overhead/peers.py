"""Schemes beside what they would replace and beside the machine's own limits: ratios of neighbouring repetitions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from fedserver.overhead.record import OTHERS, Record
from fedserver.overhead.run import FLOORS, Run, time_of
from fedserver.overhead.units import middle

WHOLE_WORK: Final = (None, "whole", "upload")  # stages that are none


class Place(NamedTuple):
    """What a comparison was held under."""

    role: str
    values: int
    sites: int
    neighbours: int


@dataclass(frozen=True)
class Pair:
    """How many times the time of `lower` the work of `upper` takes: a peer's over ours, or ours over a floor's.

    stage: where only that was held against each other; "" for a role's whole work.
    """

    upper: str
    lower: str
    place: Place
    ratios: tuple[float, ...]
    stage: str = ""

    @property
    def middle(self) -> float:
        """Of the ratios."""
        return middle(self.ratios) or 0.0


def place_of(record: Record) -> Place:
    """0 and "" where a record does not say."""
    return Place(record.role or "", record.values or 0, record.sites or 0, record.neighbours or 0)


def pairs(run: Run) -> list[Pair]:
    """Every comparison that the run holds, each pair once under one place, in the order in which they were taken."""
    found: dict[tuple[str, str, Place, str], Pair] = {}
    for record in run.of("total", "peer", "floor", "stage", "upload"):
        for against in record.against:
            pair = _pair(record, against.scheme, against.ratios)
            if pair is not None and (pair.lower, pair.upper, pair.place, pair.stage) not in found:
                found.setdefault((pair.upper, pair.lower, pair.place, pair.stage), pair)
    return list(found.values())


def _pair(record: Record, other: str, ratios: Sequence[float]) -> Pair | None:
    own, stage = record.scheme, "" if record.stage in WHOLE_WORK else record.stage or ""
    if own is None or own == other:
        return None
    if _rank(own) < _rank(other):  # ours over a peer's, or a floor's over ours: turned round
        if any(each == 0 for each in ratios):
            return None
        return Pair(other, own, place_of(record), tuple(1 / each for each in ratios), stage)
    return Pair(own, other, place_of(record), tuple(ratios), stage)


def _rank(scheme: str) -> int:
    """0 for a floor, 1 for a scheme of this project, 2 for another package that protects something."""
    if scheme in FLOORS:
        return 0
    return 2 if scheme in OTHERS else 1


def side_by_side(run: Run) -> list[tuple[Place, list[Record]]]:
    """Settings under which two or more were timed, each with its records; with others beside ours, and large, first."""
    grouped: dict[Place, dict[str, Record]] = defaultdict(dict)
    for record in run.of("total", "peer", "floor"):
        if time_of(record) and record.scheme and record.stage in (None, "whole") and not record.extrapolated:
            grouped[place_of(record)].setdefault(record.scheme, record)
    several = [(place, list(schemes.values())) for place, schemes in grouped.items() if len(schemes) > 1]
    order = {"site": 0, "server": 1, "open": 2, "whole": 3}

    def rank(each: tuple[Place, list[Record]]) -> tuple[int, bool, int, int]:
        place, records = each
        alone = not any(record.scheme in OTHERS for record in records)
        return order.get(place.role, len(order)), alone, -place.values, -place.sites

    return sorted(several, key=rank)


def ratios_to(scheme: str, record: Record, beside: Sequence[Record]) -> tuple[float, ...] | None:
    """The record's time over that scheme's of the same setting, whichever of the two has the comparison."""
    own = next((each.ratios for each in record.against if each.scheme == scheme), None)
    if own is not None:
        return own
    theirs = next((each for each in beside if each.scheme == scheme), None)
    found = () if theirs is None else next((a.ratios for a in theirs.against if a.scheme == record.scheme), ())
    return tuple(1 / each for each in found) if found and all(found) else None
