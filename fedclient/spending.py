"""What `fedclient report` prints: each phase's time and traffic at this site, a median over the session's rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import typer

from fedclient.settings import LocalError
from fedclient.timings import TIMINGS, Timing, kept

SHOWN: Final = {
    "open": "open the last sum", "train": "train", "advertise": "sign keys", "share": "share secrets",
    "mask": "quantise and protect", "consent": "agree on survivors", "unmask": "release shares",
    "check": "check the sum", "contribute": "quantise and encrypt",
}  # fmt: skip
TRAINING: Final = "train"


def show(home: Path, session: str) -> None:
    """Prints the table on stdout. session: in hex. Raises LocalError if nothing was recorded."""
    lines = _lines(home / TIMINGS, session)
    typer.echo(f"{'phase':<22} {'rounds':>6} {'wall s':>9} {'CPU s':>9} {'bytes up':>12} {'bytes down':>12}")
    wall, cpu = _by_phase(lines, "seconds"), _by_phase(lines, "cpu")
    for phase in (each for each in SHOWN if each in wall):
        up, down = (_traffic(lines, phase, way) for way in ("bytes_up", "bytes_down"))
        typer.echo(
            f"{SHOWN[phase]:<22} {len(wall[phase]):>6} {median(wall[phase]):>9.3f} {median(cpu[phase]):>9.3f} "
            f"{up:>12,} {down:>12,}"
        )
    spent = sum(median(times) for phase, times in cpu.items() if phase in SHOWN and phase != TRAINING)
    typer.echo(f"protection took {spent:.3f} s of CPU time a round at this site, opening included")


def _lines(file: Path, session: str) -> list[Timing]:
    try:
        lines = [each for each in kept(file) if each.session == session]
    except OSError as error:
        raise LocalError(f"cannot read {file}: {error.strerror}", "give the folder of a site that has run") from None
    if not lines:
        raise LocalError(f"{file} holds nothing of session {session[:16]}", "run a round of it first")
    return lines


def _by_phase(lines: Sequence[Timing], name: str) -> dict[str, list[float]]:
    """A number for each round in which the site did it."""
    spent: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for line in lines:
        for phase, seconds in getattr(line, name).items():
            spent[phase][line.round] += seconds
    return {phase: list(rounds.values()) for phase, rounds in spent.items()}


def _traffic(lines: Sequence[Timing], phase: str, way: str) -> int:
    """Bytes of the requests whose main work was this phase, a round's median."""
    rounds: dict[int, int] = defaultdict(int)
    for line in lines:
        if phase in line.seconds and phase != TRAINING:
            rounds[line.round] += getattr(line, way)
    return round(median(rounds.values())) if rounds else 0
