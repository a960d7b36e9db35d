"""The report as Markdown, for an issue or a mail; folded tables are left to overhead.json."""

from __future__ import annotations

import re
from typing import Final

from fedserver.overhead.blocks import Bars, Block, Curves, Points, Report, Table, Text

FIGURES: Final = "figures"  # the folder, beside the file
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#])")


def to_markdown(report: Report) -> str:
    """The whole text."""
    parts = [f"# {_escaped(report.title)}", _escaped(report.about)]
    for section in report.sections:
        parts.append(f"## {_escaped(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return _escaped(block.text)
    if isinstance(block, Points):
        signs = (f"{place}." if block.numbered else "-" for place in range(1, len(block.points) + 1))
        return "\n".join(f"{sign} {_escaped(each)}" for sign, each in zip(signs, block.points, strict=True))
    if isinstance(block, Table):
        return "" if block.folded else _table(block)
    if isinstance(block, Bars | Curves):
        return f"![{_escaped(block.alt)}]({FIGURES}/{block.name}.svg)\n\n{_escaped(block.caption)}"
    raise TypeError(type(block).__name__)


def _table(table: Table) -> str:
    rules = ("---:" if place in table.numeric else "---" for place in range(len(table.headings)))
    rows = [table.headings, *table.rows]
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    lines.insert(1, f"| {' | '.join(rules)} |")
    return f"{_escaped(table.caption)}\n\n" + "\n".join(lines)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
