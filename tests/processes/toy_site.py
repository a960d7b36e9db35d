"""A site's process whose learner is a fixed function of site and round, so that the right sum is known.

Everything else is fedclient's own: keys, policy, store, agent, TLS. Usage: toy_site.py HOME SERVER CA ROSTER OUT
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedclient.cli import _serve, only_agent
from fedclient.site import Site
from keys.pin import accept_roster
from keys.store import load_site
from secagg.config import Policy
from secagg.vector import Vector
from tests.federation.direct import ToyLearner

TRAIN_S = 0.3


@dataclass
class SavingLearner(ToyLearner):
    """Trains for a moment and writes the final adapter as raw float32."""

    out: Path = Path()

    def train(self, adapter: Vector, round_: int):  # type: ignore[no-untyped-def]
        time.sleep(TRAIN_S)
        return super().train(adapter, round_)

    def save(self, adapter: Vector) -> None:
        np.asarray(adapter, "<f4").tofile(self.out)


def main(home: Path, server: str, ca: Path, roster: Path, out: Path) -> None:
    keys = load_site(home)
    with only_agent(home):
        listed = accept_roster(keys, roster, int(time.time()))
        learner = SavingLearner(keys.name, out=out)
        now = lambda: int(time.time())  # noqa: E731
        site = Site(home, keys.keys, keys.state_key, listed, Policy(), learner, os.urandom, now)
        _serve(site, keys, server, ca, 60.0)


if __name__ == "__main__":
    paths = sys.argv[1:]
    main(Path(paths[0]), paths[1], Path(paths[2]), Path(paths[3]), Path(paths[4]))
