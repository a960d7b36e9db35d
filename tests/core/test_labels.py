"""Domain separation: no label is another or begins another, and none lives outside the registry."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path

from secagg import labels

ROOT = Path(labels.__file__).parent.parent


def test_all_labels_are_distinct_and_none_is_the_beginning_of_another() -> None:
    values = list(labels.ALL.values())
    found = [value for value in values if value != labels.PROTOCOL]
    assert len(set(values)) == len(values) > 30
    assert not [pair for pair in permutations(found, 2) if pair[1].startswith(pair[0])]


def test_every_label_names_the_protocol_and_ends_with_its_only_zero_byte() -> None:
    for name, value in labels.ALL.items():
        if name != "PROTOCOL":
            assert value.startswith(labels.PROTOCOL + b" ")
            assert value.index(b"\x00") == len(value) - 1
            assert name.startswith("SIGN_") == value.startswith(labels.PROTOCOL + b" sig ")


def test_no_label_is_made_outside_the_registry() -> None:
    made = re.compile(rb'b"secagg-lora|PROTOCOL \+')
    sources = [
        path for package in ("secagg", "keys", "fedclient", "fedserver") for path in (ROOT / package).rglob("*.py")
    ]
    assert [path for path in sources if made.search(path.read_bytes())] == [ROOT / "secagg" / "labels.py"]


def test_no_label_is_used_for_two_purposes() -> None:
    """Each is derived or signed with in one module; checkers may import a signature's label."""
    uses: dict[str, set[str]] = {}
    for path in (ROOT / "secagg").rglob("*.py"):
        for name in labels.ALL:
            if path.name != "labels.py" and re.search(rf"\b{name}\b", path.read_text()):
                uses.setdefault(name, set()).add(path.name)
    hashed = {name: where for name, where in uses.items() if not name.startswith("SIGN_")}
    assert {name: where for name, where in hashed.items() if len(where) > 1} == {}
