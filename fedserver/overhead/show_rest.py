"""The smaller sections: accuracy, memory, uploads, start-up, training."""

from __future__ import annotations

from collections.abc import Iterable

from fedserver.overhead import names
from fedserver.overhead.blocks import Block, Table
from fedserver.overhead.record import Record
from fedserver.overhead.run import Run, time_of
from fedserver.overhead.units import NONE, digits, size, spread


def accuracy_blocks(run: Run) -> list[Block]:
    """The error of the aggregate, and the quality of the result."""
    rows = (
        (
            names.name(each.scheme), str(each.bits or NONE), names.setting(each.values, each.sites) or NONE,
            digits(each.value, 4), each.unit or "", each.note or "",
        )
        for each in run.of("accuracy") if each.value is not None
    )  # fmt: skip
    caption = "Error of the aggregate against the mean in floating point, and quality of the result."
    return _table(caption, ("scheme", "bits", "at", "figure", "unit", "how"), rows, 1, 3)


def memory_blocks(run: Run) -> list[Block]:
    """Peaks of every role."""
    rows = (
        (
            names.name(each.scheme), each.stage or names.role(each.role), names.setting(each.values, each.sites),
            size(each.peak_bytes), digits(each.peak_bytes / each.values) if each.values else NONE,
        )
        for each in run.of("memory") if each.peak_bytes is not None
    )  # fmt: skip
    caption = "Peak memory of a process of its own, beyond its imports and its input."
    return _table(caption, ("scheme", "whose work", "at", "peak", "bytes a value"), rows, 3, 4)


def upload_blocks(run: Run) -> list[Block]:
    """One site's upload, beside plain HTTPS."""
    rows = (
        (
            names.name(each.scheme), each.stage or NONE, NONE if each.bytes_up is None else size(each.bytes_up),
            _wall(each), names.against(each) or NONE, each.note or "",
        )
        for each in run.of("upload") if time_of(each)
    )  # fmt: skip
    caption = "One site's upload of an update on this machine."
    return _table(caption, ("upload", "what", "bytes", "wall time", "ratio", "how"), rows, 2, 3)


def startup_blocks(run: Run) -> list[Block]:
    """How long the commands take to say what they do."""
    rows = (
        (each.stage or NONE, _wall(each), spread(each.cpu_s) if each.cpu_s else NONE, each.note or "")
        for each in run.of("startup")
        if time_of(each)
    )
    headings = ("command", "wall time", "CPU time", "how")
    return _table("From the start of a command to the end of its --help.", headings, rows, 1, 2)


def training_blocks(run: Run) -> list[Block]:
    """A local step, to hold the rest against."""
    rows = (
        (each.stage or "one step", names.setting(each.values, None) or NONE, _wall(each), each.note or "")
        for each in run.of("training")
        if time_of(each)
    )
    return _table("Local training, for scale.", ("what", "adapter", "wall time", "how"), rows, 2)


def _wall(record: Record) -> str:
    return spread(record.wall_s or record.cpu_s)


def _table(caption: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]], *numeric: int) -> list[Block]:
    """The table, unless it has no rows."""
    table = Table(caption, headings, tuple(rows), frozenset(numeric))
    return [table] if table.rows else []
