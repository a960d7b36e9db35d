"""A fedserver whose rounds wait for their turn, and that also knows the scheme without protection.

python -m benchmarks.server ...

Its options are fedserver's. Flower loads the ServerApp in a process of its own: it finds it here, and so the scheme
and the turns are known there too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import fedserver.app
from benchmarks import plaintext
from benchmarks.turns import VARIABLE, Turns
from fedserver import cli, supervise
from fedserver.app import app
from fedserver.federation import Federation
from secagg.config import Manifest

__all__ = ["app"]

APP: Final = "benchmarks.server:app"


class FederationInTurn(Federation):
    """A federation that waits before each round; the time of a round begins after the wait."""

    def _round(self, manifest: Manifest, round_: int) -> None:
        Turns(Path(os.environ[VARIABLE])).await_turn(round_)
        super()._round(manifest, round_)


plaintext.register()
fedserver.app.Federation = FederationInTurn  # type: ignore[attr-defined]


def main() -> None:
    """Runs fedserver, which names this module as the home of its ServerApp."""
    supervise.SERVER_APP = APP  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
