"""Writes a report's folder: report.html, report.md, overhead.json and figures/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fedserver.overhead.blocks import Report
from fedserver.overhead.charts import draw
from fedserver.overhead.compare import compare
from fedserver.overhead.markdown import FIGURES, to_markdown
from fedserver.overhead.overview import overview
from fedserver.overhead.page import to_html
from fedserver.overhead.run import Run
from fedserver.overhead.sections import sections
from fedserver.plan import ServerError

PAGE: Final = "report.html"
_TITLES: Final = {
    "benchmarks": "What secure aggregation costs",
    "session": "What secure aggregation cost in this federation",
}


def report_of(run: Run, older: Run | None = None) -> Report:
    """The report of a run; with an older run, what changed since."""
    comparison = None if older is None else compare(run, older)
    about = "; ".join(
        run.facts[name]
        for name in ("taken", "processor", "session", "scheme", "caution", "profile")
        if name in run.facts
    )
    return Report(_TITLES[run.kind], about, sections(run, comparison), overview(run, comparison))


def write_report(report: Report, out: Path) -> Path:
    """Writes the folder and gives the page's path. Raises ServerError."""
    drawn = {each.name: draw(each) for each in report.figures()}
    files = {
        PAGE: to_html(report, drawn).encode(),
        "report.md": to_markdown(report).encode(),
        "overhead.json": json.dumps(report.plain, indent=1, allow_nan=False).encode() + b"\n",
    }
    for name, each in drawn.items():
        files |= {f"{FIGURES}/{name}.png": each.png, f"{FIGURES}/{name}.svg": each.svg}
    try:
        (out / FIGURES).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        raise ServerError(f"cannot write {out}: {error.strerror}", "choose another --out") from None
    return out / PAGE
