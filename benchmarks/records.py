"""How a benchmark keeps its records in pytest-benchmark's JSON, and how they are read back.

`add` puts a record into `extra_info["records"]` of the pytest-benchmark JSON; `from_json` gives back those of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedserver.overhead.record import FAMILIES, OTHERS, ROLES, SCHEMES, STAGES, Against, Record

__all__ = ["FAMILIES", "OTHERS", "ROLES", "SCHEMES", "STAGES", "Against", "Record", "add", "from_json"]


def add(benchmark: Any, record: Record) -> None:
    """Puts the record among those of a pytest-benchmark fixture."""
    benchmark.extra_info.setdefault("records", []).append(record.to_plain())


def from_json(saved: Mapping[str, Any]) -> list[Record]:
    """Every record of a pytest-benchmark JSON, in order. Raises ValueError for one that is none."""
    return [
        Record.from_plain(plain)
        for each in saved.get("benchmarks", [])
        for plain in each.get("extra_info", {}).get("records", [])
    ]
