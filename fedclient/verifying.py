"""What `verify-round` prints at the server and at a site: a few lines for each round, a bar while it works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fedclient.audit import ANOTHER_COPY, AuditError, Fixed, OpeningOf, VectorsOf, Verified, no_opening, verify
from fedclient.transcript import MANIFEST, Transcript
from keys.public import read_roster
from secagg.identity import fingerprint

ALL: Final = "all"
SITE_STATE: Final = "state"  # as in fedclient.store, which the server does not load


def show_fixed(fixed: Fixed, root: str) -> None:
    """The session, its roster and its root. root: what is known of the root's key."""
    manifest, roster = fixed.manifest, fixed.roster
    typer.echo(f"session {manifest.digest().hex()}: {manifest.scheme}, {len(manifest.sites)} sites")
    typer.echo(f"roster  {roster.digest().hex()}: {roster.consortium}, epoch {roster.epoch}")
    typer.echo(f"root    {fingerprint(roster.root_key)}, {root}")


def session_in(home: Path, prefix: str) -> Path:
    """The folder of a site's only session, or of the one whose id begins so. Raises AuditError."""
    folders = sorted(path.parent for path in (home / SITE_STATE).glob(f"*/{MANIFEST}"))
    found = [folder for folder in folders if folder.name.startswith(prefix.lower())]
    if len(found) != 1:
        what = f"{len(found)} sessions" if found else "no session"
        begins = f" whose id begins with {prefix}" if prefix else ""
        known = ", ".join(folder.name[:16] for folder in folders)
        remedy = f"give --session with one of {known}" if folders else "give the folder that `fedkeys init` made"
        raise AuditError(f"{home} holds {what}{begins}", remedy)
    return found[0]


def require_session(transcript: Transcript, fixed: Fixed) -> None:
    """Raises AuditError unless the manifest is the one of the session that the folder is named after."""
    if fixed.manifest.digest().hex() != transcript.folder.name:
        raise AuditError(
            f"the manifest in {transcript.folder} is of another session",
            f"the file or the folder's name was changed: {ANOTHER_COPY}",
        )


def require_roster_in(path: Path, fixed: Fixed) -> None:
    """Raises AuditError unless the session's roster is the one in this file, KeyFileError if that is none."""
    if read_roster(path).digest() != fixed.roster.digest():
        raise AuditError(
            f"the session's roster (epoch {fixed.roster.epoch}) is not the one in {path}",
            "give the roster of that session's time; if it is, the session was held with other sites' keys",
        )


def rounds_named(named: str, transcript: Transcript) -> range:
    """The rounds that N means. Raises BadParameter, or AuditError if they are not there."""
    count = transcript.rounds()
    if named != ALL and not (named.isascii() and named.isdigit() and int(named) > 0):
        raise typer.BadParameter(f"give the number of a round, or {ALL}", param_hint="N")
    if not count or (named != ALL and int(named) > count):
        what = "a round" if named == ALL else f"round {int(named)}"
        remedy = f"choose one of 1 to {count}, or {ALL}" if count else "verify a session that has finished a round"
        raise AuditError(f"{transcript.folder} does not hold {what}", remedy)
    return range(1, count + 1) if named == ALL else range(int(named), int(named) + 1)


@dataclass(frozen=True, slots=True)
class Shown:
    """Of all rounds that were verified."""

    is_whole: bool  # every survivor's vector was there
    is_read: bool  # every sum was read, and so every adapter made again


def verify_and_show(
    transcript: Transcript, fixed: Fixed, rounds: range, vectors_of: VectorsOf, opening_of: OpeningOf = no_opening
) -> Shown:
    """Verifies the rounds and prints each. Raises AuditError."""
    is_whole = is_read = True
    if rounds.start > 1:
        typer.echo(
            f"rounds before {rounds.start} are checked as a site checks them; `{ALL}` makes their sums again too"
        )
    with _Bar(rounds, vectors_of) as bar:
        for verified in verify(transcript, fixed, rounds, vectors_of, opening_of, bar.step):
            with bar.hidden():
                typer.echo("\n".join(lines_of(verified)))
            is_whole = is_whole and not verified.audit.missing
            is_read = is_read and verified.is_recomputed
    return Shown(is_whole, is_read)


def lines_of(verified: Verified) -> list[str]:
    """The round in words and digests."""
    audit = verified.audit
    survivors, projected = len(audit.survivors), len(audit.projected)
    here = survivors - len(audit.missing)
    return [
        f"round {verified.round}, attempt {verified.attempt}: {survivors} survivors: {', '.join(audit.survivors)}",
        f"  record      {audit.signatures} signatures on the survivors (quorum {verified.quorum}), "
        f"{audit.secrets} secrets as committed",
        f"  vectors     {here} of {survivors} are here{', as their sites signed them' if here else ''}",
        f"  projections {_projections(audit.missing, projected)}",
        f"  sum         {_sum(audit.wrong_words, audit.words)}",
        f"  transcript  {audit.transcript.hex()}",
        f"  adapter     {_adapter(verified)}",
    ]


def _adapter(verified: Verified) -> str:
    if verified.adapter is None:
        return "not known here: only sites can read the sum, and no later record names the adapter"
    if verified.is_recomputed:
        return verified.adapter.hex()
    word = f"the word of round {verified.round + 1}'s survivors, not recomputed: only sites can read the sum"
    return f"{verified.adapter.hex()}, {word}"


def _projections(missing: tuple[str, ...], projected: int) -> str:
    if missing:
        return f"{projected} signed; whether each is of its site's vector takes the vectors"
    return f"{projected} signed, each of its site's vector"


def _sum(wrong_words: int | None, words: int) -> str:
    if wrong_words is None:
        return f"checked against the survivors' signed projections only: {words:,} words"
    return f"that of the vectors in all {words:,} words"


class _Bar:
    """A bar on stderr over rounds and vectors, where that is a terminal."""

    def __init__(self, rounds: range, vectors_of: VectorsOf) -> None:
        console = Console(stderr=True)
        parts = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f}")
        self._progress = Progress(
            *parts, console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
            disable=not console.is_terminal,
        )  # fmt: skip
        total = rounds.stop - 1 + sum(len(vectors_of(each).sites()) for each in rounds)
        self._task = self._progress.add_task("verifying", total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, about: str) -> None:
        """One more piece of work begins."""
        self._progress.update(self._task, description=about, advance=1)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leaves the terminal to what is printed."""
        self._progress.stop()
        yield
        self._progress.start()
