"""How the report writes numbers: rounded to what they are worth, each with its unit, never as NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

MINUTE_S, HOUR_S = 60.0, 3600.0
NOTHING: Final = "not measured"
NONE: Final = "–"  # where a figure does not apply
_TIMES = ((1e-6, "ns", 1e9), (1e-3, "µs", 1e6), (1.0, "ms", 1e3), (2 * MINUTE_S, "s", 1.0), (2 * HOUR_S, "min", 1 / 60))
_SIZES = ((1e3, "B", 1.0), (1e6, "kB", 1e-3), (1e9, "MB", 1e-6), (1e12, "GB", 1e-9))
_COUNTS = ((1e6, "", 1.0), (1e9, " million", 1e-6))


def digits(number: float, significant: int = 3) -> str:
    """The number with so many significant digits; one below a thousandth like 4.58e-5.

    Raises ValueError for NaN and infinities: no figure may be one.
    """
    if not math.isfinite(number):
        raise ValueError(f"{number} is no figure")
    if number == 0:
        return "0"
    number = rounded(number, significant)
    if abs(number) < 1e-3:
        mantissa, _, exponent = f"{number:.{significant - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    places = max(0, significant - 1 - math.floor(math.log10(abs(number))))
    return f"{number:,.{places}f}"


def rounded(number: float, significant: int = 3) -> float:
    """To so many significant digits."""
    return float(f"{number:.{significant}g}")


def seconds(time_s: float | None) -> str:
    """Like 310 ms, 1.25 s or 3.4 min."""
    if time_s is None:
        return NOTHING
    if time_s == 0:
        return "0 s"
    near = rounded(abs(time_s))
    unit, scale = next(((unit, scale) for below, unit, scale in _TIMES if near < below), ("h", 1 / HOUR_S))
    return f"{digits(time_s * scale)} {unit}"


def size(count: float | None) -> str:
    """Like 830 B or 2.7 MB; a MB is 10^6 bytes."""
    if count is None:
        return NOTHING
    unit, scale = next(((unit, scale) for below, unit, scale in _SIZES if rounded(abs(count)) < below), ("TB", 1e-12))
    return f"{digits(count * scale)} {unit}"


def count(number: int | float | None) -> str:
    """Like 500,000, 41.9 million or 7.62 billion."""
    if number is None:
        return NOTHING
    unit, scale = next(((unit, scale) for below, unit, scale in _COUNTS if number < below), (" billion", 1e-9))
    if not unit:
        return f"{number:,.0f}"
    text = digits(number * scale)
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"


def ratio(number: float | None) -> str:
    """Like 1.34x or 120x."""
    return NOTHING if number is None else f"{digits(number)}x"


def percent(share: float | None) -> str:
    """Like 4.7 %; a share below a thousandth is written as less than that."""
    if share is None:
        return NOTHING
    if share == 0:
        return "0 %"
    return "under 0.1 %" if 0 < share < 1e-3 else f"{digits(100 * share, 2)} %"


def spread(times: Sequence[float] | None, write: Callable[[float], str] = seconds) -> str:
    """The middle and, if there are several, the least and the most: 1.25 s (1.19 to 1.31 s)."""
    if not times:
        return NOTHING
    middle = str(write(median(times)))
    if len(times) == 1:
        return middle
    least, most = str(write(min(times))), str(write(max(times)))
    if least == most:
        return middle
    if least.split(" ")[1:] == most.split(" ")[1:] and " " in least:
        least = least.split(" ", maxsplit=1)[0]
    if least.endswith("x"):
        least, most = least[:-1], most[:-1]
    return f"{middle} ({least} to {most})"


def middle(numbers: Sequence[float] | None) -> float | None:
    """The median, or None of nothing."""
    return float(median(numbers)) if numbers else None
