"""A site's process that trains nothing, for timing the protocol alone: keys, policy, store, agent and TLS are real.

python -m benchmarks.toy_site HOME SERVER CA ROSTER SIZE
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.consortium import update_of
from fedclient.cli import _serve, only_agent
from fedclient.site import Facts, Site
from keys.pin import accept_roster
from keys.store import load_site
from secagg.config import Policy
from secagg.initial import initial_adapter
from secagg.session import Metrics
from secagg.vector import Layout, Vector

RANK, MODULES = 8, 10
PATIENCE_S = 60.0


def layout_of(size: int) -> Layout:
    """`size` values as LoRA factors of ten square modules; a multiple of 160."""
    side = size // (2 * MODULES * RANK)
    tensors = [(f"m{number}.lora_A.weight", (RANK, side)) for number in range(MODULES)]
    tensors += [(f"m{number}.lora_B.weight", (side, RANK)) for number in range(MODULES)]
    return Layout(tuple(sorted(tensors)))


@dataclass
class InstantLearner:
    """Implements `fedclient.site.Learner`; its updates were made beforehand."""

    layout: Layout

    def __post_init__(self) -> None:
        self._update = update_of(self.layout.size)

    def prepare(self, settings: dict[str, str], nonce: bytes) -> Facts:
        """Facts of a model that does not exist."""
        values = initial_adapter(self.layout, nonce)
        return Facts(bytes(32), bytes(32), bytes(32), self.layout, values)

    def train(self, adapter: Vector, round_: int) -> tuple[Vector, Metrics]:
        """The same update every round."""
        return self._update.values, self._update.metrics

    def save(self, adapter: Vector) -> None:
        """Keeps nothing."""


def main(home: Path, server: str, ca: Path, roster: Path, size: int) -> None:
    """Serves until the session is over."""
    keys = load_site(home)
    learner = InstantLearner(layout_of(size))
    with only_agent(home):
        listed = accept_roster(keys, roster, int(time.time()))
        site = Site(
            keys.home, keys.keys, keys.state_key, listed, Policy(), learner, os.urandom, lambda: int(time.time())
        )
        _serve(site, keys, server, ca, PATIENCE_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
