"""overhead.json: the whole report for programs; its schema is in benchmarks/OVERHEAD.md."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from fedserver.overhead.answer import answer
from fedserver.overhead.compare import Comparison
from fedserver.overhead.growth import slices
from fedserver.overhead.method import not_measured
from fedserver.overhead.peers import pairs
from fedserver.overhead.record import Record
from fedserver.overhead.run import Run
from fedserver.overhead.units import middle

SCHEMA: Final = "secagg-lora overhead 1"


def overview(run: Run, comparison: Comparison | None) -> dict[str, Any]:
    """Plain values only; times in seconds, sizes in bytes."""
    return {
        "schema": SCHEMA,
        "kind": run.kind,
        "facts": dict(run.facts),
        "answer": answer(run),
        "records": [_record(each) for each in run.records],
        "growth": [
            _curve(role, each, curve)
            for role in ("site", "server", "open")
            for each in slices(run, role)
            for curve in each.curves
        ],
        "ratios": [
            {
                "upper": pair.upper,
                "lower": pair.lower,
                **pair.place._asdict(),
                "stage": pair.stage,
                "ratios": list(pair.ratios),
                "middle": pair.middle,
            }
            for pair in pairs(run)
        ],
        "models": [dict(row) for row in run.models],
        "rounds": [asdict(each) | {"missing": list(each.missing)} for each in run.rounds],
        "voids": run.voids,
        "changes": None if comparison is None else _changes(comparison),
        "not_measured": not_measured(run),
    }


def _record(record: Record) -> dict[str, Any]:
    return record.to_plain() | {"cpu_middle_s": middle(record.cpu_s), "wall_middle_s": middle(record.wall_s)}


def _curve(role: str, each: Any, curve: Any) -> dict[str, Any]:
    return {
        "role": role, "scheme": curve.label, "by": each.by, "held": each.held,
        "measured": [list(point) for point in curve.measured], "extrapolated": [list(point) for point in curve.guessed],
        "exponent": None if curve.fit is None else curve.fit[1], "factor": None if curve.fit is None else curve.fit[0],
    }  # fmt: skip


def _changes(comparison: Comparison) -> dict[str, Any]:
    listed = [
        {
            "record": each.record.to_plain(),
            "what": each.what,
            "old": list(each.old),
            "new": list(each.new),
            "ratio": each.ratio,
        }
        for each in comparison.changes
    ]
    counts = {
        name: getattr(comparison, name) for name in ("judged", "unjudged", "appeared", "vanished", "same_machine")
    }
    return counts | {"changed": listed}
