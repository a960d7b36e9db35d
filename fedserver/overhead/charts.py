"""Figures by matplotlib: readable in greyscale, each in PNG and SVG, and as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from fedserver.overhead.blocks import Bars, Curve, Curves, Figure
from fedserver.overhead.units import count, digits
from fedserver.plan import ServerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing
    from matplotlib.typing import RcKeyType

INK: Final = "#1b1f24"  # text, axes, hatches
FAINT: Final = "#d9dce1"  # grid
PAPER: Final = "#fefefe"
COLOURS: Final = (  # of lines: on a light page, on a dark one; told apart by marker and dash as well
    ("#3b73b9", "#7fb0ea"), ("#e08a1e", "#f0b060"), ("#35876b", "#6cc5a3"), ("#b5476c", "#e88bab"),
    ("#7a62b3", "#b5a2e6"), ("#9aa02c", "#cdd35f"), ("#4d9fb8", "#86d0e6"), ("#8a6d58", "#c4a78f"),
    ("#72777f", "#aab0b9"),
)  # fmt: skip
FILLS: Final = (  # of bars, under a hatch in the colour of the text; neighbours differ in lightness
    ("#3c74ba", "#5b93d9"), ("#f6cf95", "#8a5a14"), ("#7cc4a8", "#2c6e56"), ("#f7e3ea", "#5c2b3c"),
    ("#a48fd6", "#5a4592"), ("#f1f2bd", "#565a1a"), ("#9dd2e4", "#23566a"), ("#cfae94", "#6b4a33"),
    ("#e4e6ea", "#3d434c"), ("#c2c6cd", "#565d68"), ("#efe3d3", "#4a3a24"), ("#aebfdd", "#34527f"),
)  # fmt: skip
THEME: Final = {INK: "--ink", FAINT: "--line", PAPER: "--paper"} | {
    light: f"--c{place}" for place, (light, _) in enumerate((*COLOURS, *FILLS))
}  # colour in a figure -> the page's variable
_HATCHES: Final = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "||||", "oo", "++++", "", "//", "**")
_MARKERS: Final = "os^DvPX*h"
_DASHES: Final = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (7, 3)), (0, (2, 1)))
CUT: Final = 4.0  # times the next bar
_WIDTH_IN: Final = 4.6  # about a phone's width at a readable size
_DPI: Final = 200


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure. inline: SVG for inside the page, in its colours."""

    png: bytes
    svg: bytes
    inline: str


def draw(figure: Figure) -> Drawn:
    """Draws it. Raises ServerError if matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        problem = "the report's figures need matplotlib, which is not installed"
        raise ServerError(problem, "install it: python -m pip install 'secagg-lora[report]'") from None
    style: dict[RcKeyType, Any] = {
        "font.size": 9.5, "font.family": ["DejaVu Sans", "sans-serif"], "svg.fonttype": "none",
        "svg.hashsalt": figure.name, "hatch.linewidth": 0.7, "axes.linewidth": 0.8, "text.parse_math": False,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.facecolor": "none", "figure.facecolor": PAPER, "legend.frameon": False, "legend.fontsize": 8.5,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": FAINT,
    }  # fmt: skip
    with mpl.rc_context(style):
        drawing = Drawing(figsize=(_WIDTH_IN, _height(figure)), layout="constrained")
        if isinstance(figure, Bars):
            _draw_bars(drawing, figure)
        else:
            _draw_curves(drawing, figure)
        svg = _saved(drawing, "svg", metadata={"Date": None, "Creator": None})
        bare = _saved(drawing, "svg", metadata={"Date": None, "Creator": None}, transparent=True)
        png = _saved(drawing, "png", dpi=_DPI, metadata={"Software": None})
    return Drawn(png, svg, _inline(bare.decode(), figure))


def _height(figure: Figure) -> float:
    if isinstance(figure, Bars):
        return 1.0 + 0.34 * len(figure.bars) + 0.2 * -(-len(figure.labels) // 3)
    return 3.0 + 0.19 * len(figure.curves)


def _saved(drawing: Drawing, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _draw_bars(drawing: Drawing, figure: Bars) -> None:
    axes = drawing.add_subplot()
    starts = [0.0] * len(figure.bars)
    places = range(len(figure.bars))
    for part, label in enumerate(figure.labels):
        widths = [parts[part] for parts in figure.parts]
        axes.barh(
            places, widths, left=starts, label=label, color=FILLS[part % len(FILLS)][0], edgecolor=INK,
            linewidth=0.6, hatch=_HATCHES[part % len(_HATCHES)], height=0.62,
        )  # fmt: skip
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    longest = _longest_whole(starts)
    for place, total in zip(places, starts, strict=True):
        if total > longest:
            _annotate_cut(axes, digits(total), place)
        else:
            axes.annotate(digits(total), (total, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(list(places), figure.bars)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, longest * 1.14)
    axes.set_xlabel(figure.axis)
    axes.grid(axis="x")
    drawing.legend(loc="outside lower center", ncols=3, handlelength=2.2, handleheight=1.2, columnspacing=1.2)


def _longest_whole(totals: Sequence[float]) -> float:
    """The longest bar that is drawn whole: one many times as long as the next would hide the others' parts."""
    longest, *others = sorted(totals, reverse=True)
    return others[0] if others and longest > CUT * others[0] > 0 else longest


