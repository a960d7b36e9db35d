"""The sections on the processor's time: by stage, and how it grows with values and sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fedserver.overhead import names
from fedserver.overhead.blocks import Bars, Block, Curve, Curves, Table, once
from fedserver.overhead.growth import Slice, slices
from fedserver.overhead.record import STAGES, Record
from fedserver.overhead.run import Run, middle_s, time_of
from fedserver.overhead.units import NONE, count, seconds, spread


def stage_blocks(run: Run) -> list[Block]:
    records = [each for each in run.of("stage") if each.values and middle_s(each) and not each.against]
    if not records:
        return []

    def extent(at: tuple[int | None, int | None]) -> tuple[int, int, int]:
        here = [each for each in records if (each.values, each.sites) == at]
        return len({each.scheme for each in here}), at[0] or 0, at[1] or 0

    at = max({(each.values, each.sites) for each in records}, key=extent)
    here = [each for each in records if (each.values, each.sites) == at]
    bars = list(dict.fromkeys((each.scheme, each.role) for each in here))
    stages = tuple(stage for stage in STAGES if any(each.stage == stage for each in here))
    taken: dict[tuple[Any, ...], float] = {}
    for each in here:
        taken.setdefault((each.scheme, each.role, each.stage), middle_s(each) or 0.0)
    parts = tuple(tuple(taken.get((*bar, stage), 0.0) for stage in stages) for bar in bars)
    labels = tuple(f"{names.name(scheme)}: {role or 'all'}" for scheme, role in bars)
    told = ", ".join(f"{label} {seconds(sum(each))}" for label, each in zip(labels, parts, strict=True))
    where = names.setting(*at)
    rows = tuple(
        (f"{names.name(scheme)}: {role or 'all'}", *(
            _stage_cell(here, scheme, role, stage) for stage in stages
        ))
        for scheme, role in bars
    )  # fmt: skip
    return [
        Bars(
            "stages", f"CPU time of a round's work, by stage, at {where}.",
            f"Stacked bars: CPU time at {where}: {told}.", labels, stages, parts, "CPU time (s)",
        ),
        Table(f"CPU time by stage at {where}: the middle, the least and the most.", ("", *stages), rows,
              frozenset(range(1, 1 + len(stages))), folded=True),
    ]  # fmt: skip


def _stage_cell(records: Sequence[Record], scheme: str | None, role: str | None, stage: str) -> str:
    own = next((each for each in records if (each.scheme, each.role, each.stage) == (scheme, role, stage)), None)
    return NONE if own is None else spread(time_of(own))


def growth_blocks(run: Run) -> list[Block]:
    found = [each for role in ("site", "server", "open") for each in slices(run, role)]
    if not found:
        return []
    return [*(_curves(each) for each in found), _exponents(found)]


_AXES: Final = {"values": "values of the adapter (d)", "sites": "sites in the round (n)"}


def _held(each: Slice) -> str:
    return f"{count(each.held)} {'sites' if each.by == 'values' else 'values'}"


def _curves(each: Slice) -> Curves:
    curves = tuple(Curve(names.name(c.label), c.measured, c.guessed, c.fit) for c in each.curves)
    guessed = " Hollow points are extrapolated." if any(curve.guessed for curve in curves) else ""
    lines = " Lines are the fitted powers." if any(curve.fit for curve in curves) else ""
    ends = "; ".join(
        f"{curve.label} from {_point(points[0])} to {_point(points[-1])}"
        for curve in curves
        if (points := sorted((*curve.measured, *curve.guessed)))
    )
    return Curves(
        f"growth-{each.role}-{each.by}",
        f"CPU time of {names.role(each.role)} against {each.by}, at {_held(each)}.{lines}{guessed}",
        f"CPU time of {names.role(each.role)} against {each.by}: {ends}.", curves, _AXES[each.by],
        f"CPU time, {names.role(each.role)} (s)",
    )  # fmt: skip


def _point(of: tuple[float, float]) -> str:
    return f"{seconds(of[1])} at {count(of[0])}"


def _exponents(found: Sequence[Slice]) -> Table:
    rows = tuple(
        (
            names.role(each.role), f"{each.by}, at {_held(each)}", names.name(curve.label), str(len(curve.measured)),
            f"{curve.fit[1]:.2f}" if curve.fit else "too few sizes",
        )
        for each in found for curve in each.curves
    )  # fmt: skip
    return Table(
        "Exponents, fitted to the measured points alone: 1 means twice the cost for twice the size. A fixed cost that "
        "does not grow makes an exponent smaller.",
        ("whose work", "grows with", "scheme", "points", "exponent"), once(rows), frozenset((3, 4)),
    )  # fmt: skip
