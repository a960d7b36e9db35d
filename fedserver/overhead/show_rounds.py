"""The sections on whole rounds: where their time goes, and each round of a real federation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from fedserver.overhead import names
from fedserver.overhead.blocks import Bars, Block, Points, Table
from fedserver.overhead.record import Record
from fedserver.overhead.rounds import BASELINE, PHASES, UNPROTECTED, Cost, Setting, costs, headline
from fedserver.overhead.run import Run
from fedserver.overhead.units import NONE, count, middle, ratio, seconds, size, spread

UNDIVIDED: Final = "all phases"  # of rounds whose phases nobody timed
Way = tuple[str, str, Callable[[Any], str]]  # heading, field of a record, how it is written
_TIMES: Final[tuple[Way, ...]] = (("wall time", "wall_s", spread), ("server CPU", "cpu_s", spread))
_BYTES: Final[tuple[Way, ...]] = (("a site's bytes up", "bytes_up", size), ("bytes down", "bytes_down", size))


def round_blocks(run: Run) -> list[Block]:
    """Bars and a table by phase of the setting that says most, then every setting."""
    found = costs(run)
    at = headline(found)
    if at is None:
        return []
    parts = {scheme: _parts(cost) for scheme, cost in found[at].items()}
    order = {name: place for place, name in enumerate(PHASES)}
    phases = sorted(dict.fromkeys(name for each in parts.values() for name in each), key=lambda n: order.get(n, 99))
    told = ", ".join(
        f"{names.name(scheme)} {seconds(sum(map(_wall, each.values())))}" for scheme, each in parts.items()
    )
    where = f"a round of {names.setting(at.values, at.sites)}"
    blocks: list[Block] = [
        Bars(
            "round", f"Wall time of {where}, by phase; the middle of each phase's repetitions. "
            "A bar with an arrow goes on to the number in it.",
            f"Stacked bars: wall time of {where}: {told}.", tuple(map(names.name, parts)), tuple(phases),
            tuple(tuple(_wall(each.get(phase)) for phase in phases) for each in parts.values()), "wall time (s)",
        ),
        *_phase_tables(parts, phases),
        Points(tuple(f"{phase}: {PHASES[phase]}" for phase in phases if phase in PHASES)),
    ]  # fmt: skip
    return blocks if run.kind == "session" else [*blocks, _settings_table(found)]


def _parts(cost: Cost) -> dict[str, Record]:
    """What to draw: the phases, or the whole where nobody told them apart."""
    return {str(each.stage): each for each in cost.protocol} or {UNDIVIDED: cost.whole}


def _wall(record: Record | None) -> float:
    return 0.0 if record is None else middle(record.wall_s) or 0.0


def _phase_tables(parts: Mapping[str, Mapping[str, Record]], phases: Sequence[str]) -> list[Block]:
    """One table if there is one scheme; else times, and bytes when asked for."""
    told = "the middle, and in brackets the least and the most. A dash: there is no such phase."
    if len(parts) == 1:
        return _by_phase(f"The phases of a round: {told}", parts, phases, (*_TIMES, *_BYTES))
    times = _by_phase(f"Wall time of the phases: {told}", parts, phases, _TIMES[:1])
    return [*times, *_by_phase("Bytes of the phases, a site's", parts, phases, _BYTES, folded=True)]


def _by_phase(
    caption: str, parts: Mapping[str, Mapping[str, Record]], phases: Sequence[str], ways: Sequence[Way],
    *, folded: bool = False,
) -> list[Block]:  # fmt: skip
    """A column for each scheme and way that has figures; no table without any."""
    columns = [
        (scheme, way) for scheme, each in parts.items() for way in ways
        if any(getattr(record, way[1]) is not None for record in each.values())
    ]  # fmt: skip
    if not columns:
        return []
    headings = [_heading(scheme, way, len(parts), len(ways)) for scheme, way in columns]
    rows = tuple((phase, *(_cell(parts[scheme].get(phase), way) for scheme, way in columns)) for phase in phases)
    return [Table(caption, ("phase", *headings), rows, frozenset(range(1, 1 + len(columns))), folded)]


def _heading(scheme: str, way: Way, schemes: int, ways: int) -> str:
    if schemes == 1:
        return way[0]
    return names.name(scheme) if ways == 1 else f"{names.name(scheme)}: {way[0]}"


def _cell(record: Record | None, way: Way) -> str:
    given = None if record is None else getattr(record, way[1])
    return NONE if given is None else way[2](given)


def _settings_table(found: Mapping[Setting, Mapping[str, Cost]]) -> Table:
    others = [each for each in (UNPROTECTED, BASELINE) if any(each in schemes for schemes in found.values())]
    rows = tuple(
        (
            count(at.values), str(at.sites), str(at.dropped), names.name(scheme), spread(cost.whole.wall_s),
            *(_times(cost.whole, other) for other in others), _cell(cost.whole, ("", "cpu_s", spread)),
            *(_cell(cost.whole, way) for way in _BYTES),
        )
        for at in sorted(found) for scheme, cost in found[at].items()
    )  # fmt: skip
    headings = (
        "values", "sites", "lost", "scheme", "wall time", *(f"over {names.name(other)}" for other in others),
        "CPU, all processes", "bytes up", "bytes down",
    )  # fmt: skip
    caption = (
        "Whole rounds of real processes on one machine, in turn, and how many times the wall time of the neighbouring "
        "round of another kind. Bytes are a site's; plain is the same transport with nothing protected."
    )
    return Table(caption, headings, rows, frozenset({0, 1, 2, *range(4, len(headings))}))


def _times(record: Record, other: str) -> str:
    ratios = next((each.ratios for each in record.against if each.scheme == other), None)
    return NONE if ratios is None else spread(ratios, ratio)


# ------------------------------------------------------------------ a real federation


def each_round(run: Run) -> list[Block]:
    """A row for each round."""
    rows = tuple(
        (
            str(each.round), str(each.contributors), ", ".join(each.missing) or "none", seconds(each.train_s),
            seconds(each.protocol_s), seconds(each.total_s),
        )
        for each in run.rounds
    )  # fmt: skip
    headings = ("round", "sites in the sum", "missing", "last sum and training", "protocol", "whole round")
    caption = "Wall time of each round. The whole round includes attempts that gave no sum."
    return [Table(caption, headings, rows, frozenset((0, 1, 3, 4, 5)))] if rows else []


def sites_blocks(run: Run) -> list[Block]:
    """What sites gave of their own records."""
    rows = tuple(
        (str(each.stage), str(len(each.wall_s or ())), spread(each.wall_s), spread(each.cpu_s))
        for each in run.of("round")
        if each.role == "site"
    )
    headings = ("phase", "times", "wall time", "CPU time")
    caption = "What each phase took at the sites that gave their record, network and waiting left out."
    return [Table(caption, headings, rows, frozenset((1, 2, 3)))] if rows else []