def _annotate_cut(axes: Axes, text: str, place: int) -> None:
    """An arrow at the edge, with the length of a bar that goes on beyond it."""
    arrow = {"boxstyle": "rarrow,pad=0.25", "facecolor": PAPER, "edgecolor": INK, "linewidth": 0.6}
    axes.annotate(text, (1, place), xycoords=axes.get_yaxis_transform(), xytext=(-10, 0), textcoords="offset points",
                  ha="right", va="center", bbox=arrow)  # fmt: skip


def _draw_curves(drawing: Drawing, figure: Curves) -> None:
    axes = drawing.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for place, curve in enumerate(figure.curves):
        _draw_curve(axes, curve, place)
    _plain_ticks(axes, figure.curves)
    axes.set_xlabel(figure.across)
    axes.set_ylabel(figure.up)
    axes.grid(which="major")
    drawing.legend(loc="outside lower center", ncols=1, handlelength=3.2)


def _draw_curve(axes: Axes, curve: Curve, place: int) -> None:
    colour, dash = COLOURS[place % len(COLOURS)][0], _DASHES[place % len(_DASHES)]
    marker = _MARKERS[place % len(_MARKERS)]
    points = sorted((*curve.measured, *curve.guessed))
    draw_line = partial(axes.plot, color=colour, linewidth=1.4)
    label = curve.label if curve.fit is None else f"{curve.label}: grows with exponent {curve.fit[1]:.2f}"
    if curve.fit is not None:
        factor, exponent = curve.fit
        ends = (points[0][0], points[-1][0])
        draw_line(ends, [factor * x**exponent for x in ends], linestyle=dash)
    axes.plot(*zip(*curve.measured, strict=True), linestyle="", marker=marker, color=colour, markersize=5.5,
              markeredgecolor=INK, markeredgewidth=0.5) if curve.measured else None  # fmt: skip
    if curve.guessed:
        axes.plot(*zip(*curve.guessed, strict=True), linestyle="", marker=marker, markerfacecolor="none",
                  markeredgecolor=colour, markersize=5.5)  # fmt: skip
    if curve.fit is None:
        draw_line(*zip(*points, strict=True), linestyle=dash)
    draw_line([], [], linestyle=dash, marker=marker, markersize=5.5, markeredgecolor=INK, markeredgewidth=0.5,
              label=label)  # fmt: skip


def _plain_ticks(axes: Axes, curves: Sequence[Curve]) -> None:
    """Numbers as people write them, at every size that was measured if there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    sizes = sorted({x for curve in curves for x, _ in (*curve.measured, *curve.guessed)})
    if len(sizes) <= 6 and all(second / first > 1.6 for first, second in pairwise(sizes)):
        axes.set_xticks(sizes)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: _short(number)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: digits(number, 1)))
    low, high = axes.get_ylim()
    if high / low < 300:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())


def _short(number: float) -> str:
    return count(number) if number < 1e5 else f"{number / 1e6:.3g} M"


def _inline(svg: str, figure: Figure) -> str:
    """The SVG without its prologue, with ids of its own, a text for who cannot see it, and the page's colours."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    own = f"{figure.name}-"
    svg = re.sub(r'\bid="', f'id="{own}', svg)
    svg = svg.replace("url(#", f"url(#{own}").replace('href="#', f'href="#{own}')
    for colour, variable in THEME.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"'?DejaVu Sans'?", "system-ui", svg)
    head = re.compile(r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>', re.DOTALL)
    opening = f'<svg role="img" aria-label="{escape(figure.alt)}" viewBox="\\1" xmlns="http://www.w3.org/2000/svg" '
    return head.sub(opening + 'xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1)
