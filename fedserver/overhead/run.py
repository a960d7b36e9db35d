"""What a report is made from: the records of one run, and where and when they were taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fedserver.overhead.record import OTHERS, Record
from fedserver.overhead.units import middle

FLOORS: Final = frozenset(("fedavg", "aes-ctr", "memcpy", "https", "plain", "flower-fedavg"))  # nothing is protected

ModelRow = Mapping[str, Any]  # of benchmarks.models.model_table, described in benchmarks/OVERHEAD.md


@dataclass(frozen=True)
class Round:
    """One finished round of a real federation."""

    round: int
    attempt: int
    contributors: int
    missing: tuple[str, ...]
    train_s: float
    protocol_s: float
    total_s: float


@dataclass(frozen=True)
class Run:
    """One run: of the benchmarks, or of a real federation ("session").

    facts: where and how it was taken, by name, for people. voids: attempts of a real federation that gave no sum.
    """

    records: tuple[Record, ...]
    kind: Literal["benchmarks", "session"] = "benchmarks"
    facts: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[ModelRow] = ()
    rounds: tuple[Round, ...] = ()
    voids: int = 0

    def of(self, *families: str) -> list[Record]:
        """The records of these families, in order."""
        return [each for each in self.records if each.family in families]

    def schemes(self) -> list[str]:
        """The schemes that protect something, in the order in which they first appear."""
        return list(dict.fromkeys(each.scheme for each in self.records if each.scheme and each.scheme not in OTHERS))


def time_of(record: Record) -> tuple[float, ...] | None:
    """The record's seconds: on the CPU's clock if it was read, else on the wall's."""
    return record.cpu_s or record.wall_s


def middle_s(record: Record) -> float | None:
    """The middle of `time_of`."""
    return middle(time_of(record))


def most_common(records: Iterable[Record], *names: str) -> tuple[Any, ...]:
    """The values of these fields that most records share; the first of them where several do."""
    counts = Counter(tuple(getattr(each, name) for name in names) for each in records)
    return counts.most_common(1)[0][0] if counts else tuple(None for _ in names)


def from_benchmarks(saved: Mapping[str, Any], models: Sequence[ModelRow] = ()) -> Run:
    """The run that a pytest-benchmark JSON describes. Raises ValueError for what is no such JSON."""
    if not isinstance(saved.get("benchmarks"), list):
        raise ValueError("it is no file of pytest-benchmark")
    records = tuple(
        Record.from_plain(plain)
        for each in saved["benchmarks"]
        for plain in each.get("extra_info", {}).get("records", [])
    )
    return Run(records, "benchmarks", _facts(saved), models)


def _facts(saved: Mapping[str, Any]) -> dict[str, str]:
    machine, commit = saved.get("machine_info") or {}, saved.get("commit_info") or {}
    cpu = machine.get("cpu") or {}
    cores = f"{cpu['count']} logical cores" if cpu.get("count") else ""
    python = " ".join(str(machine.get(name) or "") for name in ("python_implementation", "python_version"))
    changed = ", with changes that were not committed" if commit.get("dirty") else ""
    found = {
        "taken": str(saved.get("datetime") or "").replace("T", " ")[:19],
        "processor": ", ".join(part for part in (str(cpu.get("brand_raw") or ""), cores) if part),
        "system": " ".join(str(machine.get(name) or "") for name in ("system", "release", "machine")),
        "python": python,
        "packages": ", ".join(f"{name} {text}" for name, text in sorted((machine.get("packages") or {}).items())),
        "profile": str(machine.get("profile") or ""),
        "commit": f"{str(commit['id'])[:12]}{changed}"
        if commit.get("id") not in (None, "unknown", "unversioned")
        else "",
        "pytest-benchmark": str(saved.get("version") or ""),
    }
    return {name: text.strip() for name, text in found.items() if text.strip()}
