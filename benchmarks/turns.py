"""How several federations take turns: a server begins a round only once the file it watches says that it may."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LOOK_S: Final = 0.01
VARIABLE: Final = "BENCHMARK_TURNS"  # the environment of a server: the file that it watches


@dataclass(frozen=True, slots=True)
class Turns:
    """The file that holds how many rounds may begin."""

    path: Path

    def allow(self, rounds: int) -> None:
        """Lets the round of this number begin, and those before it."""
        beside = self.path.with_suffix(".new")
        beside.write_text(str(rounds))
        beside.replace(self.path)

    def await_turn(self, round_: int) -> None:
        """Returns once the round may begin."""
        while self._allowed() < round_:
            time.sleep(LOOK_S)

    def _allowed(self) -> int:
        return int(self.path.read_text()) if self.path.exists() else 0


def note(path: Path, event: dict[str, Any]) -> None:
    """Appends a line to a journal of fedserver's form."""
    with path.open("a") as file:
        file.write(json.dumps(event) + "\n")
