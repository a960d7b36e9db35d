"""How our commands speak: results on stdout, notices on stderr, an error in two lines, exit 1 or 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final, Never

import click
import typer

from keys.errors import KeyFileError

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


def new_app(about: str) -> typer.Typer:
    """An empty command, or group of commands, in our manners."""
    return typer.Typer(help=about, add_completion=False, no_args_is_help=True, rich_markup_mode="rich")


def notice(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    typer.echo(text, err=True)


def run(
    app: typer.Typer,
    program: str,
    arguments: Sequence[str] | None = None,
    *,
    failures: Callable[[], tuple[type[Exception], ...]] = lambda: (KeyFileError,),
    interrupted: tuple[str, str] = ("interrupted, nothing was made", "run the command again"),
) -> Never:
    """Runs the command and ends the process; a failure (exit 1) or misuse (2) prints two lines on stderr.

    failures: error types with `problem` and `remedy`, asked for once there is an error: a command that only shows
    its help need not load them. interrupted: the two lines for Ctrl-C.
    """
    try:
        status = typer.main.get_command(app).main(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name=program,
            standalone_mode=False,
        )
    except click.exceptions.NoArgsIsHelpError:  # the help is on the terminal already
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else program
        _fail(error.format_message(), f"see: {where} --help", 2)
    except (click.Abort, KeyboardInterrupt):
        _fail(*interrupted, 1)
    except failures() as error:
        _fail(getattr(error, "problem", str(error)), getattr(error, "remedy", "run the command again"), 1)
    if status == INTERRUPTED:  # typer's word for Ctrl-C
        _fail(*interrupted, INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(problem: str, remedy: str, status: int) -> Never:
    notice(" ".join(f"error: {problem}".split()).rstrip("."))
    notice(" ".join(remedy.split()))
    sys.exit(status)
