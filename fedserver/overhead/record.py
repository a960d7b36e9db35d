"""One figure of what protection costs, in the only form that the report reads: from a benchmark or a real round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

FAMILIES: Final = frozenset(
    ("stage", "total", "peer", "floor", "memory", "round", "accuracy", "startup", "upload", "training")
)
ROLES: Final = frozenset(("site", "server", "open", "whole"))
STAGES: Final = ("quantise", "keys", "shares", "protect", "frame", "add", "unmask", "open", "dequantise", "check")
OTHERS: Final = (  # what schemes are compared with: nothing protected, other packages, the machine's own limits
    *("plain", "flower-fedavg", "flower-secagg+", "tenseal-4096", "tenseal-8192-each"),
    *("fedavg", "aes-ctr", "memcpy", "https"),
)
SCHEMES: Final = frozenset(("masked", "ckks", "ckks-shared", *OTHERS))
_NOBODYS: Final = frozenset(("startup", "training"))  # what costs the same under every scheme
_POSITIVE: Final = ("values", "sites", "bits", "weight")
_COUNTS: Final = ("neighbours", "dropped", "bytes_up", "bytes_down", "peak_bytes")
_TEXTS: Final = ("stage", "unit", "note")


@dataclass(frozen=True, slots=True)
class Against:
    """A record's repetitions divided by the neighbouring repetitions of another scheme."""

    scheme: str
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        _require(self.scheme in SCHEMES, f"no such scheme: {self.scheme!r}")
        _require(isinstance(self.ratios, tuple) and bool(self.ratios), "ratios is an empty list or none")
        for each in self.ratios:
            _require_number("ratios", each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One figure, or several that were taken together; None where a field does not apply.

    scheme: None only for what no scheme has a part in, a start-up or a training step.
    values, sites, neighbours, bits, weight, dropped: the setting. cpu_s, wall_s: seconds of each repetition, in
    order, equal in number where both are there. bytes_up, bytes_down: a site's in a round, counted from encoded
    messages. value, unit: what is neither time nor bytes; one never comes without the other.
    Raises ValueError for names that are not listed above, numbers below zero, and numbers that are none.
    """

    family: str
    scheme: str | None = None
    role: str | None = None
    stage: str | None = None
    values: int | None = None
    sites: int | None = None
    neighbours: int | None = None
    bits: int | None = None
    weight: int | None = None
    dropped: int | None = None
    cpu_s: tuple[float, ...] | None = None
    wall_s: tuple[float, ...] | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    peak_bytes: int | None = None
    value: float | None = None
    unit: str | None = None
    against: tuple[Against, ...] = ()
    extrapolated: bool = False
    note: str | None = None

    def __post_init__(self) -> None:
        _require(self.family in FAMILIES, f"no such family: {self.family!r}")
        known = self.scheme in SCHEMES or (self.scheme is None and self.family in _NOBODYS)
        _require(known, f"no such scheme: {self.scheme!r}")
        _require(self.role is None or self.role in ROLES, f"no such role: {self.role!r}")
        _require(self.family != "stage" or self.stage in STAGES, f"no such stage: {self.stage!r}")
        for name in _TEXTS:
            text = getattr(self, name)
            _require(text is None or (isinstance(text, str) and bool(text)), f"{name} is no text")
        self._require_whole_numbers()
        self._require_times()
        if self.value is not None:
            _require_number("value", self.value)
        _require((self.value is None) == (self.unit is None), "a value has a unit and a unit has a value")
        _require(isinstance(self.extrapolated, bool), "extrapolated is true or false")
        _require(
            isinstance(self.against, tuple) and all(isinstance(each, Against) for each in self.against),
            "against is a list of comparisons",
        )

    def _require_whole_numbers(self) -> None:
        for name in (*_POSITIVE, *_COUNTS):
            number = getattr(self, name)
            if number is not None:
                _require(isinstance(number, int) and not isinstance(number, bool), f"{name} is no whole number")
                _require(number >= (name in _POSITIVE), f"{name} is too small: {number}")

    def _require_times(self) -> None:
        times = [(name, each) for name in ("cpu_s", "wall_s") if (each := getattr(self, name)) is not None]
        for name, seconds in times:
            _require(isinstance(seconds, tuple) and bool(seconds), f"{name} is an empty list or none")
            for each in seconds:
                _require_number(name, each)
        _require(len({len(each) for _, each in times}) <= 1, "cpu_s and wall_s are of different lengths")

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it: lists for tuples, every field there."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain["against"] = [{"scheme": each.scheme, "ratios": list(each.ratios)} for each in self.against]
        return {name: list(each) if isinstance(each, tuple) else each for name, each in plain.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Record:
        """The record; absent fields are None. Raises ValueError for unknown keys and whatever a Record refuses."""
        _require_keys(plain, {each.name for each in fields(cls)}, {"family"})
        given = {name: each for name, each in plain.items() if each is not None}
        for name in ("cpu_s", "wall_s"):
            if name in given:
                given[name] = _tuple_of(name, given[name])
        against = _tuple_of("against", given.pop("against", []))
        return cls(**given, against=tuple(_against(each) for each in against))


def _against(plain: object) -> Against:
    if not isinstance(plain, Mapping):
        raise ValueError("a comparison is no object")
    _require_keys(plain, {"scheme", "ratios"}, {"scheme", "ratios"})
    return Against(plain["scheme"], _tuple_of("ratios", plain["ratios"]))


def _tuple_of(name: str, given: object) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{name} is no list")
    return tuple(given)


def _require_keys(plain: Mapping[str, Any], known: set[str], needed: set[str]) -> None:
    unknown, missing = sorted(set(plain) - known), sorted(needed - set(plain))
    _require(not unknown, f"unknown fields: {', '.join(map(str, unknown))}")
    _require(not missing, f"missing fields: {', '.join(missing)}")


def _require_number(name: str, number: object) -> None:
    """Finite and not below zero."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    _require(is_number and math.isfinite(number) and number >= 0, f"{name} has {number!r}")  # type: ignore[arg-type,operator]


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)
