"""The table of mutants fits the source and the tests: nothing in it is stale, and no refusal is missing from it."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.mutants.source import KINDS, edits_of
from tests.mutants.table import ROOT, WHOLE, edits, left_out, mutants, text_of


def entries(file: str) -> set[str]:
    """What the table says of the file's raises and conditions."""
    return {each.claim for each in mutants() if each.file == file}


@pytest.mark.parametrize("file", WHOLE)
def test_every_refusal_and_every_part_of_its_condition_has_a_mutant_or_a_reason_to_have_none(file: str) -> None:
    listed, excused = entries(file), {name for where, name in left_out() if where == file}
    for kind in KINDS:
        for name in edits(kind, file):
            assert (f"{kind[:-1]}: {name}" in listed) != (f"{kind[:-1]}: {name}" in excused), (
                f"add the {kind[:-1]} {name!r} of {file} to tests/mutants/table, with the test that fails without it"
            )


def test_no_excuse_is_for_something_that_is_not_there() -> None:
    for (file, name), why in left_out().items():
        kind, _, rule = name.partition(": ")
        assert rule in edits(f"{kind}s", file), (file, name)
        assert why


def test_every_mutant_compiles_and_differs_from_the_source() -> None:
    for each in mutants():
        compile(each.source(), each.file, "exec")
        assert each.source() != text_of(each.file), each.id


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_named_test_exists() -> None:
    for each in mutants():
        file, _, name = each.caught_by.partition("::")
        assert name.partition("[")[0] in functions_of(file), f"{each.id} names {each.caught_by}"


SOURCE = """
def check(a, b, names):
    if not 1 <= a < 9 or b is None:
        raise ValueError(f"a is {a}")
    if any(len(name) > 3 for name in names):
        raise ValueError("long")
    if not set(names) <= {"x"}:
        raise ValueError("long")
"""


def test_the_finder_sees_raises_and_lets_more_through_each_time() -> None:
    assert list(edits_of("raises", SOURCE)) == ["a is {a}", "long", "long #2"]
    assert {name: edit.replacement for name, edit in edits_of("conditions", SOURCE).items()} == {
        "1 <= a": "(a < 9 and (1) <= (a) + 1)",
        "a < 9": "(1 <= a and (a) <= (9))",
        "b is None": "False",
        "len(name) > 3": "((len(name)) > (3) + 1)",
    }
