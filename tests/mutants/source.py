"""Which defences a source file has that can be taken away one by one: its raises, and the parts of their conditions.

A *raise* is a statement that refuses. A *condition* is one part of what leads to it: one of several joined by `and`
or `or`, one half of `a <= b <= c`, or a comparison of sizes. The former are left out, the latter moved by one step;
either way more passes, never less.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KINDS = ("raises", "conditions")


@dataclass(frozen=True)
class Edit:
    """One piece of a source text and what takes its place."""

    start: int
    end: int
    replacement: str

    def apply(self, text: str) -> str:
        """The text with the piece replaced."""
        return text[: self.start] + self.replacement + text[self.end :]


def edits_of(kind: str, text: str) -> dict[str, Edit]:
    """Every edit of the kind that the source text has room for, by a name that people recognise.

    A name that occurs again gets ' #2', ' #3', in the order of the file.
    """
    source = _Source(text)
    found: dict[str, Edit] = {}
    for name, edit in _FINDERS[kind](source):
        again, unique = 1, name
        while unique in found:
            again += 1
            unique = f"{name} #{again}"
        found[unique] = edit
    return found


class _Source:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._starts = [0]
        for line in text.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._lines = text.splitlines()

    def at(self, line: int, column: int) -> int:
        """The offset of a position that `ast` gives: its columns count bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where the node begins and ends."""
        start = self.at(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return start, self.at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def of(self, node: ast.AST) -> str:
        """The node's own text, on one line."""
        start, end = self.span(node)
        return " ".join(self.text[start:end].split())

    def in_order(self, kind: type[ast.AST]) -> list[ast.AST]:
        """Every node of that type, in the order of the file."""
        return sorted((each for each in ast.walk(self.tree) if isinstance(each, kind)), key=self.span)

    def guards(self) -> Iterator[ast.expr]:
        """The conditions that lead straight to a raise."""
        for node in self.in_order(ast.If):
            assert isinstance(node, ast.If)
            if any(isinstance(each, ast.Raise) for each in node.body):
                yield node.test


# ---------------------------------------------------------------------- raises


def _raises(source: _Source) -> Iterator[tuple[str, Edit]]:
    for node in source.in_order(ast.Raise):
        assert isinstance(node, ast.Raise)
        refusal = isinstance(node.exc, ast.Call) or (isinstance(node.exc, ast.Name) and node.exc.id.startswith("_"))
        if node.exc is not None and refusal:
            yield _message(node.exc, source), Edit(*source.span(node), "pass")


def _message(raised: ast.expr, source: _Source) -> str:
    """What the error says; its own source where that is computed."""
    for argument in raised.args if isinstance(raised, ast.Call) else ():
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return argument.value
        if isinstance(argument, ast.JoinedStr):
            return "".join(_part(each, source) for each in argument.values)
    return source.of(raised)


def _part(piece: ast.expr, source: _Source) -> str:
    if isinstance(piece, ast.Constant):
        return str(piece.value)
    assert isinstance(piece, ast.FormattedValue)
    return "{" + ast.unparse(piece.value) + "}"


# ---------------------------------------------------------------------- conditions


def _conditions(source: _Source) -> Iterator[tuple[str, Edit]]:
    for guard in source.guards():
        yield from _parts(guard, True, source)


def _parts(test: ast.expr, raises_if: bool, source: _Source, is_part: bool = False) -> Iterator[tuple[str, Edit]]:
    """The parts of a test. raises_if: the value of `test` with which the guard raises."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        smaller = list(_parts(test.operand, not raises_if, source))
    elif isinstance(test, ast.BoolOp):
        joins = isinstance(test.op, ast.Or) == raises_if
        smaller = [each for value in test.values for each in _parts(value, raises_if, source, joins)]
    elif isinstance(test, ast.Compare):
        smaller = list(_comparisons(test, raises_if, source))
    else:
        smaller = [each for item in _items_of(test) for each in _parts(item, raises_if, source)]
    if is_part and not smaller:
        yield source.of(test), Edit(*source.span(test), str(not raises_if))
    yield from smaller


def _items_of(test: ast.expr) -> Iterator[ast.expr]:
    """What `any` or `all` asks of every item."""
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id in ("any", "all"):
        for argument in test.args:
            if isinstance(argument, ast.GeneratorExp):
                yield argument.elt


def _comparisons(test: ast.Compare, raises_if: bool, source: _Source) -> Iterator[tuple[str, Edit]]:
    """Each of a <= b <= c: moved by one where it compares sizes, left out otherwise."""
    terms = [source.of(each) for each in (test.left, *test.comparators)]
    signs = [_SIGNS[type(op)] for op in test.ops]
    pairs = [f"{left} {sign} {right}" for left, sign, right in zip(terms, signs, terms[1:], strict=False)]
    steps = _WHEN_TRUE if raises_if else _WHEN_FALSE
    for number, (pair, sign) in enumerate(zip(pairs, signs, strict=True)):
        rest = [each for each in pairs if each != pair]
        if sign in steps and not _is_of_sets(test):
            left, right = (f"({each})" for each in terms[number : number + 2])
            rest.append(steps[sign].format(left, right))
        elif len(pairs) == 1:
            continue
        yield pair, Edit(*source.span(test), "(" + " and ".join(rest) + ")")


_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in",
    ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip

# One step towards letting more through: of a comparison that raises when true, and of one that raises when false.
_WHEN_TRUE = {"<": "{0} + 1 < {1}", "<=": "{0} < {1}", ">": "{0} > {1} + 1", ">=": "{0} > {1}"}
_WHEN_FALSE = {"<": "{0} <= {1}", "<=": "{0} <= {1} + 1", ">": "{0} >= {1}", ">=": "{0} + 1 >= {1}"}


def _is_of_sets(test: ast.Compare) -> bool:
    """Whether `<=` means "is a subset of": a step of one makes no sense then."""
    kinds = (ast.Set, ast.SetComp)
    return any(
        isinstance(each, kinds) or (isinstance(each, ast.Call) and ast.unparse(each.func) == "set")
        for each in (test.left, *test.comparators)
    )


_FINDERS: dict[str, Callable[[_Source], Iterator[tuple[str, Edit]]]] = {
    "raises": _raises,
    "conditions": _conditions,
}
