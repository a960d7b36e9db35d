"""The table of defences: what each mutant takes away, and the test that must then fail.

`table/*.toml` hold, for each source file:

    [raises."secagg/cbor.py"]        each refusal, by what it says           -> it is left out
    [conditions."secagg/cbor.py"]    each part of a refusal's condition      -> left out, or moved by one step
    [left_out."secagg/cbor.py"]      a raise or a condition without a mutant -> why
    [[weakened]]                     anything else, as a piece of the source and what takes its place

A test is named from the folder `tests` on: "core/test_wire.py::test_...".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.mutants.source import KINDS, Edit, edits_of

ROOT = Path(__file__).parents[2]
TABLES = Path(__file__).parent / "table"

# Files in which every raise and every condition of one has its entry.
WHOLE = (
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "secagg").rglob("*.py")),
    *(f"fedclient/{name}.py" for name in ("packets", "policy", "site", "store", "transcript")),
    *(f"fedserver/{name}.py" for name in ("checkpoint", "enrolment", "federation", "gateway")),
    *(
        f"keys/{name}.py"
        for name in ("dealt", "files", "keyfile", "nodekey", "passphrase", "pin", "public", "root", "rosterfile",
                     "server", "sharedfile", "sharedkey", "store", "strictjson", "tls")
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One defence less. claim: the rule that no longer holds, or what now goes wrong."""

    file: str
    claim: str
    edit: Edit
    caught_by: str

    @property
    def id(self) -> str:
        """File and claim, which name it among all."""
        return f"{self.file}: {self.claim}"

    def source(self) -> str:
        """The file's text without the defence."""
        return self.edit.apply(text_of(self.file))


def mutants() -> list[Mutant]:
    """Every mutant of the table, in its order. Raises ValueError if an entry fits the source no longer."""
    found = [each for name, table in _tables() for each in _of_table(name, table)]
    if len({each.id for each in found}) != len(found):
        ids = [each.id for each in found]
        raise ValueError(f"in the table twice: {sorted({each for each in ids if ids.count(each) > 1})}")
    return found


def left_out() -> dict[tuple[str, str], str]:
    """Why a raise or a condition (file, name) has no mutant."""
    return {
        (file, name): why
        for _, table in _tables()
        for file, names in table.get("left_out", {}).items()
        for name, why in names.items()
    }


def _of_table(name: str, table: dict[str, Any]) -> Iterator[Mutant]:
    for kind in KINDS:
        for file, entries in table.get(kind, {}).items():
            known = edits(kind, file)
            for rule, test in entries.items():
                if rule not in known:
                    raise ValueError(f"{name}: no {kind[:-1]} of {file} is {rule!r}")
                yield Mutant(file, f"{kind[:-1]}: {rule}", known[rule], f"tests/{test}")
    for each in table.get("weakened", ()):
        yield Mutant(each["file"], each["claim"], _edit(name, each), f"tests/{each['caught_by']}")


def _edit(name: str, entry: dict[str, str]) -> Edit:
    text, piece = text_of(entry["file"]), entry["find"]
    if text.count(piece) != 1:
        raise ValueError(f"{name}: {entry['claim']!r}: its text is {text.count(piece)} times in {entry['file']}")
    start = text.index(piece)
    return Edit(start, start + len(piece), entry["replace"])


@cache
def edits(kind: str, file: str) -> dict[str, Edit]:
    """As `source.edits_of`, of a file of the repository."""
    return edits_of(kind, text_of(file))


@cache
def text_of(file: str) -> str:
    """The file's text."""
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def _tables() -> tuple[tuple[str, dict[str, Any]], ...]:
    paths = sorted(TABLES.glob("*.toml"))
    return tuple((path.name, tomllib.loads(path.read_text(encoding="utf-8"))) for path in paths)
