"""Where a passphrase comes from: a file, or a terminal that does not show it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keys.errors import DamagedFile, KeyFileError
from keys.files import read_private
from keys.keyfile import is_sealed
from keys.params import PASSPHRASE_LIMIT

FromFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="Read the passphrase from this file (mode 0600).")
]
Ask = Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase to seal the key file with.")]


def read_passphrase_file(path: Path) -> str:
    """The passphrase in the file, without the line's end. Raises KeyFileError."""
    try:
        text = read_private(path, PASSPHRASE_LIMIT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not text in UTF-8", "write the passphrase as one line") from error
    line = text.removesuffix("\n").removesuffix("\r")
    if not line or "\n" in line:
        raise DamagedFile(f"{path} does not hold one line", "write the passphrase as one line")
    return line


def new_passphrase(file: Path | None, ask: bool) -> str | None:
    """The passphrase for a new key file, or None for none. Raises KeyFileError."""
    if file is not None:
        return read_passphrase_file(file)
    if not ask:
        return None
    if not sys.stdin.isatty():
        raise KeyFileError("there is no terminal to ask for a passphrase", "give --passphrase-file FILE instead")
    answer: str = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def passphrase_for(key_file: Path, file: Path | None) -> str | None:
    """The passphrase for an existing key file: from `file`, or asked for if it is sealed and one can ask."""
    if file is not None:
        return read_passphrase_file(file)
    if not is_sealed(key_file) or not sys.stdin.isatty():
        return None
    answer: str = typer.prompt(f"Passphrase of {key_file}", hide_input=True, err=True)
    return answer
