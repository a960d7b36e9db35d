"""A record of a benchmark survives JSON as it is, and whatever is no figure is refused before a report shows it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.records import Against, Record, add, from_json

WHOLE = Record(
    family="total",
    scheme="masked",
    role="site",
    values=100_000,
    sites=10,
    neighbours=9,
    bits=12,
    weight=1,
    dropped=0,
    cpu_s=(0.02, 0.03),
    wall_s=(0.04, 0.05),
    bytes_up=270_000,
    bytes_down=0,
    peak_bytes=1,
    value=0.5,
    unit="of a round",
    against=(Against("flower-secagg+", (0.1, 0.2)),),
    note="all replies of the middle site",
)
BARE = Record(family="floor", scheme="memcpy")


@pytest.mark.parametrize("record", [WHOLE, BARE], ids=["every field", "two fields"])
def test_a_record_survives_json(record: Record) -> None:
    assert Record.from_plain(json.loads(json.dumps(record.to_plain(), allow_nan=False))) == record


def test_absent_fields_are_as_null() -> None:
    assert Record.from_plain({"family": "floor", "scheme": "memcpy"}) == BARE


def test_records_of_a_file_come_back_in_order() -> None:
    benchmark = SimpleNamespace(extra_info={"line": "something else"})
    add(benchmark, WHOLE)
    add(benchmark, BARE)
    saved = {"benchmarks": [{"extra_info": {}}, {"extra_info": benchmark.extra_info}]}
    assert from_json(json.loads(json.dumps(saved))) == [WHOLE, BARE]


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"family": "stages"},
        {"family": "stage", "stage": "masking"},
        {"family": "stage", "stage": None},
        {"scheme": "rot13"},
        {"scheme": None},
        {"role": "client"},
        {"values": 0},
        {"values": 1e5},
        {"sites": True},
        {"dropped": -1},
        {"bytes_up": -1},
        {"peak_bytes": 0.5},
        {"cpu_s": []},
        {"cpu_s": 0.1},
        {"cpu_s": [0.1, float("nan")]},
        {"cpu_s": [0.1, -0.1]},
        {"cpu_s": ["0.1", "0.2"]},
        {"cpu_s": [0.1]},
        {"wall_s": [0.1, float("inf")]},
        {"value": float("nan")},
        {"value": -1.0},
        {"value": None},
        {"unit": None},
        {"note": ""},
        {"note": 5},
        {"extrapolated": "no"},
        {"against": [{"scheme": "masked"}]},
        {"against": [{"scheme": "masked", "ratios": []}]},
        {"against": [{"scheme": "masked", "ratios": [float("nan")]}]},
        {"against": [{"scheme": "rot13", "ratios": [1.0]}]},
        {"against": [{"scheme": "masked", "ratios": [1.0], "mean": 1.0}]},
        {"against": ["masked"]},
        {"against": {}},
    ],
    ids=str,
)
def test_what_is_no_figure_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Record.from_plain({**WHOLE.to_plain(), **change})


def test_a_record_says_what_it_is_of() -> None:
    with pytest.raises(ValueError, match="missing fields: family"):
        Record.from_plain({"scheme": "masked"})


def test_a_start_up_is_no_schemes() -> None:
    assert Record.from_plain({"family": "startup", "stage": "fedkeys", "wall_s": [0.4]}).scheme is None
