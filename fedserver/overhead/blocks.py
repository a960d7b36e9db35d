"""What a report is made of, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Points:
    """A list, one short line each; `numbered` where the order says something."""

    points: tuple[str, ...]
    numbered: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings. numeric: columns that are set flush right.

    folded: shown only when the reader asks for it; left out of the Markdown, for it is in overhead.json.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    folded: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.headings) for row in self.rows):
            raise ValueError("a row is not as long as the headings")


@dataclass(frozen=True, slots=True)
class Bars:
    """Stacked bars, one a row: parts[i][j] is part j of bar i, in `unit`; a part that is 0 is not drawn."""

    name: str  # of its files
    caption: str
    alt: str  # what it shows, for who cannot see it
    bars: tuple[str, ...]
    labels: tuple[str, ...]
    parts: tuple[tuple[float, ...], ...]
    axis: str  # what is counted, with its unit


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one line; `guessed` ones were extrapolated, `fit` is (factor, exponent) of factor * x**exponent."""

    label: str
    measured: tuple[tuple[float, float], ...]
    guessed: tuple[tuple[float, float], ...] = ()
    fit: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Curves:
    """A chart with two logarithmic axes."""

    name: str
    caption: str
    alt: str
    curves: tuple[Curve, ...]
    across: str  # the horizontal axis, with its unit
    up: str


Figure = Bars | Curves
Block = Text | Points | Table | Bars | Curves


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    key: str  # letters and hyphens; the anchor in the page
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """The whole page. plain: overhead.json."""

    title: str
    about: str
    sections: Sequence[Section]
    plain: dict[str, object] = field(repr=False)

    def figures(self) -> list[Figure]:
        """Every figure, in order."""
        return [each for section in self.sections for each in section.blocks if isinstance(each, Figure)]


def once(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The rows, without a first cell that says what the one above says."""
    above = [("",), *rows]
    return tuple(("", *row[1:]) if row[0] == before[0] else row for before, row in zip(above, rows, strict=False))
