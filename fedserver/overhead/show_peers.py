"""The sections that hold the schemes against others, and against the round of a model."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

from fedserver.overhead import names
from fedserver.overhead.answer import SHOWN_RANK, SHOWN_SITES
from fedserver.overhead.blocks import Block, Points, Table, once
from fedserver.overhead.peers import Place, pairs, ratios_to, side_by_side
from fedserver.overhead.record import Record
from fedserver.overhead.run import ModelRow, Run, time_of
from fedserver.overhead.units import NONE, count, percent, ratio, seconds, size, spread

SHARE: Final = "share_"  # begins the names of a model row's shares: share_10_min
SHOWN_PLACES: Final = 2  # settings of a role that stand open in the side-by-side table


def peer_blocks(run: Run) -> list[Block]:
    """Everybody's work under one setting, the rest of the ratios, and what the names mean."""
    found, ours = side_by_side(run), run.schemes()
    headings = (
        "whose work, at what size",
        "scheme",
        "CPU time",
        "bytes up",
        "bytes down",
        *(f"over {o}" for o in ours),
    )
    numeric = frozenset(range(2, len(headings)))
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}
    for number, (place, records) in enumerate(found):
        folded = sum(each.role == place.role for each, _ in found[:number]) >= SHOWN_PLACES
        rows[folded] += [_peer_row(place, each, records, ours) for each in records]
    caption = (
        "CPU time of a round's work in the same run, each with its spread; beside it, how many times that of each of "
        "our schemes it is, from repetitions that followed one another."
    )
    blocks: list[Block] = [Table(caption, headings, once(rows[False]), numeric)] if rows[False] else []
    if rows[True]:
        blocks.append(Table("The same at other sizes", headings, once(rows[True]), numeric, folded=True))
    return [*blocks, *_further(run, {place for place, _ in found}), *_meanings(found)]


def _peer_row(place: Place, record: Record, beside: Sequence[Record], ours: Sequence[str]) -> tuple[str, ...]:
    ratios = (ratios_to(scheme, record, beside) for scheme in ours)
    return (
        names.place(place), names.name(record.scheme), spread(time_of(record)), _or_dash(record.bytes_up),
        _or_dash(record.bytes_down), *(NONE if each is None else spread(each, ratio) for each in ratios),
    )  # fmt: skip


def _further(run: Run, shown: Container[Place]) -> list[Block]:
    """Ratios that have no place in the table: of single stages, and of what was timed alone."""
    rows = tuple(
        (
            names.place(pair.place), f"{names.name(pair.upper)}{f', {pair.stage} alone' if pair.stage else ''}",
            names.name(pair.lower), spread(pair.ratios, ratio),
        )
        for pair in pairs(run) if pair.stage or pair.place not in shown
    )  # fmt: skip
    return [Table("Further ratios", ("at", "time of", "over", "ratio"), rows, frozenset((3,)))] if rows else []


def _meanings(found: Sequence[tuple[Place, Sequence[Record]]]) -> list[Block]:
    used = dict.fromkeys(record.scheme for _, records in found for record in records)
    meanings = tuple(f"{names.name(scheme)}: {names.MEANINGS[scheme]}" for scheme in used if scheme in names.MEANINGS)
    return [Points(meanings)] if meanings else []


def _or_dash(number: int | None) -> str:
    return NONE if number is None else size(number)


def model_blocks(models: Sequence[ModelRow]) -> list[Block]:
    if not models:
        return []
    minutes = [name for name in models[0] if name.startswith(SHARE)]
    headings = (
        "model", "LoRA", "values", "sites", "scheme", "bytes up", "bytes down", "site CPU", "server CPU",
        *(f"share at {name.removeprefix(SHARE).replace('_', ' ')}" for name in minutes), "measured",
    )  # fmt: skip
    shown = [row for row in models if row["rank"] == SHOWN_RANK and row["sites"] == SHOWN_SITES] or list(models)[:12]
    numeric = frozenset((2, 3, 5, 6, 7, 8, *range(9, 9 + len(minutes))))
    caption = (
        "One round, at LoRA rank 16 and 20 sites where the run has them. Bytes and CPU time are a site's, but for the "
        "server's. The share is that of site and server together, as if they took turns, in a round whose training "
        "takes so long. Extrapolated: from costs measured at other sizes."
    )
    blocks: list[Block] = [Table(caption, headings, tuple(_model_row(row, minutes) for row in shown), numeric)]
    if len(shown) < len(models):
        rows = tuple(_model_row(row, minutes) for row in models)
        blocks.append(
            Table(
                f"All {len(models)} combinations of model, LoRA, sites and scheme", headings, rows, numeric, folded=True
            )
        )
    return blocks


def _model_row(row: ModelRow, minutes: Sequence[str]) -> tuple[str, ...]:
    measured = "extrapolated" if row.get("extrapolated") else "yes"
    return (
        str(row["model"]), f"r = {row['rank']}, {row['targets']}", count(row["values"]), count(row["sites"]),
        names.name(row["scheme"]), size(row.get("bytes_up")), size(row.get("bytes_down")),
        seconds(row.get("site_cpu_s")), seconds(row.get("server_cpu_s")),
        *(percent(row.get(name)) for name in minutes),
        measured if row.get("fits", True) else f"{measured}, beyond a session's limits",
    )  # fmt: skip
