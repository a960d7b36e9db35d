"""No code outside secagg/schemes.py and the schemes' own folders knows a scheme by its name, or branches on one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from secagg.schemes import SCHEMES

ROOT = Path(__file__).parent.parent
PACKAGES = ("secagg", "keys", "fedclient", "fedserver")
OWN = ("secagg/schemes.py", *(f"secagg/{name.replace('-', '_')}/" for name in SCHEMES))
NAMED = {  # where a name may stand: what is taken if nobody says otherwise, and a command's own name
    ("secagg/config.py", "Policy"),
    ("fedserver/cli.py", "fedserver"),
    ("fedserver/simulate.py", "main"),
    ("fedserver/simulate.py", "prepare"),
    ("keys/cli.py", ""),
    ("secagg/chain.py", ""),  # these two: a stage of an attempt is called "masked"
    ("fedclient/timings.py", ""),
    ("fedserver/overhead/record.py", ""),  # what a row of figures may be about
}
FIGURES = "fedserver/overhead/"  # tables of measurements, of other projects' schemes too: they are sorted by `scheme`


def sources(*but: str) -> Iterator[tuple[str, ast.Module]]:
    """Every source file that may know no scheme, but for those whose paths begin so."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith((*OWN, *but)):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def is_scheme(node: ast.AST) -> bool:
    """Whether an expression is a scheme's name by what it is called: `scheme`, `plan.scheme`, `scheme.name`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "scheme" or (node.attr == "name" and is_scheme(node.value))
    return isinstance(node, ast.Name) and node.id in ("scheme", "secagg")


def branches(tree: ast.AST) -> Iterator[str]:
    """Comparisons with a scheme's name, matches of one, and questions about how one is spelt."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            equal = any(isinstance(each, ast.Eq | ast.NotEq | ast.Is | ast.IsNot) for each in node.ops)
            if any(_has_name(side) for side in sides) or (equal and sum(is_scheme(side) for side in sides) == 1):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Match) and (is_scheme(node.subject) or any(_has_name(each) for each in node.cases)):
            yield f"line {node.lineno}: match {ast.unparse(node.subject)}"
        elif isinstance(node, ast.Subscript) and (_is_name(node.slice) or is_scheme(node.slice)):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            spelling = node.func.attr in ("startswith", "endswith", "get", "removeprefix", "removesuffix", "partition")
            if spelling and (is_scheme(node.func.value) or any(_is_name(each) for each in node.args)):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in SCHEMES


def _has_name(node: ast.AST) -> bool:
    return any(_is_name(each) for each in ast.walk(node))


def names(tree: ast.Module) -> Iterator[str]:
    """The function or class on the top level, or nothing, in which each name of a scheme stands as a text."""
    for statement in tree.body:
        inside = getattr(statement, "name", "")
        yield from (inside for node in ast.walk(statement) if _is_name(node))


def test_there_are_files_to_read_and_schemes_to_look_for() -> None:
    assert len(list(sources())) > 60
    assert len(SCHEMES) >= 3


def test_nothing_outside_compares_a_schemes_name_or_branches_on_it() -> None:
    assert {name: found for name, tree in sources(FIGURES) if (found := list(branches(tree)))} == {}
    figures = [each for name, tree in sources() if name.startswith(FIGURES) for each in branches(tree)]
    assert [each for each in figures if any(f"'{name}'" in each for name in SCHEMES)] == []


def test_names_stand_outside_only_as_defaults_and_as_a_commands_own() -> None:
    assert {(file, inside) for file, tree in sources() for inside in names(tree)} == NAMED


@pytest.mark.parametrize(
    "source",
    [
        'if manifest.scheme == "ckks": pass',
        'blind = plan.scheme in ("ckks", "ckks-shared")',
        'x = 1 if "masked" != name else 2',
        "if plan.scheme == BLIND: pass",
        "if scheme is OTHER: pass",
        "if scheme.name == OTHER: pass",
        'match name:\n    case "ckks-shared": pass',
        "match manifest.scheme:\n    case Blind.name: pass",
        'if scheme.startswith("ckks"): pass',
        "PHASES[manifest.scheme]",
        'PHASES["masked"]',
        'PHASES.get("masked")',
    ],
)
def test_the_reader_sees_every_way_to_branch(source: str) -> None:
    assert len(list(branches(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "scheme = scheme_named(plan.scheme)",
        "if SHARED_KEY in scheme.needs: pass",
        "scheme in policy.schemes",
        "a.scheme != b.scheme",
    ],
)
def test_the_reader_lets_pass_what_every_scheme_is_asked(source: str) -> None:
    assert list(branches(ast.parse(source))) == []
