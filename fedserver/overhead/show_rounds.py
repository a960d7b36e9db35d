"""The sections on whole rounds: where their time goes, and each round of a real federation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedserver.overhead import names
from fedserver.overhead.blocks import Bars, Block, Points, Table
from fedserver.overhead.record import Record
from fedserver.overhead.rounds import PHASES, TRAIN, UNPROTECTED, Cost, Setting, added, costs, headline
from fedserver.overhead.run import Run
from fedserver.overhead.units import NONE, count, middle, ratio, seconds, size, spread


def round_blocks(run: Run) -> list[Block]:
    found = costs(run)
    at = headline(found)
    if at is None:
        return []
    here = found[at]
    drawn = {scheme: cost for scheme, cost in here.items() if _drawn(cost)}
    blocks: list[Block] = []
    if drawn:
        names_here = tuple(dict.fromkeys(str(each.stage) for cost in drawn.values() for each in _drawn(cost)))
        stages = tuple(
            sorted(names_here, key=lambda stage: list(PHASES).index(stage) if stage in PHASES else len(PHASES))
        )
        what = f"a round of {names.setting(at.values, at.sites)}"
        blocks.append(
            Bars(
                "round",
                f"Wall time of {what}, by phase; the middle of each phase's repetitions.",
                f"Stacked bars: {_told(drawn, at)}",
                tuple(names.name(scheme) for scheme in drawn),
                stages,
                tuple(tuple(_phase_s(cost, stage) for stage in stages) for cost in drawn.values()),
                "wall time (s)",
            )
        )
        blocks.append(_phase_table(drawn, stages))
        blocks.append(Points(tuple(f"{stage}: {PHASES[stage]}" for stage in stages if stage in PHASES)))
    if run.kind == "benchmarks":
        blocks.append(_round_table(found))
    return blocks


def _drawn(cost: Cost) -> list[Record]:
    return [each for each in cost.phases if each.stage != TRAIN and each.role != "site"]


def _phase_s(cost: Cost, stage: str) -> float:
    return next((middle(each.wall_s) or 0.0 for each in _drawn(cost) if each.stage == stage), 0.0)


def _told(drawn: dict[str, Cost], at: Setting) -> str:
    parts = ", ".join(
        f"{names.name(scheme)} {seconds(sum(_phase_s(cost, str(each.stage)) for each in _drawn(cost)))}"
        for scheme, cost in drawn.items()
    )
    return f"wall time of a round of {names.setting(at.values, at.sites)}: {parts}."


def _phase_table(drawn: dict[str, Cost], stages: Sequence[str]) -> Table:
    """What each phase takes; processor and traffic where they were kept by phase."""
    columns: list[tuple[str, Callable[[str], str]]] = []
    for scheme, cost in drawn.items():
        by_stage = {each.stage: each for each in _drawn(cost)}
        columns.append((f"{names.name(scheme)}: wall", lambda stage, of=by_stage: _spread_of(of, stage, "wall_s")))
        if any(each.cpu_s for each in by_stage.values()):
            columns.append(
                (f"{names.name(scheme)}: server CPU", lambda stage, of=by_stage: _spread_of(of, stage, "cpu_s"))
            )
        if any(each.bytes_up is not None for each in by_stage.values()):
            columns.append(
                (
                    f"{names.name(scheme)}: a site's bytes up",
                    lambda stage, of=by_stage: _bytes_of(of, stage, "bytes_up"),
                )
            )
            columns.append(
                (f"{names.name(scheme)}: down", lambda stage, of=by_stage: _bytes_of(of, stage, "bytes_down"))
            )
    rows = tuple((stage, *(of(stage) for _, of in columns)) for stage in stages)
    return Table(
        "The phases of a round: the middle, and in brackets the least and the most. A dash: there is no such phase.",
        ("phase", *(heading for heading, _ in columns)), rows, frozenset(range(1, 1 + len(columns))),
    )  # fmt: skip


def _spread_of(by_stage: dict[str | None, Record], stage: str, what: str) -> str:
    return spread(getattr(by_stage[stage], what)) if stage in by_stage else NONE


def _bytes_of(by_stage: dict[str | None, Record], stage: str, what: str) -> str:
    return size(getattr(by_stage[stage], what)) if stage in by_stage else NONE


def _round_table(found: dict[Setting, dict[str, Cost]]) -> Table:
    rows = []
    for at in sorted(found):
        plain = found[at].get(UNPROTECTED)
        for scheme, cost in found[at].items():
            more = added(cost, plain).seconds if plain is not None and scheme != UNPROTECTED else None
            times = middle(_over(cost, plain)) if plain is not None and more else None
            rows.append((
                f"{count(at.values)}", f"{at.sites}", f"{at.dropped}", names.name(scheme), spread(cost.whole.wall_s),
                NONE if times is None else ratio(times),
                size(cost.whole.bytes_up), size(cost.whole.bytes_down),
            ))  # fmt: skip
    return Table(
        "Whole rounds of real processes on one machine. Bytes are a site's. The ratio is to the same round over the "
        "same transport with nothing protected.",
        ("values", "sites", "lost", "scheme", "wall time", "ratio", "bytes up", "bytes down"),
        tuple(rows), frozenset((0, 1, 2, 4, 5, 6, 7)),
    )  # fmt: skip


def _over(cost: Cost, plain: Cost) -> list[float]:
    ours, theirs = cost.whole.wall_s or (), plain.whole.wall_s or ()
    if len(ours) == len(theirs) and all(theirs):
        return [own / other for own, other in zip(ours, theirs, strict=True)]
    return [cost.seconds / plain.seconds] if plain.seconds else []


def each_round(run: Run) -> list[Block]:
    rows = tuple(
        (
            str(each.round), str(each.contributors), ", ".join(each.missing) or "none", seconds(each.train_s),
            seconds(each.protocol_s), seconds(each.total_s),
        )
        for each in run.rounds
    )  # fmt: skip
    if not rows:
        return []
    headings = ("round", "sites in the sum", "missing", "last sum and training", "protocol", "whole round")
    caption = "Wall time of each round. The whole round includes attempts that gave no sum."
    return [Table(caption, headings, rows, frozenset((0, 1, 3, 4, 5)))]
