"""Values of every Struct class there is, drawn from the rules that the class itself declares."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

import secagg
from secagg.config import Manifest
from secagg.errors import Malformed, Misuse
from secagg.lanes import LANE_BITS
from secagg.quantize import QuantizerParams
from secagg.wire import FieldRule, Items, Length, Range, Struct, field_rules
from tests.sim import Consortium

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def structs() -> list[type[Struct]]:
    """Every concrete Struct class of secagg, and of keys where it is importable."""
    for module in pkgutil.walk_packages(secagg.__path__, "secagg."):
        importlib.import_module(module.name)
    importlib.import_module("keys.public")
    found, left = set(), [Struct]
    while left:
        for kind in left.pop().__subclasses__():
            left.append(kind)
            ours = kind.__module__.startswith(("secagg.", "keys."))
            if ours and _is_current(kind) and (kind.TAG or field_rules(kind)):
                found.add(kind)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


def _is_current(kind: type[Struct]) -> bool:
    """Whether the module's name means this class: `slots=True` makes a second one and leaves the first about."""
    return getattr(sys.modules[kind.__module__], kind.__name__, None) is kind


def names() -> st.SearchStrategy[str]:
    """Site names of every length."""
    inner = st.text(_ALPHABET + "-", max_size=30)
    return st.builds(
        lambda first, middle, last: (first + middle + last) if middle or last else first,
        st.sampled_from(_ALPHABET), inner, st.sampled_from([*_ALPHABET]),
    )  # fmt: skip


def scalars(kind: Any, rule: Any) -> st.SearchStrategy[Any]:
    if kind is int:
        assert isinstance(rule, Range)
        return st.integers(rule.least, rule.most)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return made(kind)
    if kind is bytes:
        assert isinstance(rule, Length)
        return st.binary(min_size=rule.least, max_size=min(rule.most, rule.least + 40))
    if isinstance(rule, Length):
        characters = st.characters(codec="utf-8", max_codepoint=0x7F if rule.most < 100 else None)
        return st.text(characters, min_size=rule.least, max_size=max(rule.least, min(rule.most // 4, 20)))
    return names()


def of_field(field: FieldRule) -> st.SearchStrategy[Any]:
    if not isinstance(field.kind, tuple):
        return scalars(field.kind, field.rule)
    _, kind, inner = field.kind
    rule = field.rule
    assert isinstance(rule, Items)
    least, most = rule.least, min(rule.most, rule.least + 3)
    if rule.by is None:
        return st.lists(scalars(kind, inner), min_size=least, max_size=most).map(tuple)

    def key(item: Any) -> Any:
        return getattr(item, rule.by) if rule.by else item

    items = st.lists(scalars(kind, inner), min_size=least, max_size=most, unique_by=key)
    return items.map(lambda found: tuple(sorted(found, key=key)))


@st.composite
def made(draw: st.DrawFn, kind: type[Struct]) -> Struct:
    """A valid value of the class."""
    if kind is Manifest:
        return draw(manifests())
    fields = {field.name: draw(of_field(field)) for field in field_rules(kind)}
    if kind is QuantizerParams:  # a lane that holds at least one site's largest value
        lane_bits = draw(st.sampled_from(LANE_BITS))
        bits = draw(st.integers(4, min(20, lane_bits)))
        cap = draw(st.integers(1, ((1 << lane_bits) - 1) // ((1 << bits) - 1)))
        fields |= {"lane_bits": lane_bits, "bits": bits, "weight_cap": min(cap, 1 << 28)}
    try:
        return kind(**fields)
    except (Malformed, Misuse):  # a rule between fields
        reject()


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    n = draw(st.sampled_from((3, 4, 7, 20)))
    return Consortium(n, draw(st.integers(0, 3))).manifest(
        draw(st.integers(1, 1000)), bits=draw(st.integers(4, 12)), weight_cap=draw(st.integers(1, 50))
    )
