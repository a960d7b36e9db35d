"""What got slower and what got faster since an older run, as far as that is more than noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedserver.overhead.record import Record
from fedserver.overhead.run import Run
from fedserver.overhead.units import middle

LEAST_REPETITIONS: Final = 3  # two numbers have no spread worth the name
LEAST_CHANGE: Final = 0.10  # of a time, whatever the spread says
LEAST_BYTES: Final = 0.005
_KEY: Final = (
    *("family", "scheme", "role", "stage", "values", "sites", "neighbours", "bits", "weight", "dropped", "unit"),
)
_TIMES: Final[dict[str, Callable[[Record], Sequence[float] | None]]] = {
    "CPU time": lambda record: record.cpu_s,
    "wall time": lambda record: record.wall_s,
}
_SIZES: Final = {"bytes up": "bytes_up", "bytes down": "bytes_down", "peak memory": "peak_bytes", "value": "value"}


@dataclass(frozen=True)
class Change:
    """One figure in two runs. ratio: new over old, of the middles. certain: more than noise."""

    record: Record
    what: str
    old: tuple[float, ...]
    new: tuple[float, ...]
    certain: bool

    @property
    def ratio(self) -> float:
        """Of the middles."""
        return (middle(self.new) or 0.0) / (middle(self.old) or 1.0)


@dataclass(frozen=True)
class Comparison:
    """Of two runs. judged: figures in both; unjudged: those with too few repetitions for a verdict."""

    changes: tuple[Change, ...]  # certain ones, the largest growth first
    judged: int
    unjudged: int
    appeared: int
    vanished: int
    same_machine: bool


def compare(new: Run, old: Run) -> Comparison:
    """Matches the records of two runs by everything but what was measured.

    A time has changed if the ranges of its repetitions do not meet and the middles differ by a tenth; bytes and
    memory if they differ by half a percent. Times of different machines are left out: their ratios are judged.
    """
    before, after = _by_key(old), _by_key(new)
    same = all(new.facts.get(name) == old.facts.get(name) for name in ("processor", "python"))
    pairs = [(after[key], before[key]) for key in after if key in before]
    found = [change for ours, theirs in pairs for change in _changes(ours, theirs, same)]
    judged = [each for each in found if _is_judged(each)]
    certain = sorted((each for each in judged if each.certain), key=lambda each: -each.ratio)
    gone = len(before.keys() - after.keys())
    return Comparison(
        tuple(certain), len(judged), len(found) - len(judged), len(after.keys() - before.keys()), gone, same
    )


def _by_key(run: Run) -> dict[tuple[Any, ...], Record]:
    found: dict[tuple[Any, ...], Record] = {}
    for each in run.records:
        if not each.extrapolated:
            found.setdefault(tuple(getattr(each, name) for name in _KEY), each)
    return found


def _changes(new: Record, old: Record, same_machine: bool) -> list[Change]:
    found = []
    if same_machine:
        for what, seconds in _TIMES.items():
            found += _timed(new, what, seconds(old), seconds(new))
    before = {each.scheme: each.ratios for each in old.against}
    for each in new.against:
        found += _timed(new, f"ratio to {each.scheme}", before.get(each.scheme), each.ratios)
    for what, name in _SIZES.items():
        one, other = getattr(old, name), getattr(new, name)
        if one and other is not None:
            found.append(Change(new, what, (one,), (other,), abs(other / one - 1) >= LEAST_BYTES))
    return found


def _timed(record: Record, what: str, old: Sequence[float] | None, new: Sequence[float] | None) -> list[Change]:
    if not old or not new or not middle(old):
        return []
    apart = min(new) > max(old) or max(new) < min(old)
    change = Change(record, what, tuple(old), tuple(new), apart)
    far = max(change.ratio, 1 / change.ratio if change.ratio else 2.0) >= 1 + LEAST_CHANGE
    return [Change(record, what, tuple(old), tuple(new), apart and far)]


def _is_judged(change: Change) -> bool:
    enough = min(len(change.old), len(change.new)) >= LEAST_REPETITIONS
    return enough or change.what in _SIZES
