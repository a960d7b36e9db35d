"""Renders the overhead report from what pytest-benchmark saved.

python -m benchmarks.report .benchmarks/latest.json --out out/report [--compare OLDER.json]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.models import model_table
from fedserver.overhead.run import Run, from_benchmarks
from fedserver.overhead.write import report_of, write_report
from fedserver.plan import ServerError
from keys.console import new_app, run

app: Final = new_app("Render the overhead report from what pytest-benchmark saved.")


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="What `pytest --benchmark-json` wrote.")],
    out: Annotated[Path, typer.Option(help="The folder for report.html, report.md, overhead.json and figures.")],
    compare: Annotated[Path | None, typer.Option(help="An older file, to tell what got slower since.")] = None,
) -> None:
    """Write the report and print where its page is."""
    older = None if compare is None else load(compare)
    typer.echo(str(write_report(report_of(load(file), older), out)))


def load(file: Path) -> Run:
    """The run that a file describes. Raises ServerError."""
    try:
        saved: dict[str, Any] = json.loads(file.read_bytes())
        found = from_benchmarks(saved)
        return from_benchmarks(saved, model_table(list(found.records)))
    except OSError as error:
        raise ServerError(
            f"cannot read {file}: {error.strerror}", "give a file that `make bench` has written"
        ) from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ServerError(f"{file} holds no run: {error}", "give a file that `make bench` has written") from None


if __name__ == "__main__":
    run(app, "benchmarks.report", failures=lambda: (ServerError,))
